"""The code of docs/report.md and docs/cli.md, and the README's commands, run as written."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from upweight.cli import app

ROOT = Path(__file__).resolve().parent.parent


def blocks(name, kind):
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / name).read_text("utf-8"), re.S)


def test_the_python_of_the_report_s_page_runs(tmp_path):
    code = "\n".join(blocks("docs/report.md", "python"))
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert "If you follow these 3 decisions (2 relabelled, 1 dropped, 0 kept)" in printed
    assert "predicted to fall" in printed and "Really refitted: it fell" in printed
    assert (tmp_path / "report.html").stat().st_size > 600_000


@pytest.fixture
def people(tmp_path, monkeypatch):
    """people.csv with a column income, and decisions.csv as the page exports them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 2))
    income = np.where(x.sum(1) + 0.3 * rng.standard_normal(200) > 0, "high", "low")
    income[7] = "low" if income[7] == "high" else "high"
    frame = pd.DataFrame({"age": x[:, 0].round(3), "hours": x[:, 1].round(3), "income": income})
    frame.to_csv(tmp_path / "people.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return frame


@pytest.mark.parametrize("name", ["docs/cli.md", "README.md"])
def test_every_command_of_the_docs_runs(name, people):
    commands = [
        line[2:] for block in blocks(name, "console") for line in block.splitlines() if line.startswith("$ upweight")
    ]
    assert len(commands) >= 3
    for command in commands:
        if "decisions.csv" in command:
            top = CliRunner().invoke(app, ["top", "runs/a", "-k", "1", "--json"]).stdout
            train, given = re.search(r'"train": (\d+), "given": "(\w+)"', top).groups()
            Path("decisions.csv").write_text(f"train,position,decision,label,given\n{train},,drop,,{given}\n")
        found = CliRunner().invoke(app, shlex.split(command.split("#")[0])[1:])
        assert found.exit_code == 0, (command, found.output)
    assert len(pd.read_csv("cleaned.csv")) == 199 and Path("report.html").exists()
    shutil.rmtree("runs")
