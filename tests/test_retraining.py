"""Many retrainings: resumed after anything, by every road and backend, and a train= that does not listen is found out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from joblib._parallel_backends import SequentialBackend
from torch import nn

import upweight as uw
from upweight.evaluate import Retraining, Training, execution
from upweight.evaluate.execution import stacks
from upweight.evaluate.fingerprint import fingerprint
from upweight.evaluate.finished import InFolder
from upweight.evaluate.retraining import Task
from upweight.evaluate.timing import Measured, member_bytes, widths

N = 20
g = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, 3, generator=g), torch.randint(0, 2, (N,), generator=g)


def training(**settings) -> Training:
    made = {
        "build": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(),
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "epochs": 2,
        "batch_size": 5,
        "loss": "cross_entropy",
    }
    return Training(data=(X, Y), **made | settings)


def masks(count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([(rng.permutation(N) < 10) / 10 for _ in range(count)])


class Counted:
    """A linear map of the weights, and how often it was asked for; it may fail at a call."""

    def __init__(self, fails_at: int = 0, error: type[BaseException] = ValueError) -> None:
        self.calls, self.fails_at, self.error = 0, fails_at, error

    def __call__(self, weights: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise self.error("power cut")
        return {"w": torch.as_tensor(weights @ np.sqrt(1 + np.arange(N)) * np.ones(2)) + seed}


def listening(fails_at: int = 0, error: type[BaseException] = ValueError):
    """A train function that is the same thing each time it is made, and its counter."""
    counter = Counted(fails_at, error)
    return (lambda weights, seed: uncounted(weights, seed, counter)), counter


def uncounted(weights, seed, counter):
    return counter(weights, seed)


def same(one: list, other: list) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_nothing_finished_is_lost_and_nothing_is_trained_twice(tmp_path, kept, error):
    train, counter = listening(4, error)
    retraining = Retraining(train, folder=None if kept == "memory" else tmp_path, progress=False)
    with pytest.raises(error, match="power cut") as raised:
        retraining.all(masks())
    where = "in memory" if kept == "memory" else str(tmp_path)
    assert "3 of 6 retrainings were finished" in raised.value.__notes__[0] and where in raised.value.__notes__[0]
    if kept == "folder":
        assert len(list(tmp_path.glob("*.safetensors"))) == 3 and not list(tmp_path.glob("*.partial"))
    found = retraining.all(masks())
    assert counter.calls == 7  # three, the one that failed, and the three that were left
    assert same(found, [Counted()(row, 0) for row in masks()])
    retraining.all(masks())
    assert counter.calls == 7


def test_another_process_goes_on_where_a_killed_one_stopped(tmp_path):
    script = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from test_retraining import masks, Retraining, training
def slow(weights, seed, train=training()):
    time.sleep(0.15)
    print("trained", flush=True)
    return train(weights, seed)
Retraining(slow, folder={str(tmp_path)!r}, progress=False).all(masks())
"""
    run = [sys.executable, "-c", script]
    first = subprocess.Popen(run, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    for _ in range(3):
        assert first.stdout.readline() == "trained\n"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    finished = len(list(tmp_path.glob("*.safetensors")))
    assert 2 <= finished < 6
    second = subprocess.run(run, capture_output=True, text=True, check=True)
    assert second.stdout.count("trained") == 6 - finished
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


@pytest.mark.parametrize("road", ["one_by_one", "ensemble", "auto"])
def test_every_road_gives_the_same_parameters_in_order(road):
    seeds = [0, 1, 0, 1, 2, 2]
    found = Retraining(training(), road=road, jobs=1, width=4, progress=False).all(masks(), seeds)
    for state, row, seed in zip(found, masks(), seeds, strict=True):
        for name, value in training()(row, seed).items():
            torch.testing.assert_close(state[name], value, rtol=1e-10, atol=1e-12)


class ListsOnly(SequentialBackend):
    """A backend that cannot hand results over as they come, as Ray's cannot."""

    supports_return_generator = False


@pytest.mark.parametrize("backend", ["threading", "loky", "lists only"])
def test_every_backend_gives_the_same_parameters_and_keeps_them(tmp_path, backend):
    joblib.register_parallel_backend("lists only", ListsOnly)
    retraining = Retraining(training(), folder=tmp_path, backend=backend, jobs=2, progress=False)
    assert same(retraining.all(masks()), [training()(row, 0) for row in masks()])
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


def test_workers_that_fail_lose_nothing_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "drawing", nullcontext)  # the last one waits for the others, which it would lock out

    def train(weights, seed):
        if weights[0] == 0.0 and seed == 1:
            patience = time.monotonic() + 20
            while len(list(tmp_path.glob("*.safetensors"))) < 6 and time.monotonic() < patience:
                time.sleep(0.01)  # until the other worker has written what it finished
            raise ValueError("no disk")
        return {"w": torch.as_tensor(weights)}

    rows = np.concatenate([masks(), masks()[masks()[:, 0] == 0][:1]])
    with pytest.raises(ValueError, match="no disk"):
        Retraining(train, tmp_path, backend="threading", jobs=2, progress=False).all(rows, [0] * 6 + [1])
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


def test_backends_of_other_libraries_are_named_where_they_are_missing(monkeypatch):
    for backend, module in (("ray", "ray.util.joblib"), ("dask", "distributed")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(uw.errors.MissingExtraError, match=rf"pip install 'upweight\[{backend}\]'"):
            Retraining(training(), backend=backend, progress=False).all(masks())


def test_dask_workers_train_as_this_process_does():
    distributed = pytest.importorskip("distributed")
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):
        found = Retraining(training(), backend="dask", progress=False).all(masks(4))
    assert same(found, [training()(row, 0) for row in masks(4)])


def test_equal_rows_and_seeds_are_trained_once():
    train, counter = listening()
    rows = np.concatenate([masks(2), masks(2)])
    found = Retraining(train, progress=False).all(rows)
    assert counter.calls == 2 and same(found[:2], found[2:])
    assert len(Retraining(train, progress=False).all(masks()[0])) == 1


@pytest.mark.parametrize("kind", ["weights", "seed", "nearby weights"])
def test_a_train_that_does_not_listen_is_found_out(kind):
    def deaf(weights, seed):
        return {"w": torch.full((2,), float(seed))} if "weights" in kind else {"w": torch.as_tensor(weights)}

    rows, seeds = masks(3), 0
    if kind == "seed":
        rows, seeds = np.concatenate([masks(1)] * 3), [0, 1, 2]
    if kind == "nearby weights":
        rows = np.stack([np.where(np.arange(N) == i, 0.0, 1 / N) for i in range(3)])
    words = (
        r"for the seeds 0 and 1. Expected it to use its seed" if kind == "seed" else r"Expected it to use its weights"
    )
    with pytest.raises(uw.errors.ConfigError, match=words):
        Retraining(deaf, progress=False).all(rows, seeds)


def test_points_that_leave_without_a_trace_are_no_sign_of_deafness():
    """Support vectors: most points of a hinge loss have no gradient, so leaving one out changes nothing."""
    counter = []

    def train(weights, seed):
        counter.append(weights)
        return {"w": torch.as_tensor(weights[:4].copy())}

    rows = np.stack([np.where(np.arange(N) == i, 0.0, 1 / N) for i in range(8, 14)])
    assert len(Retraining(train, progress=False).all(rows)) == 6
    assert len(counter) == 7  # one more, on every other point, settled it


def test_a_retraining_that_diverges_is_refused_and_kept_out_of_the_folder(tmp_path):
    linear = {"build": lambda: nn.Linear(3, 2).double(), "loss": lambda f, y: f.pow(4).sum(1)}
    wild = training(optimizer=partial(torch.optim.SGD, lr=1e30), **linear)
    for road in ("one_by_one", "ensemble"):
        with pytest.raises(uw.errors.NonFiniteInput, match=r"NaN or infinity. Expected finite parameters"):
            Retraining(wild, tmp_path, road=road, jobs=1, width=3, progress=False).all(masks())
    assert list(tmp_path.glob("*.safetensors")) == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"road": "rail"}, "ConfigError", r"road='rail' is unknown. Expected one of auto, one_by_one, ensemble"),
        (
            {"train": lambda w, s: {}, "road": "ensemble"},
            "ConfigError",
            r"type function. Expected a uw.evaluate.Training",
        ),
        ({"train": nn.Linear(1, 1)}, "ConfigError", r"train= found Linear. Expected a callable \(weights, seed\)"),
        ({"jobs": 0}, "ConfigError", r"jobs=0. Expected a whole number above zero"),
        ({"width": -1}, "ConfigError", r"width=-1. Expected a whole number above zero"),
        ({"folder": "/proc/nowhere"}, "StoreError", r"could not make the folder /proc/nowhere"),
        ({"train": lambda w, s: {"w": "x"}}, "ConfigError", r"returned 'w' of type str. Expected tensors or arrays"),
    ],
)
def test_a_retraining_that_cannot_be_is_refused(settings, error, message):
    with pytest.raises(getattr(uw.errors, error), match=message):
        Retraining(**{"train": training(), "progress": False} | settings).all(masks())


def test_rows_and_seeds_must_line_up():
    with pytest.raises(
        uw.errors.ShapeError, match=r"weights of shape \(6, 20\) and 2 seeds. Expected weights \(r, n\)"
    ):
        Retraining(training(), progress=False).all(masks(), [0, 1])
    with pytest.raises(uw.errors.ConfigError, match=r"found train= of type function. Expected a uw.evaluate.Training"):
        Retraining(lambda w, s: {}, progress=False).measured(masks())


def test_a_damaged_file_is_refused_by_name(tmp_path):
    retraining = Retraining(training(), tmp_path, road="one_by_one", jobs=1, progress=False)
    retraining.all(masks(2))
    broken = next(iter(tmp_path.glob("*.safetensors")))
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(uw.errors.StoreError, match=rf"{broken.name} is damaged"):
        Retraining(training(), tmp_path, progress=False).all(masks(2))


def test_states_survive_the_folder_whatever_their_type(tmp_path):
    state = {"half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(3), "w": torch.ones(2, 3)[:, :2]}
    store = InFolder(tmp_path)
    store.put("key", state)
    found = store.get("key")
    assert store.get("other") is None and found["count"].shape == () and found["count"].dtype == torch.int64
    assert all(torch.equal(found[name].to(value.dtype), value) for name, value in state.items())


CHANGES = {
    "learning rate": {"optimizer": partial(torch.optim.SGD, lr=0.2)},
    "optimiser": {"optimizer": partial(torch.optim.Adam, lr=0.1)},
    "epochs": {"epochs": 3},
    "batch": {"batch_size": 4},
    "skip": {"skip": True},
    "start": {"start": {"0.bias": torch.ones(4)}},
    "width": {"build": lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()},
    "schedule": {"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 3)},
    "loss": {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
    "one number of the data": {"data": (X.index_fill(0, torch.tensor([3]), 0.5), Y)},
    "one label": {"data": (X, Y.index_fill(0, torch.tensor([3]), 1 - int(Y[3])))},
}


@pytest.mark.parametrize("what", CHANGES)
def test_anything_else_about_the_training_is_another_name(what):
    own = {
        "data": (X, Y),
        "loss": "cross_entropy",
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "epochs": 2,
        "batch_size": 5,
    }
    own |= {"build": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()}
    name = fingerprint(Training(**own))
    assert name == fingerprint(Training(**own | {"data": (X.clone(), Y.clone())}))
    assert name != fingerprint(Training(**own | CHANGES[what]))


SCALE = 2.0


def scaled(weights, seed):
    return weights * SCALE


def test_functions_are_known_by_their_code_and_what_they_name(monkeypatch):
    before = fingerprint(scaled)
    assert before == fingerprint(scaled)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert fingerprint(scaled) != before

    def closing(rate):
        return lambda weights, seed: weights * rate

    assert fingerprint(closing(1.0)) == fingerprint(closing(1.0)) != fingerprint(closing(2.0))
    assert fingerprint(lambda w, s: w + 1) != fingerprint(lambda w, s: w + 2)
    assert fingerprint(lambda w, s: w + 1) != fingerprint(lambda w, s: w - 1)
    model = nn.Linear(2, 2)
    known = fingerprint(model)
    with torch.no_grad():
        model.weight[0, 0] += 1e-6
    assert fingerprint(model) != known
    recursive: list = [1]
    recursive.append(recursive)
    assert fingerprint(recursive) == fingerprint(recursive)
    assert fingerprint({1, 2, 3}) == fingerprint({3, 2, 1}) and fingerprint(1) != fingerprint("1") != fingerprint(1.0)
    import pandas as pd

    frame = pd.DataFrame({"a": np.arange(500), "b": ["x"] * 500})
    other = frame.copy()
    other.loc[250, "a"] = -1
    assert fingerprint(frame) == fingerprint(frame.copy()) != fingerprint(other)

    class Trainer:
        rate = 1.0

        def __init__(self, rate):
            self.rate = rate

        def __call__(self, weights, seed):
            return weights * self.rate

    assert fingerprint(Trainer(1.0)) == fingerprint(Trainer(1.0)) != fingerprint(Trainer(2.0))
    assert fingerprint(Trainer(1.0).__call__) != fingerprint(Trainer(2.0).__call__)


def test_the_measurement_times_every_road_and_takes_the_faster():
    retraining = Retraining(training(epochs=20), jobs=1, progress=False)
    retraining.all(masks())
    assert [one.count for one in retraining.log] == [6] and retraining.log[0].alone > 0
    found = Retraining(training(epochs=20), jobs=2, progress=False).measured(masks())
    assert found.alone > 0 and set(found.stacked) == {6} and found.count == 6 and "6 at once" in found.words
    quick = Measured(100, 2, 1.0, 0.6, {8: 0.5, 32: 0.2, 100: 0.3})
    assert (quick.road, quick.width) == ("ensemble", 32) and "taken 32 at once" in quick.words
    slow = Measured(100, 2, 1.0, 0.6, {8: 0.9})
    assert (slow.road, slow.workers) == ("one_by_one", 2) and "one by one in 2 processes" in slow.words
    few = Measured(4, 2, 1.0, 0.6, {}, "not at once, since x")
    assert (few.road, few.workers, few.width) == ("one_by_one", 1, 1) and "not at once, since x" in few.words
    wide = Measured(33, 1, 9.0, 9.0, {32: 1.0, 33: 1.05})
    assert wide.width == 33  # 32 and one more stack of one cost more
    dropout = training(build=lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)).double())
    chance = Retraining(dropout, jobs=1, progress=False).measured(masks())
    assert chance.stacked == {} and "dropout" in chance.words and chance.road == "one_by_one"
    with pytest.raises(uw.errors.ConfigError, match=r"has chance in it"):
        Retraining(dropout, road="ensemble", width=3, progress=False).all(masks())


def test_stacks_hold_one_number_of_points_and_seeds_side_by_side():
    run = training(skip=True)
    rows = masks().copy()
    rows[2] = 1 / N
    tasks = [Task(place, row, seed) for place, (row, seed) in enumerate(zip(rows, [1, 0, 1, 0, 1, 0], strict=True))]
    assert [[task.place for task in stack] for stack in stacks(run, tasks, 3)] == [[1, 3, 5], [0, 4], [2]]
    assert widths(run, tasks) == [6]
    uneven = Retraining(run, jobs=1, progress=False).measured(rows)
    assert set(uneven.stacked) == {5} and uneven.count == 6  # those whose batches are of one size


def test_a_stack_stays_within_memory(monkeypatch):
    tasks = [Task(place, row, 0) for place, row in enumerate(masks(40))]
    run = training(batch_size=20)
    inputs, hidden, outputs, parameters = 20 * 3, 20 * 4, 20 * 2, 3 * 4 + 4 + 4 * 2 + 2
    floor = 8 * (5 * parameters + 2 * (inputs + 2 * hidden + outputs))
    assert floor <= member_bytes(run) <= 2 * floor
    monkeypatch.setattr("upweight.evaluate.timing.STACK_BYTES", 11 * member_bytes(run))
    assert widths(run, tasks) == [8, 11]
    monkeypatch.setattr("upweight.evaluate.timing.STACK_BYTES", 1)
    assert widths(run, tasks) == [] and Retraining(run, jobs=1, progress=False).measured(masks()).road == "one_by_one"


def test_a_bar_tells_the_time_left(capfd):
    def slow(weights, seed):
        time.sleep(0.12)
        return {"w": torch.as_tensor(weights)}

    Retraining(slow, progress=True).all(masks(3))
    shown = capfd.readouterr().err
    assert "retraining" in shown and "2/3" in shown and "<00:00" in shown


def test_it_is_itself_a_train_function():
    train, counter = listening()
    retraining = Retraining(train, progress=False)
    assert same([retraining(masks()[0], 3)], [Counted()(masks()[0], 3)])
    retraining(masks()[0], 3)
    assert counter.calls == 1 and "Retraining by function" in repr(retraining)
    assert "2 epochs in batches of 5 over 20 points" in repr(Retraining(training()))
    assert "left out of the batches" in repr(training(skip=True))
