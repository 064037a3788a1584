"""The house: floors are climbed downwards only, the two wings keep apart, files and functions stay short."""

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import upweight
from upweight.fitted import Settings, SolverSettings, StudySettings
from upweight.huggingface import SequenceSettings

ROOT = Path(upweight.__file__).parent
FLOORS = {
    1: ["errors", "_typing", "router", "float32_products"],
    2: ["space", "store", "show", "displays", "parallel"],
    3: ["linop", "objective"],
    4: ["tiles"],
    5: ["solve", "gradients"],
    6: ["influence", "adapters", "curvature"],
    7: ["planning"],
    8: ["fitted", "methods"],
    9: ["questions"],
    10: ["evaluate"],
    11: ["inference", "review"],
    12: ["report"],
    13: ["study"],
    14: ["frameworks", "huggingface", "index"],
    15: ["runs", "demo", "__init__"],
    16: ["cli"],
    17: ["__main__"],
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
ALGEBRA = {"linop", "solve", "tiles", "influence"}
MODEL = {"objective", "gradients", "adapters"}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path):
    """Rooms a file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "upweight" and len(parts) > 1 and parts[1] in FLOOR:
                yield parts[1]


def test_the_plan_for_contributors_puts_every_room_on_its_floor():
    page = (ROOT.parent.parent / "CONTRIBUTING.md").read_text("utf-8")
    found = {}
    for first, last, rooms in re.findall(r"^\| (\d+)(?:-(\d+))? \| (.*) \|$", page, re.M):
        for room in re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", rooms)):
            found[room] = (int(first), int(last or first))
    assert set(found) == set(FLOOR) - {"__init__"}
    assert all(least <= FLOOR[room] <= most for room, (least, most) in found.items())


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_from_lower_floors_only(path):
    here = room_of(path)
    wrong = [room for room in imports(path) if room != here and FLOOR[room] >= FLOOR[here]]
    assert wrong == []


def test_the_algebra_never_reaches_a_model_and_the_model_never_a_solver():
    for path in FILES:
        if room_of(path) in ALGEBRA:
            assert not set(imports(path)) & MODEL, path
        if room_of(path) in MODEL:
            assert not set(imports(path)) & {"solve", "influence"}, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_have_a_caption_and_stay_short(path):
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text)), "the first line is a caption"
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = (
                node.end_lineno
                - node.body[0].lineno
                + 1
                - (node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0)
            )
            assert body <= 40, f"{node.name} has {body} lines"


def test_one_room_owns_hashing_and_nobody_else_digests_what_is_kept():
    """The page hashes its own scripts for its policy, and labels are drawn by a hash: neither names anything that is kept."""
    hashing = {
        str(path.relative_to(ROOT))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name == "hashlib" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "hashlib")
    }
    assert hashing == {"store/fingerprints.py", "report/page.py", "objective/randomised.py"}


def test_every_setting_is_listed_once_and_shown_by_every_function_that_takes_it():
    names = {field.name for field in dataclasses.fields(Settings)} - {"chosen", "precision"}
    assert set(StudySettings.__annotations__) == names
    for function, known in (
        (upweight.Study, StudySettings),
        (upweight.from_sklearn, StudySettings),
        (upweight.from_statsmodels, SolverSettings),
        (upweight.huggingface.causal_lm, SequenceSettings),
        (upweight.huggingface.sequence_classification, SequenceSettings),
        (upweight.huggingface.from_trainer, SequenceSettings),
    ):
        shown = inspect.signature(function).parameters
        assert set(known.__annotations__) <= set(shown) and "settings" not in shown
        for name in names & set(known.__annotations__):
            assert shown[name].default == getattr(Settings, name)
            assert name in upweight.Study.__doc__


def test_importing_the_library_brings_no_table_plot_or_command_line_library():
    heavy = [
        "pandas",
        "matplotlib",
        "typer",
        "rich",
        "jinja2",
        "sklearn",
        "statsmodels",
        "xarray",
        "transformers",
        "peft",
    ]
    script = f"import sys, upweight; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_every_public_name_is_documented():
    for name in upweight.__all__:
        assert getattr(upweight, name).__doc__, name
    for name in dir(upweight.Study):
        if not name.startswith("_"):
            assert getattr(upweight.Study, name).__doc__, name
