"""Effects: labels, tables, sentences, files."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

import upweight as uw
from cases import classification, regression
from upweight.influence.effects import Effects


@pytest.fixture(scope="module")
def study():
    data = regression()
    return uw.from_sklearn(Ridge(alpha=2.0).fit(data.X, data.y), data.X, data.y), data


def test_a_repr_reads_as_a_sentence(study):
    effects = study[0].drop(study[1].query)
    text = repr(effects)
    for words in (
        "predicted change in loss",
        "of 3 queries",
        "if each training point is left out",
        "leverage-corrected",
        "fixed_total",
        "dense Cholesky",
    ):
        assert words in text
    assert "first order" in repr(study[0].upweight(study[1].query))
    assert "left out" not in repr(study[0].upweight(study[1].query))


def test_ids_follow_the_user_s_index_in_rows_columns_and_which():
    data = regression()
    frame = pd.DataFrame(data.X, columns=list("abcd"), index=[f"row {i}" for i in range(40)])
    queries = pd.DataFrame(data.Xt, columns=list("abcd"), index=["x", "y", "z"])
    study = uw.from_sklearn(Ridge().fit(frame, data.y), frame, data.y)
    effects = study.drop((queries, data.yt), which=["row 7", "row 3"])
    assert effects.train_ids.tolist() == ["row 7", "row 3"] and effects.query_ids.tolist() == ["x", "y", "z"]
    plain = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y).drop(data.query)
    np.testing.assert_allclose(effects.values, plain.values[:, [7, 3]], atol=1e-14)
    assert effects.to_pandas().loc["y", "row 3"] == effects.values[1, 1]
    assert study.mislabeled(3)["train"].str.startswith("row").all()


def test_integer_ids_are_ids_and_not_positions():
    data = regression()
    study = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y, ids=np.arange(40)[::-1])
    plain = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    np.testing.assert_array_equal(study.drop(data.query, which=0).values, plain.drop(data.query, which=39).values)


def test_tables_are_tidy_and_ranked(study):
    effects = study[0].drop(study[1].query)
    table = effects.helpful(4)
    assert list(table.columns) == ["query", "rank", "train", "effect"]
    assert len(table) == 12
    for q in range(3):
        mine = table[table["query"] == q]
        order = np.argsort(-effects.values[q])[:4]
        assert mine["train"].tolist() == order.tolist() and mine["rank"].tolist() == [1, 2, 3, 4]
        np.testing.assert_array_equal(mine["effect"], effects.values[q, order])
    np.testing.assert_array_equal(effects.harmful(1)["effect"], effects.values.min(1))
    np.testing.assert_array_equal(effects.raises(1)["effect"], effects.values.max(1))
    np.testing.assert_array_equal(effects.lowers(1)["effect"], effects.values.min(1))


def test_saved_effects_come_back_the_same(study, tmp_path):
    for effects in (
        study[0].drop(study[1].query),
        study[0].drop_group(list("ab" * 20), study[1].query),
        study[0].change_penalty([0.1, uw.L2(1.0)], study[1].query),
    ):
        again = uw.load(effects.save(tmp_path / "effects.safetensors"))
        np.testing.assert_array_equal(again.values, effects.values)
        assert (
            again.query_ids.tolist() == effects.query_ids.tolist()
            and again.train_ids.tolist() == effects.train_ids.tolist()
        )
        assert repr(again) == repr(effects)


def test_a_flipped_byte_is_refused_or_changes_nothing(study, tmp_path):
    effects = study[0].drop(study[1].query)
    path = effects.save(tmp_path / "effects.safetensors")
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            np.testing.assert_array_equal(uw.load(path).values, effects.values)
        except uw.errors.StoreError:
            refused += 1
    assert refused > 0.9 * len(range(0, len(whole), 11))


def test_damaged_and_foreign_files_are_refused(study, tmp_path):
    path = study[0].drop(study[1].query).save(tmp_path / "effects.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(uw.errors.StoreError, match="damaged"):
        uw.load(path)
    with pytest.raises(uw.errors.StoreError, match="no file"):
        uw.load(tmp_path / "absent")
    from safetensors.numpy import save_file

    save_file({"values": np.zeros((1, 1))}, tmp_path / "foreign")
    with pytest.raises(uw.errors.StoreError, match="not written by this library"):
        uw.load(tmp_path / "foreign")
    with pytest.raises(uw.errors.StoreError, match="could not write"):
        study[0].drop(study[1].query).save(tmp_path / "no" / "folder")
    assert not list(tmp_path.glob(".*partial"))


def test_xarray_keeps_names_and_words(study):
    effects = study[0].drop(study[1].query)
    array = effects.to_xarray()
    assert array.dims == ("query", "train")
    np.testing.assert_array_equal(array.sel(query=1, train=7), effects.values[1, 7])
    assert array.attrs["protocol"] == "fixed_total" and array.attrs["order"] == "newton"


def test_groupby_sums_over_training_points(study):
    effects = study[0].drop(study[1].query)
    labels = np.array(list("abcd" * 10))
    grouped = effects.groupby(labels)
    assert grouped.train_ids.tolist() == list("abcd")
    np.testing.assert_allclose(grouped.values[:, 2], effects.values[:, labels == "c"].sum(1))


def test_effects_are_arrays_where_arrays_are_wanted(study):
    effects = study[0].drop(study[1].query)
    np.testing.assert_array_equal(np.asarray(effects), effects.values)
    assert len(effects) == 3


def test_ids_must_fit_the_values():
    with pytest.raises(uw.errors.ShapeError, match="one id a row"):
        Effects(
            np.zeros((2, 2)), np.arange(3), np.arange(2), "drop", "response", "loss", "nats", "first", "fixed_mean", ""
        )


def test_several_outputs_name_the_query_and_the_output():
    data = classification(classes=3)
    study = uw.from_sklearn(LogisticRegression(tol=1e-8).fit(data.X, data.y), data.X, data.y)
    effects = study.drop(data.query, measure="prediction")
    assert effects.values.shape == (12, 60)
    assert effects.query_ids[4] == (1, 1)
    logits = study.drop(data.query, measure="logit")
    np.testing.assert_allclose(logits.values, effects.values.reshape(4, 3, 60)[np.arange(4), data.yt], atol=1e-14)
