"""The list of faults keeps up with the source: each still finds the one place it alters."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def mutants():
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tools" / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module.MUTANTS


def test_every_fault_finds_its_one_place():
    source = ROOT / "src" / "upweight"
    lost = [one.name for one in mutants() if (source / one.file).read_text("utf-8").count(one.right) != 1]
    assert lost == []


def test_no_two_faults_share_a_name():
    names = [one.name for one in mutants()]
    assert len(set(names)) == len(names)
