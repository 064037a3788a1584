"""The index: the study's own numbers, compressed, streamed and ranked; what it says of itself, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from cases import fitted_mlp, pearson, regression, slope
from indexes import built, every, more, network, sklearn_study, weighted_study
from networks import TRAINED, relative, trained
from upweight.cli import indexing
from upweight.errors import BudgetError, ConfigError, NonFiniteGradient, StoreError
from upweight.index.rounding import Rounding
from upweight.index.scan import Ends, Largest

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")


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


@pytest.mark.filterwarnings("ignore:what this index keeps")
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


@pytest.mark.filterwarnings("ignore:what this index keeps")
@pytest.mark.parametrize("kind", ["ekfac", "kfac", "diagonal", "identity"])
def test_logra_estimates_the_study_s_scores_better_with_more_numbers(kind, tmp_path):
    study, query = network(curvature=kind)
    truth = study.drop(query, order="first").values
    agreed = [
        pearson(every(built(study, tmp_path / str(k), compression="logra", size=k), query), truth) for k in (3, 12, 40)
    ]
    assert agreed[0] < agreed[2]
    assert agreed[2] > 0.9


@pytest.mark.filterwarnings("ignore:what this index keeps")
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


def test_an_index_that_misses_half_of_the_scores_says_so_where_it_is_built(tmp_path):
    study, _ = network()
    with pytest.warns(uw.errors.ApproximationWarning, match="keep more with size=") as said:
        built(study, tmp_path, compression="logra", size=2, dtype="float32")
    assert said[0].filename.endswith("indexes.py")
