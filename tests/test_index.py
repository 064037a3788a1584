"""The index: the study's own numbers, compressed, streamed, appended to, deleted from; and what it refuses."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import upweight as uw
from cases import classification, fitted_mlp, pearson, regression, slope
from networks import TRAINED, relative, trained
from upweight.cli import indexing
from upweight.errors import (
    BudgetError,
    ConfigError,
    CorruptStore,
    IndexOutOfRange,
    InputError,
    NonFiniteGradient,
    StaleStore,
    StoreError,
)
from upweight.index.rounding import Rounding
from upweight.index.scan import Ends, Largest

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")


def network(name: str = "mlp", **how):
    t = trained(name)
    how = {"loss": "cross_entropy", "curvature": "ekfac", "penalty": uw.L2(1e-3)} | how
    return uw.Study(t.model, t.data, **how), t.query


def built(study, folder, **how):
    return uw.Index.build(study, folder / "index", **({"progress": False, "rows_per_shard": 40} | how))


def every(index, query, **how) -> np.ndarray:
    """All effects an index gives, (m, n)."""
    found = index.query(query, k=10**6, **how)
    assert set(found.top_ids[0]) == set(found.bottom_ids[0])
    values = np.zeros_like(found.top)
    rows = np.searchsorted(np.sort(found.top_ids[0]), found.top_ids)
    np.put_along_axis(values, rows, found.top, 1)
    return values


def sklearn_study():
    problem = classification(60, 4, 5, 3)
    model = LogisticRegression(tol=1e-10, max_iter=3000).fit(problem.X, problem.y)
    return uw.from_sklearn(model, problem.X, problem.y), problem.query


def weighted_study():
    _, problem, study = fitted_mlp(40)
    weights = np.linspace(0.5, 1.5, 40) / 40
    return uw.Study(study.objective.model, (problem.X, problem.y), loss="cross_entropy", weights=weights, penalty=uw.L2(0.05), curvature="ekfac"), problem.query  # fmt: skip


STUDIES = {
    "perceptron": network,
    "convolutions": lambda: network("cnn"),
    "transformer": lambda: network("transformer", curvature="kfac"),
    "recurrent": lambda: network("lstm"),
    "gradient products": lambda: network(curvature="identity", penalty=None),
    "fixed total": lambda: network(protocol="fixed_total"),
    "a filter": lambda: network(damping=uw.Segment(3.0, relative=True)),
    "block diagonal": lambda: network("cnn", curvature="block_diagonal"),
    "weighted": weighted_study,
    "exact, scikit-learn": sklearn_study,
    "exact, network": lambda: (fitted_mlp(40)[2], fitted_mlp(40)[1].query),
}


@pytest.mark.parametrize("name", STUDIES)
def test_without_compression_it_gives_the_study_s_own_first_order_effects(name, tmp_path):
    study, query = STUDIES[name]()
    truth = study.drop(query, order="first").values
    index = built(study, tmp_path, compression="none", dtype="float64")
    assert relative(every(index, query), truth) < 1e-9
    assert index.info().accuracy.relative < 1e-9


@pytest.mark.parametrize("how", [{"measure": "margin"}, {"measure": "prediction"}, {"aggregate": "mean"}, {"aggregate": "sum", "measure": "margin"}])  # fmt: skip
def test_measures_and_aggregates_are_the_study_s(how, tmp_path):
    study, query = network()
    truth = study.drop(query, order="first", **how)
    for compression in ({"compression": "none"}, {"compression": "eigenbasis", "size": 1296}):
        found = built(study, tmp_path / compression["compression"], dtype="float64", **compression)
        assert relative(every(found, query, **how), truth.values) < 1e-9
    assert found.query(query, k=2, **how).query_ids.tolist() == truth.query_ids.tolist()


def dense_basis(study) -> tuple[np.ndarray, np.ndarray]:
    """Q and 1/(Λ + λ) of the study's EK-FAC, written out from its blocks."""
    p = study.objective.space.size
    Q, f = torch.zeros(p, p, dtype=torch.float64), torch.zeros(p, dtype=torch.float64)
    for layout, block in study.fitted.blocked.curvature.parts:
        rows = torch.zeros(layout.width, p, dtype=torch.float64)
        layout.scatter(torch.kron(block.left, block.right).T.contiguous(), rows)
        where = layout.gather(torch.arange(p, dtype=torch.float64)[None])[0].long()
        Q[:, where] = rows.T
        f[where] = 1 / (block.values.flatten() + 0.1 * block.values.mean())
    return Q.numpy(), f.numpy()


def test_truncation_is_the_dense_formula_on_the_coordinates_with_most_of_the_scores(tmp_path):
    study, query = network(penalty=None)
    Q, f = dense_basis(study)
    G = uw.rows(study.objective).dense().numpy()
    T = uw.rows(study.objective, query).dense().numpy()
    mass = f * (1 / f - 1 / f.max())  # f(Λ)Λ up to the order within a block
    curvature = np.concatenate([b.values.flatten().numpy() for _, b in study.fitted.blocked.curvature.parts])
    levels = np.concatenate(
        [np.full(b.size, 0.1 * float(b.values.mean())) for _, b in study.fitted.blocked.curvature.parts]
    )
    order = np.concatenate(
        [
            at.gather(torch.arange(len(f), dtype=torch.float64)[None])[0].long().numpy()
            for at, _ in study.fitted.blocked.curvature.parts
        ]
    )
    mass[order] = curvature / (curvature + levels)
    kept = np.argsort(-mass, kind="stable")[:300]
    index = built(study, tmp_path, compression="eigenbasis", size=300, dtype="float64")
    truth = (T @ Q[:, kept] * f[kept]) @ (G @ Q[:, kept]).T / len(G)
    assert relative(every(index, query), truth) < 1e-9


def test_logra_is_the_dense_formula_in_projected_space(tmp_path):
    study, query = network(curvature="kfac", penalty=None)
    index = built(study, tmp_path, compression="logra", size=(5, 7), dtype="float64", seed=3)
    P = uw.linop.two_sided(study.fitted.blocked.curvature, 5, 7, seed=3)
    blocks = []
    for (_, block), (_, piece) in zip(study.fitted.blocked.curvature.parts, P.parts, strict=True):
        own = torch.kron(piece.left.T @ block.left @ piece.left, piece.right.T @ block.right @ piece.right)
        own.diagonal().add_(0.1 * own.diagonal().mean())
        blocks.append(torch.linalg.inv(own))
    H = torch.block_diag(*blocks)
    G, T = (rows.dense() @ P.dense() for rows in (uw.rows(study.objective), uw.rows(study.objective, query)))
    assert relative(every(index, query), T @ H @ G.T / TRAINED) < 1e-9
    assert index.info().numbers == 35 + 35 + 28


@pytest.mark.parametrize("kind", ["ekfac", "kfac", "diagonal", "identity"])
def test_logra_estimates_the_study_s_scores_better_with_more_numbers(kind, tmp_path):
    study, query = network(curvature=kind)
    truth = study.drop(query, order="first").values
    agreed = [
        pearson(every(built(study, tmp_path / str(k), compression="logra", size=k), query), truth) for k in (3, 12, 40)
    ]
    assert agreed[0] < agreed[2]
    assert agreed[2] > 0.9


def test_the_error_falls_with_the_numbers_kept_and_is_what_the_manifest_says(tmp_path):
    study, query = network("transformer")
    truth, errors = study.drop(query, order="first").values, []
    for size in (60, 240, 960):
        index = built(study, tmp_path / str(size), compression="eigenbasis", size=size)
        found, said = every(index, query), index.info().accuracy
        errors.append(np.linalg.norm(found - truth) / np.linalg.norm(truth))
        assert said.relative == pytest.approx(errors[-1], rel=2, abs=0.02)
        assert said.pearson == pytest.approx(pearson(found, truth), abs=0.15)
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert slope(truth, found) == pytest.approx(1, abs=0.01)
    written = json.loads((tmp_path / "960" / "index" / "manifest.json").read_text())["accuracy"]
    assert written["relative"] == said.relative


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("float16", 2e-3), ("int8", 3e-2)])
def test_rounding_stays_within_what_its_type_allows(dtype, limit, tmp_path):
    study, query = network()
    exact = every(built(study, tmp_path / "exact", compression="eigenbasis", size=400, dtype="float64"), query)
    index = built(study, tmp_path / dtype, compression="eigenbasis", size=400, dtype=dtype)
    found = every(index, query)
    assert 0 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < limit
    assert slope(exact, found) == pytest.approx(1, abs=limit)
    assert index.info().row_bytes == pytest.approx(400 * np.dtype(dtype).itemsize + 4 * (dtype != "float32"), abs=8)


def test_rounded_rows_differ_by_half_a_step_at_most():
    rows = torch.randn(50, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -3, 3, 30
    )
    rows[7] = 0
    for dtype, step in (("int8", 1 / 127 / 2), ("float16", 2**-11)):
        rounding = Rounding.of(dtype, rows)
        stored = rounding.encode(rows)
        assert stored["rows"].dtype == dtype
        off = (rounding.decode(stored) - rows).abs()
        largest = (rows / rounding.typical).abs().amax(1, keepdim=True)
        assert bool((off <= 1.001 * step * largest * rounding.typical).all())
        assert bool((rounding.decode(stored)[7] == 0).all())


def test_ranked_again_it_gives_the_uncompressed_ends(tmp_path):
    study, query = network("cnn")
    truth = study.drop(query, order="first").values
    index = built(study, tmp_path, compression="eigenbasis", size=150, dtype="int8")
    plain, again = index.query(query, k=5), index.query(query, k=5, rerank=40)
    for row, top, bottom in zip(truth, again.top_ids, again.bottom_ids, strict=True):
        np.testing.assert_array_equal(top, np.argsort(-row, kind="stable")[:5])
        np.testing.assert_array_equal(bottom, np.argsort(row, kind="stable")[:5])
    np.testing.assert_allclose(again.top, np.take_along_axis(truth, again.top_ids, 1), rtol=1e-9)
    assert not np.allclose(plain.top, again.top, rtol=1e-4)
    assert "the first 40 at each end ranked again" in again.verdict


@pytest.mark.parametrize("name", ["perceptron", "exact, scikit-learn", "gradient products"])
def test_certified_ends_are_the_uncompressed_ends(name, tmp_path):
    study, query = STUDIES[name]()
    truth = study.drop(query, order="first").values
    for bounds in (True, False):
        index = built(
            study,
            tmp_path / str(bounds),
            compression="eigenbasis",
            size=int(0.9 * study.objective.space.size),
            dtype="float16",
            bounds=bounds,
        )
        found = index.query(query, k=2, certified=True)
        assert found.certified.all()
        for row, top, bottom in zip(truth, found.top_ids, found.bottom_ids, strict=True):
            assert set(top) == set(np.argsort(-row)[:2])
            assert set(bottom) == set(np.argsort(row)[:2])
        looked = int(found.verdict.split(";")[-1].split(" of ")[0].replace(",", ""))
        assert (looked < study.objective.count) == bounds


def test_the_answer_does_not_depend_on_how_rows_are_cut(tmp_path):
    study, query = network()
    first = built(study, tmp_path / "a", compression="eigenbasis", size=200, rows_per_shard=7).query(query, k=9)
    second = built(study, tmp_path / "b", compression="eigenbasis", size=200, rows_per_shard=1000).query(query, k=9)
    np.testing.assert_array_equal(first.top_ids, second.top_ids)
    np.testing.assert_allclose(first.top, second.top, rtol=1e-6)


def test_both_ends_of_a_stream_equal_a_stable_sort():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(-4, 5, (3, 400), generator=draw).double()  # many are equal
    gone = torch.rand(400, generator=draw) < 0.3
    for size in (1, 7, 64, 400):
        ends = Ends.of(30)
        for part in torch.arange(400).split(size):
            ends.add(scores[:, part], part, gone[part])
        for found, signed in ((ends.top, scores), (ends.bottom, -scores)):
            order = signed.masked_fill(gone, -torch.inf).sort(dim=1, descending=True, stable=True)
            assert torch.equal(found.rows, order.indices[:, :30])
            assert torch.equal(found.values, order.values[:, :30])


def test_fewer_than_k_and_nothing_at_all():
    largest = Largest(5)
    largest.add(torch.empty(2, 0), torch.empty(0, dtype=torch.int64))
    largest.add(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), torch.tensor([5, 6]))
    assert largest.rows.tolist() == [[6, 5], [5, 6]]
    assert bool(torch.isinf(largest.worst).all())


def more(count: int, seed: int = 9):
    t = trained("mlp")
    return t.X[:count] + 0.1 * seed, t.y[:count]


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
        with pytest.raises(CorruptStore, match="checksum"):
            uw.Index.open(copied, study).query(query)
    assert len(names) == 4


def test_what_cannot_be_meant_is_refused_in_words(tmp_path):
    study, query = network()
    for how in ({"compression": "zip"}, {"dtype": "int4"}, {"size": 0}, {"size": 1.5}, {"size": True}, {"compression": "none", "size": 3}, {"compression": "logra", "size": 0.5}, {"rows_per_shard": 0}):  # fmt: skip
        with pytest.raises(ConfigError, match="Expected"):
            built(study, tmp_path, **how)
    assert not (tmp_path / "index").exists() or not list((tmp_path / "index").glob("*.json"))
    index = built(study, tmp_path)
    for how in ({"k": 0}, {"k": 2.5}, {"k": 9, "rerank": 5}, {"measure": "accuracy"}, {"measure": "parameters"}):
        with pytest.raises(ConfigError, match="Expected"):
            index.query(None if how.get("measure") == "parameters" else query, **how)
    with pytest.raises(ConfigError, match="without its study"):
        uw.Index.open(tmp_path / "index").query(query)
    with pytest.raises(ConfigError, match=r"raises\(\)"):
        index.query(query, measure="margin").helpful()
    with pytest.raises(ConfigError, match="1 to 3"):
        index.query(query, k=3).raises(4)
    with pytest.raises(StoreError, match="manifest"):
        uw.Index.open(tmp_path / "nowhere", study)
    exact, _ = sklearn_study()
    with pytest.raises(ConfigError, match="logra"):
        built(exact, tmp_path / "exact", compression="logra")


def test_certificates_that_cannot_be_given_are_refused_in_words(tmp_path, monkeypatch):
    t = trained("mlp")
    low = uw.Study(t.model, t.data, loss="cross_entropy", curvature="ggn", solver="lanczos", damping=0.1)
    with pytest.raises(ConfigError, match="block_cg"):
        built(low, tmp_path / "low", compression="none").query(t.query, certified=True)
    bare = uw.Study(t.model, t.data, loss="cross_entropy", curvature="ggn", solver="block_cg", damping=0.1)
    index = built(bare, tmp_path / "bare", compression="none", bounds=False)
    monkeypatch.setattr("upweight.index.certify.HELD_NUMBERS", 10)
    with pytest.raises(BudgetError, match="fewer queries"):
        index.query(t.query, certified=True)
    monkeypatch.setattr("upweight.index.answer.HELD_BYTES", 10)
    with pytest.raises(BudgetError, match="fewer queries"):
        index.query(t.query, certified=True)

    def hinge_without_end(outputs, targets):
        return -outputs.square().sum(1)

    concave = uw.Study(nn.Linear(3, 2).double().eval(), (torch.randn(9, 3).double(), torch.zeros(9, 2).double()), loss=hinge_without_end, curvature="ggn", damping=9.0)  # fmt: skip
    with pytest.raises(ConfigError, match="not convex"):
        built(concave, tmp_path / "concave", bounds=True)


def test_a_gradient_that_is_not_finite_is_named(tmp_path):
    problem = regression(20, 3)
    model = nn.Linear(3, 1, dtype=torch.float64).eval()
    study = uw.Study(model, (problem.X, problem.y[:, None]), loss="squared_error", damping=1.0)
    index = built(study, tmp_path)
    with pytest.raises(NonFiniteGradient, match="query 0 is NaN"):
        index.query(
            (problem.Xt, problem.yt[:, None]),
            measure=lambda outputs, targets: (outputs[:, 0] - outputs[:, 0]).sqrt() * outputs[:, 0],
        )
    bad = problem.X.copy()
    bad[3] = 1e308
    with pytest.raises(NonFiniteGradient, match="example 103 "):
        index.append((bad, problem.y[:, None]), ids=range(100, 120))


def test_the_answer_says_what_it_is(tmp_path):
    study, query = network()
    index = built(study, tmp_path, compression="eigenbasis", size=200, dtype="int8")
    found = index.query(query, k=4)
    for words in (
        "4 training points at each end for 5 queries",
        "fixed_mean",
        "200 of 1,296 numbers in K-FAC's eigenbasis in int8",
        "relative error",
    ):
        assert words in repr(found)
    frame = found.to_pandas()
    assert list(frame.columns) == ["query", "rank", "train", "effect", "end"]
    assert len(frame) == 5 * 4 * 2
    helpful = found.helpful(2)
    assert (helpful["effect"] > 0).all() and (found.harmful()["effect"] < 0).all()
    assert len(found.lowers(1)) <= 5
    assert "certified" in index.query(query, k=2, certified=True).to_pandas()
    for words in ("Index of 96 training points", "int8", "208 bytes"):
        assert words in repr(index)
    index.append(more(3)).delete([0])
    assert "3 appended, 1 deleted" in repr(index)
    auto = built(study, tmp_path / "auto").info()
    assert (auto.kind, auto.dtype) == ("eigenbasis", "float16")
    assert built(fitted_mlp(40)[2], tmp_path / "small").info().kind == "none"


def test_the_command_line_s_functions_speak_json(tmp_path):
    study, query = network()
    made = indexing.built(study, tmp_path / "index", size=100, progress=False)
    asked = indexing.asked(study, tmp_path / "index", query, 3, certified=True)
    for said in (made, asked):
        assert json.loads(json.dumps(said)) == said
    assert made["complete"] and made["numbers"] == 100
    found = uw.Index.open(tmp_path / "index", study).query(query, k=3, certified=True)
    assert [pair["train"] for pair in asked["queries"][1]["top"]] == found.top_ids[1].tolist()
    assert asked["queries"][0]["certified"] == [True, True]
