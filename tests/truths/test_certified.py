"""Certified ends against Cholesky on real data: no bound is ever broken, and no certificate is ever wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import upweight as uw
from networks import trained
from upweight.index.answer import Source
from upweight.index.certify import _error, _settled, _solutions, candidates, sought
from upweight.index.lower import lower_bound
from upweight.questions.question import Question

TRUTH = {"solver": "cholesky"}

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")


def softmax_digits(**how):
    """Softmax regression on 600 real digits with a penalty on everything: H is positive definite."""
    X, y = load_digits(return_X_y=True)
    X = torch.as_tensor(X / 16.0)
    model = torch.nn.Linear(64, 10, dtype=torch.float64)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.reset_parameters()
    X, Xt, y, yt = X[:600], X[600:606], torch.as_tensor(y[:600]), torch.as_tensor(y[600:606])

    def closure():
        optimiser.zero_grad()
        penalty = sum(p.square().sum() for p in model.parameters())
        value = torch.nn.functional.cross_entropy(model(X), y) + 0.5e-2 * penalty
        value.backward()
        return value

    optimiser.step(closure)
    return uw.Study(model.eval(), (X, y), loss="cross_entropy", penalty=uw.L2(1e-2), **how), (Xt, yt)


def breast_cancer(**how):
    """scikit-learn's logistic regression, its intercept free of the penalty."""
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(tol=1e-10, max_iter=5000).fit(X[20:], y[20:])
    return uw.from_sklearn(model, X[20:], y[20:], **how), (X[:20], y[:20])


def perceptron(**how):
    """A perceptron on real digits, its Gauss-Newton matrix with some damping."""
    t = trained("mlp")
    how = {"solver": "block_cg"} | how
    return uw.Study(t.model, t.data, loss="cross_entropy", curvature="ggn", damping=1e-2, **how), t.query


def convolutions(**how):
    """A convolutional net on real digits, the penalty of its training run below the Gauss-Newton matrix."""
    t = trained("cnn")
    how = {"solver": "block_cg"} | how
    return uw.Study(
        t.model, t.data, loss="cross_entropy", curvature="ggn", penalty=uw.L2(1e-2), damping=0.0, **how
    ), t.query


REAL = {
    "softmax, conjugate gradients": lambda **how: softmax_digits(**({"solver": "block_cg"} | how)),
    "softmax, Cholesky": softmax_digits,
    "logistic, free intercept": breast_cancer,
    "perceptron": perceptron,
    "convolutions": convolutions,
}


@pytest.fixture(scope="module", params=REAL)
def case(request, tmp_path_factory):
    """A study, its index, queries, and every effect by Cholesky."""
    study, query = REAL[request.param]()
    truth = REAL[request.param](**TRUTH)[0].drop(query, order="first").values
    size = max(4, study.objective.space.size // 2)
    index = uw.Index.build(
        study,
        tmp_path_factory.mktemp("certified") / "index",
        compression="eigenbasis",
        size=size,
        rows_per_shard=70,
        progress=False,
    )
    return study, index, query, truth


def test_the_ends_are_those_of_cholesky_and_are_certified(case):
    _, index, query, truth = case
    found = index.query(query, k=10, certified=True)
    assert found.certified.all()
    assert "these 10 are the 10" in repr(found)
    for row, top, bottom in zip(truth, found.top_ids, found.bottom_ids, strict=True):
        assert set(top) == set(np.argsort(-row)[:10])
        assert set(bottom) == set(np.argsort(row)[:10])


def test_the_values_are_those_of_cholesky_to_the_residual_the_solver_stopped_at(case):
    _, index, query, truth = case
    found = index.query(query, k=10, certified=True)
    exact = np.take_along_axis(truth, found.top_ids, 1)
    assert np.abs(found.top - exact).max() <= 1e-2 * np.abs(truth).max()
    slope = np.cov(exact.ravel(), found.top.ravel())[0, 1] / np.var(found.top.ravel(), ddof=1)
    assert slope == pytest.approx(1, abs=1e-2)


def test_no_score_is_ever_further_off_than_its_bound(case):
    study, index, query, truth = case
    saved = index._saved
    source = Source(saved.fitted(study.fitted), saved, index._contents, {})
    held, fitted = source.held(), source.fitted
    lower = lower_bound(fitted)
    measured = Question(fitted, query, "loss", "first").measured
    everything, shares = torch.arange(held.count), []
    for solved in _solutions(fitted, measured, lower):
        error = _error(solved, lower)
        parts = list(held.scores(sought(saved.basis, held, solved, error, lower)))
        scores, radius = (torch.cat([part[k] for part in parts], 1).numpy() for k in (1, 2))
        off = np.abs(scores - truth)
        rounding = 1e-13 * np.abs(truth).max()
        assert (off <= radius + rounding).all()
        effects, own = source.recompute(everything, solved, lower)
        wide = (error[:, None] * own).numpy()
        assert (np.abs(effects.numpy() - truth) <= wide + rounding).all()
        shares.append(float(np.median(radius / np.abs(truth).max())))
    assert shares[-1] <= 1.001 * shares[0]
    assert shares[-1] < 1  # and says something


def test_rows_set_aside_are_in_no_end(case):
    study, index, query, truth = case
    saved = index._saved
    source = Source(saved.fitted(study.fitted), saved, index._contents, {})
    fitted = source.fitted
    lower = lower_bound(fitted)
    measured = Question(fitted, query, "loss", "first").measured
    for solved in _solutions(fitted, measured, lower):
        rows = candidates(source.held(), sought(saved.basis, source.held(), solved, _error(solved, lower), lower), 3)
        ends = np.concatenate([np.argsort(-truth, 1)[:, :3], np.argsort(truth, 1)[:, :3]], 1)
        assert set(ends.ravel()) <= set(rows.tolist())


def test_twins_that_cannot_be_told_apart_are_not_certified(tmp_path):
    X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    X[1] = X[0]  # the two largest effects are the same
    X[0:2] *= 10
    y = torch.zeros(40, dtype=torch.float64)
    y[:2] = 5.0
    model = torch.nn.Linear(3, 1, dtype=torch.float64).eval()
    study = uw.Study(model, (X, y[:, None]), loss="squared_error", damping=0.1)
    index = uw.Index.build(study, tmp_path / "index", progress=False)
    with pytest.warns(uw.errors.NotStationaryWarning):
        one = index.query((X[:1], y[:1, None]), k=1, certified=True)
    with pytest.warns(uw.errors.NotStationaryWarning):
        two = index.query((X[:1], y[:1, None]), k=2, certified=True)
    ends = np.abs(np.concatenate([one.top, one.bottom], 1)[0])
    assert not one.certified[0, int(ends.argmax())]
    assert two.certified[0, int(ends.argmax())]
    assert "too close" in repr(one)


def test_an_end_is_certain_only_where_the_solver_s_error_allows_it(case):
    """At every stop of the solver, a certificate that is given holds, and it counts the error the solver has left."""
    study, index, query, truth = case
    saved = index._saved
    source = Source(saved.fitted(study.fitted), saved, index._contents, {})
    fitted, k = source.fitted, 10
    lower = lower_bound(fitted)
    measured = Question(fitted, query, "loss", "first").measured
    everything = torch.arange(index.info().rows)
    for solved in _solutions(fitted, measured, lower):
        found, rows = _settled(fitted, everything, solved, lower, k, source.recompute)
        wide = replace(solved, residual=10 * measured.rows())
        assert not _settled(fitted, everything, wide, lower, k, source.recompute)[0].certified.any()
        ends = (np.argsort(-truth, 1)[:, :k], np.argsort(truth, 1)[:, :k])
        for side, (end, order) in enumerate(zip((found.ends.top, found.ends.bottom), ends, strict=True)):
            for row in np.flatnonzero(found.certified[:, side].numpy()):
                assert set(end.rows[row].tolist()) == set(order[row])
        assert set(np.concatenate(ends, 1).ravel()) <= set(rows.tolist())
