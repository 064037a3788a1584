"""kill -9 at any moment, then the same calls again: the same bytes as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("interrupted.py")


def run(folder: Path, *arguments: str) -> dict:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *arguments, str(folder)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_twenty_kills_at_random_moments_change_no_byte(tmp_path):
    found = run(tmp_path, "random", "20", "0")
    assert found["killed"] >= 20
    assert found["files"] == 12  # manifest, journal, basis, seven shards, two appended
    assert found["wrong"] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_two_hundred_kills_at_random_moments_change_no_byte(tmp_path, seed):
    found = run(tmp_path, "random", "200", seed)
    assert found["killed"] >= 200
    assert found["wrong"] == []


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_every_file_operation_changes_no_byte(tmp_path, when):
    found = run(tmp_path, "operations", when)
    assert found["killed"] >= 100
    assert found["wrong"] == []
