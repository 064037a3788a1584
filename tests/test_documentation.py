"""Every block of code of every page and of the README runs as written; pages, links and the API page are whole."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from typer.testing import CliRunner

import upweight as uw
from upweight.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
DIRECTIVES = ("{toctree}", "{eval-rst}")
"""Blocks that are not code: Sphinx builds them."""


@dataclass(frozen=True)
class Block:
    """A fenced block and the line of the page its text begins on."""

    kind: str
    line: int
    text: str


@cache
def blocks(page: Path) -> list[Block]:
    parsed = MarkdownIt().enable("table").parse(page.read_text("utf-8"))
    return [Block(t.info.strip(), t.map[0] + 1, t.content) for t in parsed if t.type == "fence"]


def commands(page: Path) -> list[str]:
    """The lines of a page's console blocks, without their comments."""
    lines = [line for block in blocks(page) if block.kind == "console" for line in block.text.splitlines()]
    return [bare for line in lines if (bare := re.sub(r"\s+#.*", "", line).strip())]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


WITH_PYTHON = [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]

PROMISED = {
    "README.md": ["Effects (20 × 469)", "rank", "loss_rank", "Calibration on 20 real refits", "stationarity"],
    "docs/checking.md": [
        "Calibration on 20 proximal responses × 40 queries",
        "Calibration on 10 real refits × 40 queries",
        r"6 \['0.weight', '0.bias', '2.weight', '2.bias'\]",
        "two-sample t-test",
        r"LDS 0\.",
        "Comparison, difference",
        "15 wrong labels among 300",
        "Brittleness of 3 predictions",
        "Mean over 3 models",
    ],
    "docs/damping.md": ["ranking at ten times", "of the usual, ranking 1.00", "10 retrainings"],
    "docs/index-store.md": [
        "Index of 2,000 training points",
        "1,506 of 1,604 numbers",
        "10 appended, 2 deleted",
        r"(?m)^True ",
    ],
    "docs/language-models.md": [
        "Linear ",
        r"\(2, 2, 19\) True",
        "Recording of 10 steps in 2 epochs",
        r"\[?2, 40",
        "rounding",
    ],
    "docs/distributed.md": [r"1 ranks; \(5, 300\) effects; 300 rows in the index"],
    "docs/plan.md": ["ekfac"],
    "docs/penalty.md": [r"fixed_total  relative error \d\.\de-1\d", r"fixed_mean   relative error \d\.\de-0[12]"],
    "docs/report.md": [
        r"If you follow these 3 decisions \(2 relabelled, 1 dropped, 0 kept\)",
        "predicted to fall",
        "Really refitted: it fell",
    ],
    "docs/statistics.md": [
        "would change its sign",
        "CrossValidation of 469 points",
        "standard error",
        "the auc",
        "l2",
    ],
    "docs/start.md": ["Effects", "Calibration on 10 real refits", "stationarity", "Solved by ekfac"],
}
"""What a page's code prints, as patterns."""

NEEDED = {"docs/language-models.md": ["transformers", "accelerate"]}
"""Libraries without which a page's code is skipped: extras that development need not have."""

LEFT = {
    "docs/checking.md": ["truth.npz", "runs"],
    "docs/index-store.md": ["index/manifest.json"],
    "docs/language-models.md": ["report.html", "run/run.safetensors"],
    "docs/report.md": ["report.html"],
}
"""Files a page's code leaves behind."""


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    for module in NEEDED.get(named(page), []):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "__page__"}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks(page):
            if block.kind == "python":
                run(block.text, page, block.line, space)
        if page.name == "methods.md":
            lines_of_the_table(page, space)
    printed = capsys.readouterr().out
    for pattern in PROMISED.get(named(page), []):
        assert re.search(pattern, printed) or pattern in printed, (pattern, printed)
    for name in LEFT.get(named(page), []):
        assert (tmp_path / name).exists()


def run(code: str, page: Path, line: int, space: dict[str, object]) -> None:
    """Execute a block, so that a traceback names the page and its line."""
    tree = ast.increment_lineno(ast.parse(code, str(page)), line)
    exec(compile(tree, str(page), "exec"), space)


def lines_of_the_table(page: Path, space: dict[str, object]) -> None:
    """The one-line methods of the table, and the shapes they answer with."""
    lines = re.findall(r"^\|.*\| `(.*)` \|$", page.read_text("utf-8"), re.M)
    shapes = [tuple(eval(line, space).shape) for line in lines]
    assert shapes == [(2, 200)] * 11 + [(1, 2), (2, 200), (2, 2)]
    assert eval("(uw.rows(Q) @ uw.linop.Gaussian(Q.space.size, 64)).shape", space) == (200, 64)


@pytest.fixture
def people(tmp_path, monkeypatch):
    """people.csv with a column income, one of whose labels is wrong."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 2))
    income = np.where(x.sum(1) + 0.3 * rng.standard_normal(200) > 0, "high", "low")
    income[7] = "low" if income[7] == "high" else "high"
    frame = pd.DataFrame({"age": x[:, 0].round(3), "hours": x[:, 1].round(3), "income": income})
    frame.to_csv(tmp_path / "people.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return frame


def test_every_command_of_the_pages_runs(people):
    """Each once, in the order of the pages; what is decided in the page in between is dropping the first suspect."""
    pages = [DOCS / "cli.md", *(page for page in PAGES if page.name != "cli.md")]
    found = dict.fromkeys(line[2:] for page in pages for line in commands(page) if line.startswith("$ upweight"))
    assert len(found) >= 7
    for command in found:
        if "decisions.csv" in command:
            top = CliRunner().invoke(app, ["top", "runs/a", "-k", "1", "--json"]).stdout
            train, given = re.search(r'"train": (\d+), "given": "(\w+)"', top).groups()
            Path("decisions.csv").write_text(f"train,position,decision,label,given\n{train},,drop,,{given}\n")
        answer = CliRunner().invoke(app, shlex.split(command)[1:])
        assert answer.exit_code == 0, (command, answer.output)
    assert len(pd.read_csv("cleaned.csv")) == 199 and Path("report.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_block_is_of_a_kind_that_nothing_runs(page):
    assert {block.kind for block in blocks(page)} <= {"python", "console", *DIRECTIVES}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in commands(page):
        words = shlex.split(line)
        match words:
            case ["$", "upweight", *_]:
                continue  # run above
            case ["$", "torchrun", *_]:
                continue  # run in tests/ranks/test_ranks.py
            case ["make", target]:
                assert target in targets, line
            case ["pip", "install", *named_]:
                wanted = [
                    extra for word in named_ for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")
                ]
                assert set(wanted) <= set(extras), line
            case ["python", script, *_]:
                assert (ROOT / script).is_file(), line
            case _:
                pytest.fail(f"nothing runs {line!r}")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text("utf-8")):
        if "://" not in target and target != "examples/index":
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_table_of_contents():
    trees = " ".join(block.text for block in blocks(DOCS / "index.md") if block.kind == "{toctree}").split()
    missing = {page.stem for page in DOCS.glob("*.md")} - {"index"} - set(trees)
    assert not missing, f"add {missing} to a toctree of docs/index.md"


def test_every_public_name_is_on_the_api_page():
    listed = set(re.findall(r"^   ([\w.]+)$", (DOCS / "api.md").read_text("utf-8"), re.M))
    public = {f"upweight.{name}" if f"upweight.{name}" in listed else name for name in uw.__all__}
    assert public <= listed, f"add {public - listed} to docs/api.md"


def test_generated_tables_say_what_the_results_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tables = importlib.import_module("tables")
    for name in {where for where, _ in tables.TABLES}:
        assert (DOCS / name).read_text("utf-8") == tables.with_tables(name), "run: python benchmarks/tables.py"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Without the figures of the examples, which run in tests/test_examples.py."""
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-D", "plot_gallery=0", "-b", "html"]
    found = subprocess.run([*command, "docs", tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert {"index.html", "start.html", "rivals.html"} <= {path.name for path in tmp_path.glob("*.html")}
    assert (tmp_path / "api" / "upweight.Study.html").exists() and not found.stderr
