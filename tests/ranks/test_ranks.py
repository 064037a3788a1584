"""Ranks of torch.distributed, really started: the answer of one process, and words when one of them fails."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import upweight as uw
from upweight.errors import ConfigError
from upweight.objective.draws import Draws
from upweight.parallel import HERE, Ranks
from upweight.parallel.ranks import shared_out

HERE_IS = Path(__file__).parent
FAST = ["ekfac", "fsdp", "uneven", "few", "sampled", "indexed"]
SLOW = [*FAST, "kfac", "share", "diagonal", "blocks", "ggn", "solver", "hessian", "linear", "ddp"]
AGREEMENT = 1e-10
"""Of the largest value: what another order of summation may change in float64."""


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE_IS), "TOKENIZERS_PARALLELISM": "false"} | more


def answers(path: Path, count: int, cases: list[str]) -> list[dict[str, np.ndarray]]:
    """What each of so many ranks answered, started by torchrun."""
    script = [str(HERE_IS / "answers.py"), str(path), *cases]
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    done = subprocess.run([sys.executable, *start, *script], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [dict(np.load(f"{path}.{rank}.npz")) for rank in range(count)]


def require_same(alone: dict[str, np.ndarray], others: list[dict[str, np.ndarray]]) -> None:
    assert all(set(other) == set(alone) for other in others)
    for other in others:
        for name, value in alone.items():
            assert value.shape == other[name].shape and np.isfinite(value).all(), name
            assert np.abs(value - other[name]).max() <= AGREEMENT * np.abs(value).max(), name


def failures(path: Path, count: int, timeout: float, cases: list[str]) -> list[dict[str, dict]]:
    """What each of so many ranks was told, started without an agent that would end them itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = [sys.executable, str(HERE_IS / "failures.py"), str(path), str(timeout), *cases]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    running = [
        subprocess.Popen(script, env=environment(RANK=str(rank), **where), stderr=subprocess.DEVNULL)
        for rank in range(count)
    ]
    try:
        for process in running:
            process.wait(timeout=900)
    finally:
        for process in running:
            process.kill()
    found = []
    for rank in range(count):
        lines = Path(f"{path}.{rank}").read_text("utf-8").splitlines() if Path(f"{path}.{rank}").exists() else []
        found.append({one["case"]: one for one in map(json.loads, lines)})
    return found


def test_three_ranks_give_the_answer_of_one_process(tmp_path):
    (alone,) = answers(tmp_path / "one", 1, FAST)
    require_same(alone, answers(tmp_path / "three", 3, FAST))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_give_the_answer_of_one_process_whatever_the_curvature(tmp_path, count):
    (alone,) = answers(tmp_path / "one", 1, SLOW)
    require_same(alone, answers(tmp_path / "many", count, SLOW))


def test_what_goes_wrong_on_one_rank_is_told_to_all_and_a_dead_one_ends_them(tmp_path):
    cases = ["raises", "other_data", "other_model", "other_question", "alone", "broken_writer", "killed"]
    first, second, third = failures(tmp_path / "said", 3, 60, cases)
    assert third["raises"]["said"].startswith("NonFiniteGradient")
    for rank in (first, second):
        assert "'stationarity' rank 2 failed: NonFiniteGradient: the loss of training example" in rank["raises"]["said"]
    for rank in (first, second, third):
        assert "the ranks differ in their training points: rank 0 has" in rank["other_data"]["said"]
        assert "the ranks differ in their parameters' values: rank 0 has" in rank["other_model"]["said"]
        assert "rank 0 at 'scores', rank 1 at 'own terms', rank 2 at 'scores'" in rank["other_question"]["said"]
        assert rank["alone"]["said"] == first["alone"]["said"] and rank["alone"]["said"].startswith("ok ")
    assert first["broken_writer"]["said"].startswith("StoreError")
    assert "'index' rank 0 failed: StoreError" in second["broken_writer"]["said"]
    assert "killed" not in second
    for rank in (first, third):
        assert rank["killed"]["said"].startswith("DistributedError: rank 1 has ended, or did not come to ")
        assert rank["killed"]["seconds"] < 60


@pytest.mark.slow
@pytest.mark.parametrize("case", ["killed_at_work", "hangs"])
def test_no_rank_hangs_whatever_happens_to_another(tmp_path, case):
    found = failures(tmp_path / "said", 3, 10, [case])
    lost = 2 if case == "killed_at_work" else 1
    for rank in range(3):
        if rank != lost:
            assert found[rank][case]["said"].startswith("DistributedError"), found[rank]
            assert found[rank][case]["seconds"] < 50
    assert any(f"rank {lost} " in found[rank][case]["said"] for rank in range(3) if rank != lost)


def test_the_page_s_script_runs_under_torchrun_and_alone(tmp_path):
    page = (HERE_IS.parent.parent / "docs" / "distributed.md").read_text("utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "attribute.py").write_text(f"import warnings; warnings.simplefilter('ignore')\n{script}", "utf-8")
    (command,) = re.findall(r"^\$ torchrun (--standalone .*)$", page, re.M)
    start = [sys.executable, "-m", "torch.distributed.run", *command.split()]
    done = subprocess.run(start, env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["2 ranks; (5, 300) effects; 300 rows in the index"]
    two = uw.load(tmp_path / "effects.safetensors")
    done = subprocess.run(
        [sys.executable, "attribute.py"], env=environment(), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("1 ranks"), done.stderr[-3000:]
    alone = uw.load(tmp_path / "effects.safetensors")
    assert np.abs(two.values - alone.values).max() <= AGREEMENT * np.abs(alone.values).max()


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_refits_are_taken_by_workers_of_dask_and_ray(backend, module):
    pytest.importorskip(module, reason=f"{module} is not installed")
    command = [sys.executable, str(HERE_IS / "backends.py"), backend]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    difference, count = done.stdout.split()
    assert float(difference) < 1e-12 and int(count) == 2 * 4 * 3


def test_without_torchrun_a_process_is_alone():
    assert uw.ranks() is HERE
    assert (HERE.share(7), HERE.exchanged("x", 3), HERE.size) == ((0, 7), [3], 1)
    halved = HERE.each("x", [2.0, 3.0], float, lambda k: (torch.tensor(k / 2),), lambda k: (torch.tensor(k),))
    assert [float(one) for (one,) in halved] == [1.0, 1.5]
    with pytest.raises(ConfigError, match="timeout=0"):
        uw.ranks(timeout=0)


@pytest.mark.parametrize("shares", [(1.0, 1.0, 1.0), (2.0, 0.0, 1.0), (0.3, 5.0, 0.7), (0.0, 0.0, 1.0)])
def test_parts_of_ranks_are_in_order_and_whole(shares):
    for count in (0, 1, 2, 3, 7, 1000):
        ends = [Ranks(rank, 3, 1.0, shares, {}, None).share(count) for rank in range(3)]
        assert ends[0][0] == 0 and ends[-1][1] == count
        assert all(a[1] == b[0] for a, b in pairwise(ends))
        sizes = np.asarray([stop - start for start, stop in ends])
        assert np.abs(sizes - count * np.asarray(shares) / sum(shares)).max() <= 1


def test_dear_items_go_round_and_a_share_of_zero_takes_none():
    assert shared_out([1, 8, 2, 8, 3, 3], (1, 1)) == [1, 0, 0, 1, 0, 1]
    assert set(shared_out([1.0] * 9, (0, 1, 2))) == {1, 2}
    assert shared_out([1.0] * 9, (0, 1, 2)).count(2) == 6


def test_drawn_numbers_belong_to_an_example():
    places = np.arange(1000)
    whole = Draws(3, places).uniform(4)
    np.testing.assert_array_equal(whole[300:307], Draws(3, places[300:307]).uniform(4))
    np.testing.assert_array_equal(whole[:, :2], Draws(3, places).uniform(2))  # padding adds none
    others = [Draws(4, places).uniform(4), Draws(3, places, 1).uniform(4), Draws(-3, places).uniform(4)]
    for other in others:
        assert abs(np.corrcoef(whole.flatten(), other.flatten())[0, 1]) < 0.05
    many = Draws(0, np.arange(50_000)).normal(2).numpy()
    assert abs(many.mean()) < 0.01 and abs(many.std() - 1) < 0.01
    assert abs(np.corrcoef(many.T)[0, 1]) < 0.02 and abs(np.corrcoef(many[:-1, 0], many[1:, 0])[0, 1]) < 0.02
    assert np.abs(np.sort(whole.flatten()) - np.linspace(0, 1, 4000)).max() < 0.03
