"""Training: alone it is a plain torch loop, stacked it is the same parameters, whatever the optimiser, masks and seeds."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from networks import Block
from upweight.evaluate import Training
from upweight.evaluate.execution import Task, together
from upweight.evaluate.stacked import ELEMENTWISE, train_stacked

N, MEMBERS, BATCH = 31, 5, 6
AGREEMENT = {torch.float64: 1e-10, torch.float32: 2e-4}
"""Stacked against alone after a few epochs, in units of the largest parameter: rounding, amplified by training."""

g = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, 4, generator=g), torch.randint(0, 3, (N,), generator=g)
IMAGES = torch.randn(N, 1, 4, 4, generator=g)
TOKENS, LABELS = torch.randint(0, 7, (N, 5), generator=g), torch.randint(0, 7, (N, 5), generator=g)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def sgd(**options):
    return partial(torch.optim.SGD, **{"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2} | options)


def training(build=mlp, data=(X, Y), double=True, **settings) -> Training:
    made = (lambda: build().double()) if double else build
    return Training(
        made, data, **{"loss": "cross_entropy", "optimizer": sgd(), "epochs": 3, "batch_size": BATCH} | settings
    )


def masks(count: int = MEMBERS, keep: int = 15, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([(rng.permutation(n) < keep) / keep for _ in range(count)])


def plainly(build, weights, seed, optimizer, epochs=3, schedule=None, skip=False) -> dict[str, torch.Tensor]:
    """The loop a user would write, independent of the library."""
    torch.manual_seed(seed)
    model, order = build().double().train(), torch.Generator().manual_seed(seed)
    steps = optimizer(model.parameters())
    scheduler = schedule(steps) if schedule else None
    w = torch.as_tensor(weights)
    for _ in range(epochs):
        places = torch.randperm(N, generator=order)
        places = places[w[places] != 0] if skip else places
        for rows in places.split(BATCH):
            losses = F.cross_entropy(model(X[rows].double()), Y[rows], reduction="none")
            steps.zero_grad()
            ((w[rows] * losses).mean() * len(places)).backward()
            steps.step()
            if scheduler:
                scheduler.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference, in units of the largest parameter."""
    assert list(one) == list(other)
    scale = max(float(value.abs().max()) for value in other.values())
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one) / scale


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("seed", [0, 3])
def test_alone_it_is_the_loop_a_user_would_write(seed, skip):
    schedule, row = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=20), masks()[1]
    found = training(schedule=schedule, skip=skip)(row, seed)
    assert apart(found, plainly(mlp, row, seed, sgd(), schedule=schedule, skip=skip)) < 1e-12
    again = training(schedule=schedule, skip=skip)(row, seed)
    assert all(torch.equal(found[name], again[name]) for name in found)


OPTIMIZERS = {
    "sgd": sgd(),
    "plain sgd": partial(torch.optim.SGD, lr=0.2),
    "nesterov": sgd(nesterov=True, dampening=0.0),
    "adam": partial(torch.optim.Adam, lr=0.02, weight_decay=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=0.02),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stacked_gives_the_parameters_of_each_alone(optimizer):
    run = training(optimizer=OPTIMIZERS[optimizer])
    for seeds in ([0] * MEMBERS, [0, 0, 1, 1, 2]):
        together = train_stacked(run, masks(), seeds)
        alone = [run(row, seed) for row, seed in zip(masks(), seeds, strict=True)]
        assert max(map(apart, together, alone)) < AGREEMENT[torch.float64]
        assert apart(alone[0], alone[1]) > 1e-3  # members are different runs


def test_a_progress_bar_that_draws_itself_does_not_end_the_run():
    """tqdm's update answers true when it draws, and a true answer to a tick ends a run of one's own."""
    run = training()
    told: list[float] = []
    found = together(run, [Task(k, row, 0) for k, row in enumerate(masks())], MEMBERS, lambda s: told.append(s) or True)
    assert max(apart(state, run(task.weights, 0)) for task, state in found) < AGREEMENT[torch.float64]
    assert abs(sum(told) - MEMBERS) < 1e-9


class Tied(nn.Module):
    """An embedding that is also the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)))


class Tokens(nn.Module):
    """A transformer layer on embedded symbols."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(7, 8), Block(), nn.Linear(8, 7)

    def forward(self, x):
        return self.head(self.block(self.embed(x)))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def half_frozen() -> nn.Module:
    found = mlp()
    found[0].weight.requires_grad_(False).copy_(torch.linspace(-1, 1, 24).view(6, 4))
    return found


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


KINDS = {
    "mlp": (mlp, (X, Y), {}),
    "skipped points": (mlp, (X, Y), {"skip": True}),
    "convolution": (convolution, (IMAGES, Y), {}),
    "batch norm": (normed, (X, Y), {"skip": True, "batch_size": 5}),
    "group norm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Linear(6, 3)), (X, Y), {}),
    "frozen layer": (half_frozen, (X, Y), {}),
    "tied": (Tied, (TOKENS, LABELS), {"loss": "token_cross_entropy"}),
    "transformer": (Tokens, (TOKENS, LABELS), {"loss": "token_cross_entropy", "optimizer": OPTIMIZERS["adam"]}),
    "regression": (lambda: nn.Linear(4, 2), (X, X[:, :2] ** 2), {"loss": "squared_error"}),
    "dictionary": (
        mlp,
        {"x": X, "y": Y},
        {"forward": lambda model, batch: (model(batch["x"]), batch["y"])},
    ),
    "callable loss": (mlp, (X, Y), {"loss": lambda f, y: F.multi_margin_loss(f, y, reduction="none")}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_model_and_data_stack(kind):
    build, data, settings = KINDS[kind]
    run, seeds = training(build, data, **settings), [0, 0, 0, 1, 2]
    together = train_stacked(run, masks(), seeds)
    alone = [run(row, seed) for row, seed in zip(masks(), seeds, strict=True)]
    assert max(map(apart, together, alone)) < AGREEMENT[torch.float64]
    model = run.model(together[0])
    assert not model.training and all(torch.equal(value, together[0][name]) for name, value in model.named_parameters())


def test_in_single_precision_they_agree_to_its_rounding():
    run = training(double=False, epochs=8)
    together, alone = train_stacked(run, masks(), [0] * MEMBERS), [run(row, 0) for row in masks()]
    assert max(map(apart, together, alone)) < AGREEMENT[torch.float32]


def test_a_point_of_weight_zero_has_no_part_in_the_training():
    """What it holds does not matter; with skip it makes no step either."""
    row, other = masks()[0], X.clone()
    other[row == 0] = 1e3
    for skip in (False, True):
        assert apart(training(skip=skip)(row, 0), training(data=(other, Y), skip=skip)(row, 0)) == 0
    assert training().steps(row) == 3 * 6 and training(skip=True).steps(row) == 3 * 3


def test_half_the_weight_is_half_the_gradient():
    row = np.full(N, 1 / N)
    run = training(optimizer=partial(torch.optim.SGD, lr=0.1), epochs=1, batch_size=N)
    start, whole, half = run.trajectory([0])[0], run(row, 0), run(row / 2, 0)
    for name, value in start.items():
        torch.testing.assert_close(whole[name] - value, 2 * (half[name] - value), rtol=1e-9, atol=1e-12)


def test_the_same_seed_reads_the_data_in_the_same_order_at_any_weights():
    run = training()
    orders = [list(map(tuple, run.rows(row, 4))) for row in masks()]
    assert all(order == orders[0] for order in orders)
    assert orders[0] != list(map(tuple, run.rows(masks()[0], 5)))
    assert sorted(np.concatenate([np.asarray(rows) for rows in orders[0][:6]])) == list(range(N))


def test_a_trajectory_ends_where_the_run_does_and_passes_its_middle():
    run = training()
    found, whole = run.trajectory([0, 1, 3], masks()[0], seed=2), run(masks()[0], 2)
    assert apart(found[2], whole) == 0
    assert apart(found[1], training(epochs=1)(masks()[0], 2)) == 0
    torch.manual_seed(2)
    assert apart(found[0], {name: p.detach() for name, p in mlp().double().named_parameters()}) == 0
    with pytest.raises(
        uw.errors.ConfigError, match=r"trajectory found epochs=\[3, 1\]. Expected different ones in rising"
    ):
        run.trajectory([3, 1])


def test_a_start_takes_the_place_of_what_the_seed_draws():
    start = training()(masks()[0], 0)
    run = training(start=start, epochs=1, batch_size=N)
    assert apart(run.trajectory([0], seed=7)[0], start) == 0
    assert apart(run(masks()[1], 1), run(masks()[1], 2)) < 1e-12  # whole batches: the order is all a seed decides
    together = train_stacked(run, masks(), list(range(MEMBERS)))
    assert max(apart(a, run(row, k)) for k, (a, row) in enumerate(zip(together, masks(), strict=True))) < 1e-10


def test_states_of_another_model_are_refused():
    whole = training()(masks()[0], 0)
    with pytest.raises(
        uw.errors.ConfigError, match=r"a state dict with head. Expected the names of what build= returns: 0.w"
    ):
        training().model(whole | {"head": torch.ones(1)})
    with pytest.raises(uw.errors.ConfigError, match=r"a state dict without 0.weight, 2.weight, 2.bias. Expected"):
        training(start={"0.bias": whole["0.bias"]})(masks()[0], 0)
    with pytest.raises(uw.errors.ShapeError, match=r"other shapes than build= returns \(size mismatch"):
        training().model(whole | {"0.bias": torch.ones(3)})


def test_training_leaves_torch_as_it_was():
    state, run = torch.get_rng_state(), training()
    run(masks()[0], 0)
    train_stacked(run, masks(), [0] * MEMBERS)
    run.model(run.trajectory([1])[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_stacked_says_so():
    dropout = training(lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)))
    with pytest.raises(
        uw.errors.ConfigError, match=r"has chance in it .*dropout.* Expected a model without; train one by one"
    ):
        train_stacked(dropout, masks(), [0] * MEMBERS)
    assert apart(dropout(masks()[0], 0), dropout(masks()[0], 0)) == 0  # alone the seed decides its chance as well
    muon = training(optimizer=lambda p: torch.optim.Adafactor(p))
    assert torch.optim.Adafactor not in ELEMENTWISE
    with pytest.raises(
        uw.errors.ConfigError, match=r"Adafactor is not known to step every number .*Expected one of SGD, Adam"
    ):
        train_stacked(muon, masks(), [0] * MEMBERS)
    uneven = masks().copy()
    uneven[0] = np.full(N, 1 / N)
    with pytest.raises(uw.errors.ConfigError, match=r"found runs over \[15, 31\] points. Expected the same number"):
        train_stacked(training(skip=True), uneven, [0] * MEMBERS)
    drawn = training(lambda: (m := mlp(), m[0].weight.requires_grad_(False))[0])
    with pytest.raises(uw.errors.ConfigError, match=r"frozen parameter '0.weight' depends on the seed"):
        train_stacked(drawn, masks(), [0, 1, 2, 3, 4])


def test_batch_norm_and_weights_of_zero_need_skip():
    run = training(normed, batch_size=8)
    with pytest.raises(uw.errors.ConfigError, match=r"depend on the whole batch .*Expected skip=True"):
        run(masks()[0], 0)
    with pytest.raises(uw.errors.ConfigError, match=r"depend on the whole batch .*Expected skip=True"):
        train_stacked(run, masks(), [0] * MEMBERS)
    assert run.mixes and not training().mixes
    assert "0.weight" in run(np.full(N, 1 / N), 0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": 0}, "ConfigError", r"epochs=0. Expected a whole number above zero"),
        ({"batch_size": 0}, "ConfigError", r"batch_size=0. Expected a whole number"),
        (
            {"optimizer": torch.optim.LBFGS},
            "ConfigError",
            r"returned LBFGS. Expected a torch optimiser that steps from grad",
        ),
        ({"optimizer": lambda p: None}, "ConfigError", r"optimizer= returned NoneType. Expected a torch optimiser"),
        ({"build": lambda: None, "double": False}, "ModelError", r"build= returned NoneType. Expected a new nn.Module"),
        ({"build": lambda: nn.ReLU()}, "ModelError", r"without parameters to train. Expected at least one"),
        ({"data": (X, Y.float())}, "LabelError", r"integer class labels"),
    ],
)
def test_a_training_that_cannot_be_is_refused(settings, error, message):
    with pytest.raises(getattr(uw.errors, error), match=message):
        training(**settings)(np.full(N, 1 / N), 0)


def test_weights_that_cannot_be_are_refused():
    run = training()
    with pytest.raises(uw.errors.ShapeError, match=r"weights of shape \(30,\). Expected \(31,\): one a training point"):
        run(np.ones(30), 0)
    for bad in (np.zeros(N), np.full(N, np.nan)):
        with pytest.raises(uw.errors.ConfigError, match=r"not finite, or all zero. Expected some points to train on"):
            run(bad, 0)


def test_threads_do_not_draw_from_each_other():
    """torch's random state belongs to the process: initial parameters and dropout must not depend on who else trains."""
    from concurrent.futures import ThreadPoolExecutor

    dropout = training(lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)))
    for run in (training(epochs=1), dropout):
        alone = [run(masks()[0], seed) for seed in range(12)]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda seed, run=run: run(masks()[0], seed), range(12)))
        assert max(map(apart, together, alone)) == 0
