"""What happens to an index: appended to, deleted from, opened elsewhere, made of something else, damaged."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from cases import fitted_mlp
from indexes import built, every, more, network
from networks import TRAINED, relative, trained
from upweight.errors import ConfigError, CorruptStore, IndexOutOfRange, InputError, StaleStore

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")


def test_appended_rows_count_as_the_study_s_additions_with_their_sign_turned(tmp_path):
    study, query = network()
    index = built(study, tmp_path, compression="none", dtype="float64")
    index.append(more(50))
    truth = np.concatenate(
        [study.drop(query, order="first").values, -study.add(more(50), query, order="first").values], 1
    )
    assert relative(every(index, query), truth) < 1e-9
    assert index.info().appended == 50
    for how in ({"rerank": 20}, {"certified": True}):
        found = index.query(query, k=4, **how)
        for row, top in zip(truth, found.top_ids, strict=True):
            assert set(top) == set(np.argsort(-row)[:4])


def test_an_append_is_done_once_and_again_only_with_other_names(tmp_path):
    study, query = network()
    index = built(study, tmp_path)
    index.append(more(5)).append(more(5))
    assert index.info().appended == 5
    index.append(more(5), ids=[f"again {k}" for k in range(5)])
    assert index.info().appended == 10
    assert set(index.query(query, k=300).top_ids[0]) == {*range(TRAINED + 5), *(f"again {k}" for k in range(5))}
    with pytest.raises(InputError, match="again 1"):
        index.append(more(1, 4), ids=["again 1"])


def test_an_append_that_was_interrupted_does_not_count_and_another_may_take_its_place(tmp_path, monkeypatch):
    study, query = network()
    index = built(study, tmp_path)
    from upweight.store import Store

    real = Store.commit

    def dying(store, kind, start, *rest):
        if kind == "added" and start > TRAINED:
            raise KeyboardInterrupt
        return real(store, kind, start, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            index.append(more(50))
    again = uw.Index.open(tmp_path / "index", study)
    assert again.info().appended == 0
    again.query(query, k=3)
    again.append(more(45, 3))
    assert again.info().appended == 45
    assert again.verify().appended == 45
    again.append(more(50))
    assert again.info().appended == 95


def test_appended_data_are_needed_only_where_their_gradients_are_computed_again(tmp_path):
    study, query = network()
    built(study, tmp_path, compression="eigenbasis", size=300).append(more(20))
    index = uw.Index.open(tmp_path / "index", study)
    index.query(query, k=5)
    with pytest.raises(StaleStore, match="appended=data"):
        index.query(query, k=110, rerank=110)
    whole = uw.Index.open(tmp_path / "index", study, appended=more(20))
    assert whole.query(query, k=110, rerank=110).top.shape == (5, 110)
    with pytest.raises(StaleStore, match="never appended"):
        uw.Index.open(tmp_path / "index", study, appended=[more(19)])


def test_deleted_rows_are_in_no_answer(tmp_path):
    study, query = network()
    index = built(study, tmp_path, compression="none", dtype="float64")
    before = index.query(query, k=3, aggregate="mean")
    gone = before.top_ids[0][:2].tolist()
    index.delete(gone)
    after = index.query(query, k=3, aggregate="mean")
    assert after.top_ids[0][0] == before.top_ids[0][2]
    np.testing.assert_allclose(after.top[0, 0], before.top[0, 2])
    assert not set(gone) & set(index.query(query, k=500, certified=True).top_ids.ravel())
    assert index.info().deleted == 2
    assert uw.Index.open(tmp_path / "index").delete(gone[0]).info().deleted == 2  # it is gone already
    with pytest.raises(IndexOutOfRange, match="12345"):
        index.delete([12345])
    with pytest.raises(ConfigError, match="no id"):
        index.delete([])
    index.delete(range(TRAINED))
    with pytest.raises(ConfigError, match="every row"):
        index.query(query)


def test_names_of_any_kind_come_back(tmp_path):
    _, problem, study = fitted_mlp(6)
    for place, ids in enumerate((["a", "b", "c", "d", "é", "f"], [10, 20, 30, 40, 50, 60], [1, "x", 2.5, "y", 3, "z"])):
        array = np.empty(6, dtype=object)
        array[:] = ids
        named = uw.Study(study.objective.model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(0.05), ids=array if place == 2 else ids)  # fmt: skip
        index = built(named, tmp_path / str(place))
        found = index.query(problem.query, k=6)
        assert set(found.top_ids[0].tolist()) == set(ids)
        index.delete(ids[1])
        again = uw.Index.open(tmp_path / str(place) / "index", named)
        assert set(again.query(problem.query, k=5).top_ids[0].tolist()) == {*ids} - {ids[1]}


def test_another_process_asks_without_fitting_anything_again(tmp_path, monkeypatch):
    study, query = network("cnn")
    built(study, tmp_path, compression="eigenbasis", size=300)
    first = uw.Index.open(tmp_path / "index", study).query(query, k=5, rerank=10)
    other, _ = network("cnn")

    def never(*args, **more):
        raise AssertionError("the factors were computed again")

    monkeypatch.setitem(__import__("upweight.fitted.settings").fitted.settings.STRUCTURED, "ekfac", never)
    index = uw.Index.open(tmp_path / "index", other)
    for found in (index.query(query, k=5, rerank=10), index.query(query, k=5, certified=True)):
        np.testing.assert_array_equal(found.top_ids[:, 0], first.top_ids[:, 0])
    np.testing.assert_array_equal(index.query(query, k=5, rerank=10).top, first.top)


def test_a_build_that_is_done_is_not_done_again(tmp_path, monkeypatch):
    study, _ = network()
    built(study, tmp_path)
    monkeypatch.setattr("upweight.index.build.recorder_of", lambda *args: pytest.fail("rows were made again"))
    assert built(study, tmp_path).info().complete


def ulp(model: nn.Module) -> nn.Module:
    changed = copy.deepcopy(model)
    with torch.no_grad():
        flat = changed[0].weight.view(-1)
        flat[0] = torch.nextafter(flat[0], torch.tensor(9.0, dtype=flat.dtype))
    return changed


def test_what_an_index_was_made_of_is_held_to_the_last_bit(tmp_path):
    t = trained("mlp")
    study, _ = network()
    built(study, tmp_path)

    def asked(model=t.model, data=t.data, **how):
        return uw.Study(model, data, **({"loss": "cross_entropy", "curvature": "ekfac", "penalty": uw.L2(1e-3)} | how))

    X, y = t.X.clone(), t.y.clone()
    X[5, 3] += 1e-12
    y[7] = (y[7] + 1) % 4
    for other, word in (
        (asked(ulp(t.model)), "another model"),
        (asked(data=(X, t.y)), "another data"),
        (asked(data=(t.X, y)), "another data"),
        (asked(data=(t.X[:50], t.y[:50])), "data"),
        (asked(ids=[f"n{k}" for k in range(TRAINED)]), "another data"),
        (asked(penalty=uw.L2(2e-3)), r"settings\.penalty"),
        (asked(curvature="kfac"), r"settings\.curvature is 'kfac' and was 'ekfac'"),
        (asked(fisher="empirical"), r"settings\.fisher"),
        (asked(seed=1), r"settings\.seed"),
        (asked(loss=nn.CrossEntropyLoss(label_smoothing=0.1)), r"settings\.loss"),
        (asked(parameters="4.*"), r"settings\.parameters"),
        (asked(weights=np.linspace(0.5, 1.5, TRAINED) / TRAINED), r"settings\.weights"),
    ):
        with pytest.raises(StaleStore, match=word):
            uw.Index.open(tmp_path / "index", other)
        with pytest.raises(StaleStore, match=word):
            built(other, tmp_path)
    uw.Index.open(tmp_path / "index", asked(damping=0.5))  # a new λ is free in an eigenbasis
    for how, word in (
        ({"size": 9}, "size"),
        ({"dtype": "int8"}, "dtype"),
        ({"compression": "none"}, "kind"),
        ({"rows_per_shard": 3}, "rows_per_shard"),
    ):
        with pytest.raises(StaleStore, match=word):
            built(study, tmp_path, **how)


def test_a_damping_chosen_after_the_build_is_the_study_s(tmp_path):
    study, query = network()
    built(study, tmp_path, compression="eigenbasis", size=1296, dtype="float64")
    other, _ = network(damping=0.3)
    assert (
        relative(every(uw.Index.open(tmp_path / "index", other), query), other.drop(query, order="first").values) < 1e-9
    )


def test_an_unfinished_build_is_not_finished_by_other_code_nor_asked(tmp_path, monkeypatch):
    study, query = network()
    index = built(study, tmp_path)
    shard = index._contents.shards[1]
    shard.path.unlink()
    with pytest.raises(CorruptStore, match="rows 40 to 79"):
        index.query(query)
    with pytest.raises(CorruptStore, match="not there"):
        index.verify()
    assert "unfinished" in str(uw.Index.open(tmp_path / "index").info())
    with monkeypatch.context() as patched:
        patched.setattr(
            "upweight.index.build.code_fingerprints",
            lambda: {"code.upweight": "9", "code.source": "", "code.torch": "1"},
        )
        with pytest.raises(StaleStore, match=r"code\.upweight is '9'"):
            built(study, tmp_path)
    assert built(study, tmp_path).verify().complete
    journal = tmp_path / "index" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:1]))
    with pytest.raises(CorruptStore, match="lacks rows 40 to 95"):
        uw.Index.open(tmp_path / "index", study).query(query)
    assert built(study, tmp_path).verify().complete


def test_a_damaged_row_or_basis_is_found_when_it_is_touched(tmp_path):
    study, query = network()
    index = built(study, tmp_path)
    names = {shard.path for shard in index._contents.shards} | set((tmp_path / "index").glob("basis-*"))
    for path in names:
        copied = shutil.copytree(tmp_path / "index", tmp_path / path.stem)
        whole = bytearray((copied / path.name).read_bytes())
        whole[len(whole) // 2] ^= 4
        (copied / path.name).write_bytes(whole)
        again = "call build" if path.name.startswith("rows") else "delete the whole folder"
        with pytest.raises(CorruptStore, match=f"checksum.*{again}"):
            uw.Index.open(copied, study).query(query)
    assert len(names) == 4
