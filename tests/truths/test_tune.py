"""Tuning by retraining: predictions against their dense definition, and choices against hindsight on real networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from test_layers import CASES, CLASSES, N
from test_side_effects import assert_unchanged, snapshot
from test_structured import study_of
from torch import nn
from torch.nn import functional as F

import upweight as uw
from cases import slope
from networks import MAKE, Block, Transformer, load_digits
from upweight.evaluate.contest import (
    Contest,
    Judged,
    Setting,
    judge,
    linear_scores,
    mixture_weights,
    pooled,
    rank_scores,
)
from upweight.evaluate.spectral import Spectral, gradient_sums
from upweight.evaluate.subsets import halves, measured_changes
from upweight.evaluate.tune import SHARES, grid
from upweight.questions.question import Question
from upweight.solve import filtered
from upweight.solve.filters import Calibrated

pytestmark = [
    pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::upweight.errors.ApproximationWarning"),
]
TRAINED, QUERIES, DECAY = 240, 40, 3e-3
JUDGING = 24
"""Other retrainings that judge: of 132 settings the best on few is so by luck (the MLP: 5.8 % better than the choice on twelve, 3.7 % on these)."""
NETWORKS = {
    "mlp": MAKE["mlp"],
    "cnn": MAKE["cnn"],
    "transformer": (lambda: Transformer(nn.Sequential(Block())), (8, 8)),
}


def digits(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy real digits, a tenth of the training labels drawn at random, and two sets of clean-labelled queries."""
    images, labels = load_digits(n_class=4, return_X_y=True)
    g = torch.Generator().manual_seed(1)
    chosen = torch.randperm(len(labels), generator=g)[: TRAINED + 2 * QUERIES]
    X, y = torch.as_tensor(images)[chosen].div(16).reshape(-1, *shape), torch.as_tensor(labels)[chosen].long()
    X = X + 0.25 * torch.randn(X.shape, generator=g, dtype=X.dtype)
    wrong = (torch.rand(len(y), generator=g) < 0.1) & (torch.arange(len(y)) < TRAINED)
    y = torch.where(wrong, torch.randint(0, 4, (len(y),), generator=g), y)
    return X[:TRAINED], y[:TRAINED], X[TRAINED:], y[TRAINED:]


class Problem:
    """A network trained by Adam, and retrained by as many steps of the same optimiser from where it ended."""

    def __init__(self, name: str) -> None:
        self.make, shape = NETWORKS[name]
        self.X, self.y, Xt, yt = digits(shape)
        self.start: dict[str, torch.Tensor] | None = None
        self.tuning, self.judging = (Xt[:QUERIES], yt[:QUERIES]), (Xt[QUERIES:], yt[QUERIES:])
        model = self.make().double()
        self.start = self.train(np.full(TRAINED, 1 / TRAINED), 0)
        model.load_state_dict(self.train(np.full(TRAINED, 1 / TRAINED), 0))
        self.study = uw.Study(
            model.eval(), (self.X, self.y), loss="cross_entropy", penalty=uw.L2(DECAY), curvature="ekfac"
        )

    def train(self, weights: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        model, w = self.make().double(), torch.as_tensor(weights)
        if self.start is not None:
            model.load_state_dict(self.start)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=DECAY)
        for _ in range(100):
            optimiser.zero_grad()
            (F.cross_entropy(model(self.X), self.y, reduction="none") @ w).backward()
            optimiser.step()
        return model.state_dict()


@pytest.mark.parametrize(
    "name", ["mlp", pytest.param("cnn", marks=pytest.mark.slow), pytest.param("transformer", marks=pytest.mark.slow)]
)
def test_the_choice_is_near_the_best_in_hindsight_on_other_retrainings_and_queries(name):
    problem = Problem(name)
    found = problem.study.tune(problem.tuning, train=problem.train, refits=12, progress=False)
    fitted = problem.study.fitted
    question = Question(fitted, problem.judging, "loss", "first")
    weights = halves(fitted.weights, JUDGING, seed=7)
    truth = measured_changes(question, question.measured, weights, 0, problem.train, False)
    sums, best, own = gradient_sums(fitted.engine, weights - fitted.weights), -1.0, None
    for fisher in ("exact", "sampled", "empirical"):
        blocks = uw.Study(
            problem.study.objective.model, (problem.X, problem.y), loss="cross_entropy", penalty=uw.L2(DECAY),
            curvature="ekfac", fisher=fisher,
        ).fitted.blocked.curvature  # fmt: skip
        spectrum = Spectral.of(blocks, sums)
        filters = [one.filter for one in grid(fisher, spectrum, SHARES)] + [found.best.filter]
        predicted = torch.cat([spectrum.predicted(tile, filters) for tile in question.measured.tiles()], 2).numpy()
        best = max(best, float(rank_scores(predicted[:-1], truth).max()))
        own = predicted[-1] if fisher == found.best.fisher else own
    score = float(rank_scores(own[None], truth)[0])
    print(
        f"{name}: {found.words}\n  elsewhere Spearman {score:.3f}, hindsight {best:.3f}, regret {1 - score / best:.3f}, slope and Pearson {pooled(own, truth)}"
    )
    assert score >= 0.95 * best
    assert 0.4 < pooled(own, truth)[0] < 2.5  # the size beside the rank
    np.testing.assert_allclose(
        own, (weights - fitted.weights).numpy() @ found.study.upweight(problem.judging).values.T, atol=1e-8
    )


CURVATURES = ["ekfac", "kfac", "diagonal", "block_diagonal"]


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ["linear", "conv2d", "layer norm", "tied", "free parameter"])
def test_predictions_from_sums_are_the_formula_written_out(name, curvature):
    study, query = study_of(name, curvature)
    weights = halves(study.fitted.weights, 5, seed=0)
    sums = gradient_sums(study.fitted.engine, weights - study.fitted.weights)
    measured, blocks = Question(study.fitted, query, "loss", "first").measured, study.fitted.blocked.curvature
    spectrum = Spectral.of(blocks, sums)
    filters = [one.filter for one in grid("exact", spectrum, [0.01, 1.0])] + [uw.Mixture(((0.5, 0.1), (2.0, 3.0)))]
    found = torch.cat([spectrum.predicted(tile, filters) for tile in measured.tiles()], 2)
    T, G = uw.rows(study.objective, query).dense(), uw.rows(study.objective).dense()
    for filter, own in zip(filters, found, strict=True):
        expected = -(T @ filtered(blocks, filter).dense() @ ((weights - study.fitted.weights) @ G).T).T
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


def test_any_batch_size_predicts_the_same():
    found = []
    for size in (1, 4, N):
        study, query = study_of("conv2d", "ekfac", batch_size=size)
        sums = gradient_sums(study.fitted.engine, halves(study.fitted.weights, 4, 0) - study.fitted.weights)
        spectrum = Spectral.of(study.fitted.blocked.curvature, sums)
        tiles = Question(study.fitted, query, "prediction", "first").measured.tiles()
        found.append(torch.cat([spectrum.predicted(tile, [uw.Ridge(0.1), uw.Segment(3.0)]) for tile in tiles], 2))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-12)


def test_halves_keep_half_of_the_points_and_all_of_the_weight():
    even = halves(torch.full((20,), 1 / 20, dtype=torch.float64), 30, seed=0)
    assert bool(((even == 0) | (even - 2 / 20).abs().lt(1e-15)).all())
    assert bool((even.gt(0).sum(1) == 10).all()) and len({tuple(row.tolist()) for row in even}) == 30
    odd = halves(torch.arange(1.0, 8.0, dtype=torch.float64), 5, seed=3)
    torch.testing.assert_close(odd.sum(1), torch.full((5,), 28.0, dtype=torch.float64))
    assert bool((odd.gt(0).sum(1) == 3).all())
    assert not torch.equal(odd, halves(torch.arange(1.0, 8.0, dtype=torch.float64), 5, seed=4))
    with pytest.raises(uw.errors.ConfigError, match=r"total weight of 0.*Expected one above zero"):
        halves(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64), 10, seed=0)


def contest_of(predicted: np.ndarray, truth: np.ndarray) -> Contest:
    settings = tuple(Setting("exact", uw.Ridge(10.0**-k), 10.0**-k) for k in range(len(predicted)))
    return Contest(settings, predicted, truth)


def test_a_mixture_is_not_negative_and_finds_its_parts():
    generator = np.random.default_rng(0)
    ridges = generator.normal(size=(3, 8, 6))
    truth = 0.5 * ridges[0] + 2.0 * ridges[2] + generator.normal(size=6)  # each query's own mean is left out
    np.testing.assert_allclose(mixture_weights(ridges, truth), [0.5, 0, 2], atol=1e-10)
    against = mixture_weights(ridges, -truth)
    assert (against >= 0).all()
    contest = contest_of(ridges, truth)
    everything = contest.everything
    place = contest.chosen(*everything)
    best = contest.setting(place, contest.fitted(*everything))
    assert contest.alive([against]).tolist() == [True] * 3 + [bool(against.any())]
    assert (
        not contest.alive([np.zeros(3)])[3]
        and place == 3
        and isinstance(best.filter, uw.Mixture)
        and [d for _, d in best.filter.terms] == [1.0, 0.01]
    )
    assert slope(truth - truth.mean(0), contest.at(contest.fitted(*everything), *everything)[3]) > 0


def test_mixtures_are_scored_on_retrainings_they_were_not_fitted_on():
    generator = np.random.default_rng(0)
    contest = contest_of(generator.normal(size=(20, 8, 3)), generator.normal(size=(8, 3)))
    everything = contest.everything
    inside = rank_scores(contest.at(contest.fitted(*everything), *everything), contest.truth)[-1]
    assert inside > 0.6 and rank_scores(contest.crossed(*everything), contest.truth)[-1] < 0.3


def test_the_judge_reads_neither_queries_nor_retrainings_that_chose():
    """A setting is perfect only where the choice is made: the judge must not be taken in."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(12, 40))
    owners = np.random.default_rng(5)
    owners.permutation(12)
    seen = np.array_split(owners.permutation(40), 2)[0]
    liar = generator.normal(size=(12, 40))
    liar[:, seen] = truth[:, seen]
    honest = truth + 0.8 * generator.normal(size=truth.shape)
    found = judge(contest_of(np.stack([liar, honest]), truth), 1, seed=5)
    assert found.rank < 0.3 and found.hindsight > 0.6 and found.regret > 0.5
    assert found.slope < 0.3  # a slope beside the rank
    assert judge(contest_of(np.stack([honest, honest]), truth), 1, seed=5).regret == pytest.approx(0, abs=0.05)


def test_scores_are_those_of_scipy():
    generator = np.random.default_rng(0)
    truth, predicted = generator.normal(size=(9, 4)), generator.normal(size=(2, 9, 4))
    rank = [np.mean([stats.spearmanr(one[:, q], truth[:, q])[0] for q in range(4)]) for one in predicted]
    line = [np.mean([stats.pearsonr(one[:, q], truth[:, q])[0] for q in range(4)]) for one in predicted]
    np.testing.assert_allclose(rank_scores(predicted, truth), rank)
    np.testing.assert_allclose(linear_scores(predicted, truth), line)
    a, b = predicted[0] - predicted[0].mean(0), truth - truth.mean(0)
    np.testing.assert_allclose(pooled(predicted[0], truth), [slope(b, a), stats.pearsonr(a.ravel(), b.ravel())[0]])


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("order", ["first", "newton"])
def test_a_ridge_as_damping_is_the_damping(curvature, order):
    plain, query = study_of("conv2d", curvature, damping=0.3)
    ridge, _ = study_of("conv2d", curvature, damping=uw.Ridge(0.3))
    expected, found = plain.drop(query, order=order), ridge.drop(query, order=order)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-8, atol=1e-12)
    assert "ridge with λ = 0.3" in found.verdict and "by rule" not in found.verdict + expected.verdict
    np.testing.assert_allclose(ridge.leverage(), plain.leverage(), rtol=1e-8)
    np.testing.assert_allclose(ridge.self_influence(), plain.self_influence(), rtol=1e-8)


@pytest.mark.parametrize("filter", [uw.Segment(2.0, relative=True), uw.Mixture(((0.5, 0.1), (0.2, 1.0)))])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_every_filter_serves_a_study(curvature, filter):
    study, query = study_of("linear", curvature, damping=filter, protocol="fixed_total")
    P = filtered(study.fitted.blocked.curvature, filter).dense()
    T, C = uw.rows(study.objective, query).dense(), uw.rows(study.objective).dense()
    np.testing.assert_allclose(study.upweight(query).values, -(T @ P @ C.T).numpy(), rtol=1e-8, atol=1e-12)
    assert filter.name in study.drop(query).verdict and np.isfinite(study.drop(query, order="newton").values).all()


def test_a_calibrated_filter_is_the_filter_on_another_scale():
    values = torch.tensor([0.5, 2.0], dtype=torch.float64)
    filter = Calibrated(uw.Segment(2.0, relative=True), 0.25)
    torch.testing.assert_close(filter.of(values, 3.0), 0.25 * uw.Segment(2.0).of(values, 3.0))
    assert filter.relative and filter.name.endswith("times 0.25")
    with pytest.raises(uw.errors.ConfigError, match=r"factor of 0.0. Expected a number above zero"):
        Calibrated(uw.Ridge(1.0), 0.0)


def test_the_choice_is_made_to_scale():
    """Predictions forty times too large in size and right in rank: the judged slope is of the calibrated ones."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(12, 40))
    settings = (Setting("exact", uw.Segment(1.0), 1.0),)
    contest = Contest(settings, 40 * (truth + 0.1 * generator.normal(size=truth.shape))[None], truth)
    found = judge(contest, 1, seed=0)
    assert found.slopes[0] == pytest.approx(1 / 40, rel=0.1)
    assert found.slope == pytest.approx(1, rel=0.1) and found.rank > 0.95
    assert contest.scale(0, [], *contest.everything) == pytest.approx(1 / 40, rel=0.1)


def test_filters_are_refused_where_there_is_no_eigenbasis():
    for settings in ({"curvature": "ggn"}, {"curvature": "ekfac", "solver": "block_cg"}):
        with pytest.raises(uw.errors.ConfigError):
            study_of("linear", **settings, damping=uw.Ridge(0.1))
    data = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    study = uw.Study(torch.nn.Linear(3, 1).double().eval(), data, loss="squared_error", damping=uw.Ridge(0.1))
    with pytest.raises(uw.errors.ConfigError, match=r"no eigenbasis to filter in. Expected a number"):
        study.upweight(data)


def test_a_filter_has_a_small_network_studied_where_it_has_an_eigenbasis():
    left_open, query = study_of("linear", "auto", damping=uw.Ridge(0.1))
    assert left_open.fitted.kind == "ekfac"
    asked, _ = study_of("linear", "ekfac", damping=uw.Ridge(0.1))
    np.testing.assert_array_equal(left_open.drop(query).values, asked.drop(query).values)


@pytest.mark.parametrize("name", ["linear", "conv2d", "layer norm", "tied"])
@pytest.mark.parametrize("order", ["first", "newton"])
def test_a_damping_by_rule_says_so_and_how_much_ranks_depend_on_it(name, order):
    study, query = study_of(name, "ekfac")
    T, C = uw.rows(study.objective, query).dense(), uw.rows(study.objective).dense()
    scores = [
        T @ uw.inverse(uw.curvature.damped(study.fitted.blocked.curvature, uw.Relative(share))).dense() @ C.T
        for share in (0.1, 1.0, 0.01)
    ]
    ranks = [np.mean([stats.spearmanr(a, b)[0] for a, b in zip(scores[0], other, strict=True)]) for other in scores[1:]]
    expected = f"by rule; ranking at ten times / a tenth of it: Spearman {ranks[0]:.2f} / {ranks[1]:.2f})"
    assert expected in study.drop(query, order=order).verdict


def small(**settings) -> tuple[uw.Study, tuple, dict]:
    torch.manual_seed(0)
    make, X = CASES["linear"]
    model = make().double().eval()
    y = torch.arange(N) % CLASSES
    study = uw.Study(model, (X, y), loss="cross_entropy", penalty=uw.L2(0.05), **({"curvature": "ekfac"} | settings))
    return study, (X[:4], y[:4]), model.state_dict()


def moved(state: dict, weights: np.ndarray, by: float = 0.01) -> dict:
    """A state dict that depends on the weights, as a retraining would."""
    drift = by * float(weights @ np.sqrt(1.0 + np.arange(len(weights))))
    return {key: value + drift * torch.arange(value.numel(), dtype=value.dtype).view_as(value) for key, value in state.items()}  # fmt: skip


def test_tuning_answers_in_words_and_with_a_study_and_leaves_everything_as_found():
    study, query, state = small()
    before, torch_state, numpy_state = snapshot(study.objective.model), torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    seen = []

    def train(weights, seed):
        torch.manual_seed(5)
        seen.append((weights, seed))
        return moved(state, weights)

    found = study.tune(query, train=train, refits=6, seed=3, progress=False)
    assert_unchanged(study.objective.model, before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert len(seen) == 6 and all(seed == 3 and weights.sum() == pytest.approx(1) for weights, seed in seen)
    assert repr(found) == found.words and "chosen from 6 retrainings" in found.words and "regret" in found.words
    assert list(found.table.columns) == ["fisher", "filter", "damping", "tuned", "judged", "slope", "pearson"]
    assert found.table.judged.is_monotonic_decreasing and found.hindsight >= found.score
    assert found.rule in set(found.table.judged) and set(found.table.fisher) == {"exact", "sampled", "empirical"}
    chosen = found.study.fitted.settings
    assert (chosen.fisher, chosen.damping) == (found.best.fisher, found.best.filter)
    assert found.study.fitted.engine is study.fitted.engine and found.study.fitted.known is not None
    verdict = found.study.drop(query).verdict
    assert f"{found.best.fisher} Fisher" in verdict and "chosen from 6 retrainings (judged Spearman" in verdict
    again = study.tune(query, train=train, refits=6, seed=3, progress=False)
    assert again.best == found.best and again.score == found.score


def test_without_train_tuning_refits_by_newton_s_method():
    torch.manual_seed(0)
    X, y = torch.randn(40, 3, dtype=torch.float64), torch.arange(40) % 2
    model = nn.Sequential(nn.Linear(3, 2)).double().eval()
    study = uw.Study(model, (X + y[:, None], y), loss="cross_entropy", penalty=uw.L2(0.1), curvature="ekfac")
    from upweight.evaluate.refit import refit

    theta = refit(study.fitted, study.fitted.weights)
    model.load_state_dict(study.objective.space.unflatten(theta))
    study = uw.Study(model, (X + y[:, None], y), loss="cross_entropy", penalty=uw.L2(0.1), curvature="ekfac")
    found = study.tune((X[:10], y[:10]), refits=8, dampings=[1e-3, 1e-2, 1.0], progress=False)
    assert found.score > 0.9 and 0.5 < found.slope < 1.6 and found.rule is None
    large = uw.Study(model, (X, y), loss="cross_entropy", curvature="ekfac", memory=100)
    with pytest.raises(uw.errors.BudgetError, match=r"no train=.*pass train="):
        large.tune((X[:10], y[:10]))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"refits": 1}, r"refits=1. Expected at least 4"),
        ({"fishers": ["true"]}, r"fisher='true' is unknown. Expected one of"),
        ({"fishers": []}, r"found no Fisher estimator"),
        ({"dampings": [0.0]}, r"dampings=\[0.0\]. Expected numbers above zero"),
        ({"measure": "accuracy"}, r"measure='accuracy'. Expected a measure of each query"),
        ({"train": lambda weights, seed: None}, r"returned NoneType. Expected a state dict"),
        ({"train": lambda weights, seed: {}}, r"state dict without .*Expected the names of this model"),
    ],
)
def test_what_cannot_be_tuned_is_refused(asked, message):
    study, query, state = small()
    with pytest.raises(uw.errors.ConfigError, match=message):
        study.tune(query, **({"train": lambda weights, seed: moved(state, weights), "progress": False} | asked))


def test_a_retraining_of_another_model_is_refused():
    study, query, state = small()
    name = next(iter(state))
    wrong = {
        uw.errors.ConfigError: {**state, "other.weight": torch.zeros(2)},
        uw.errors.ShapeError: {**state, name: torch.zeros(1, 1)},
        uw.errors.NonFiniteInput: {**state, name: torch.full_like(state[name], torch.nan)},
    }
    for error, returned in wrong.items():
        with pytest.raises(error, match=r"train= returned .*Expected .*return|train= returned .*diverged"):
            study.tune(query, train=lambda weights, seed, returned=returned: returned, progress=False)

    def in_place(weights, seed):
        study.objective.model.load_state_dict(moved(state, weights))
        return study.objective.model.state_dict()

    with pytest.raises(uw.errors.ModelError, match=r"changed the study's own model. Expected it to leave that alone"):
        study.tune(query, train=in_place, progress=False)


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "identity"])
def test_curvature_without_eigenvalues_is_refused(curvature):
    study, query, _ = small(curvature=curvature)
    with pytest.raises(uw.errors.ConfigError, match=r"no eigenvalues to filter. Expected 'ekfac'"):
        study.tune(query)


def test_one_query_is_too_few():
    study, query, state = small()
    with pytest.raises(uw.errors.ConfigError, match=r"found one query. Expected at least 2"):
        study.tune((query[0][:1], query[1][:1]), train=lambda weights, seed: state, progress=False)


def test_buffers_of_a_retrained_model_are_its_own():
    """A batch norm's running statistics belong to the retraining; the study's stay with the study."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()
    X, y = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 2
    study = uw.Study(model, (X, y), loss="cross_entropy", curvature="ekfac")
    question = Question(study.fitted, (X[:5], y[:5]), "loss", "first")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["1.running_mean"] += 0.7
    found = measured_changes(
        question, question.measured, study.fitted.weights[None], 0, lambda weights, seed: state, False
    )
    before = F.cross_entropy(model(X[:5]), y[:5], reduction="none")
    model.load_state_dict(state)
    after = F.cross_entropy(model(X[:5]), y[:5], reduction="none")
    np.testing.assert_allclose(found[0], (after - before).detach().numpy(), rtol=1e-9)


def test_where_the_rule_is_judged_better_it_stays():
    judged = Judged(np.array([0.5, 0.2]), np.array([1.1, 3.0]), np.array([0.6, 0.3]), 0.1, 2.0, 0.2)
    found = judged.of(0)
    assert (found.rank, found.slope, found.pearson, found.kept) == (0.5, 1.1, 0.6, True)
    assert found.regret == 0.0 and judged.regret == pytest.approx(0.8)
