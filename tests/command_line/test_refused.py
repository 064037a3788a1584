"""What the command line refuses, says and exits with."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.linear_model import LogisticRegression

import upweight as uw
from commands import WORDS, told, upweight
from upweight.cli import app
from upweight.runs import Run, Source, open_source

REFUSED = {
    "no target": (["score", "{csv}", "--out", "{out}"], 2, "needs --target"),
    "wrong target": (["score", "{csv}", "--target", "x", "--out", "{out}"], 2, "no column"),
    "wrong id": (["score", "{csv}", "--target", "answer", "--id", "x", "--out", "{out}"], 2, "--id 'x'"),
    "holdout": (
        ["score", "{csv}", "--target", "answer", "--holdout", "1.5", "--out", "{out}"],
        2,
        "--holdout found 1.5",
    ),
    "task": (["score", "{csv}", "--target", "answer", "--task", "x", "--out", "{out}"], 2, "--task 'x'"),
    "no source": (["score", "nothing", "--out", "{out}"], 2, "module:function"),
    "no file": (["score", "gone.csv", "--target", "y", "--out", "{out}"], 3, "found no file"),
    "pickle": (["score", "model.pkl", "--out", "{out}"], 3, "is a pickle"),
    "pickled model": (
        ["score", "{csv}", "--target", "answer", "--model", "m.joblib", "--out", "{out}"],
        3,
        "is a pickle",
    ),
    "hidden pickle": (["score", "{pickle}", "--target", "y", "--out", "{out}"], 3, "is a pickle"),
    "broken table": (["score", "{broken}", "--target", "y", "--out", "{out}"], 3, "cannot be read"),
    "few rows": (["score", "{few}", "--target", "y", "--out", "{out}"], 3, "at least 8"),
    "one class": (["score", "{csv}", "--target", "same", "--task", "classes", "--out", "{out}"], 3, "single class"),
    "repeated ids": (["score", "{csv}", "--target", "answer", "--id", "where", "--out", "{out}"], 3, "repeat"),
    "k": (["top", "{out}", "-k", "0"], 2, "-k found 0"),
    "no such option": (["top", "--nothing"], 2, ""),
    "no model": (
        ["score", "{csv}", "--target", "answer", "--model", "gone.skops", "--out", "{out}"],
        3,
        "found no file",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_so_and_exits_with_a_number(case, table, tmp_path):
    pickled, broken, few = (tmp_path / f"{name}.csv" for name in ("pickled", "broken", "few"))
    pickled.write_bytes(b"\x80\x04\x95.")
    broken.write_bytes(b'a,y\n"1,2\n3,4,5,6\n')
    few.write_text("a,y\n1,2\n")
    names = {"csv": table[0], "out": tmp_path / "run", "pickle": pickled, "broken": broken, "few": few}
    arguments, code, words = REFUSED[case]
    found = upweight(*(part.format(**names) for part in arguments), code=code)
    assert words in found.stderr and found.stdout == "" and "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


def test_rows_without_a_target_are_left_out_and_said(table, tmp_path):
    frame = table[1].copy()
    frame.loc[[4, 5], "answer"] = None
    path = tmp_path / "gaps.csv"
    frame.to_csv(path, index=False)
    found = upweight("score", path, "--target", "answer", "--out", tmp_path / "m", "--refits", 0)
    assert "2 rows have no 'answer'" in found.stderr
    assert not {4, 5} & set(Run(tmp_path / "m").suspects[1]["ids"])


def test_an_unfinished_run_says_how_to_finish_it(table, tmp_path):
    source = Source(str(table[0]), "answer").absolute()
    run = Run(tmp_path / "n")
    run.start(source, open_source(source))
    assert "is not finished" in upweight("top", run.folder, code=5).stderr


def test_the_doctor_says_what_is_there():
    found = told("doctor")
    assert found["core"]["torch"] and found["cores"] >= 1
    assert set(found["missing"]) <= {"ray"}  # requirements/dev.lock has everything else
    words = upweight("doctor").stdout
    assert "scikit-learn" in words and "GiB memory" in words


def test_every_command_shows_an_example_and_completes():
    commands = typer.main.get_command(app).commands
    assert len(commands) >= 12
    for command in commands:
        told = " ".join(upweight(command, "--help").stdout.split())
        assert f"Example: upweight {command}" in told and "--json" in told
    assert "--install-completion" in upweight("--help").stdout
    environment = {"_UPWEIGHT_COMPLETE": "complete_bash", "COMP_WORDS": "upweight ", "COMP_CWORD": "1"}
    found = subprocess.run(
        [sys.executable, "-c", "from upweight.cli import app; app(prog_name='upweight')"],
        env=os.environ | environment | {"PYTHONPATH": str(Path(uw.__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    assert {"score", "report", "apply"} <= set(found.stdout.split())


def test_warnings_are_notes_and_memory_errors_exit_with_six(monkeypatch, table):
    import warnings

    from upweight.cli import about

    def warn(*_):
        warnings.warn("look out", uw.errors.ApproximationWarning, stacklevel=1)
        raise MemoryError

    monkeypatch.setattr(about, "examined", warn)
    found = upweight("doctor", code=6)
    assert "ApproximationWarning: look out" in found.stderr and "out of memory" in found.stderr


def test_tables_without_anything_to_learn_from_and_unknown_forms_are_refused(table, run, tmp_path):
    path = tmp_path / "bare.csv"
    pd.DataFrame({"name": [f"n{i}" for i in range(20)], "same": 1, "y": [0, 1] * 10}).to_csv(path, index=False)
    refused = upweight("score", path, "--target", "y", "--out", tmp_path / "o", code=3)
    assert "no column to learn from" in refused.stderr
    decisions = tmp_path / "d.csv"
    decisions.write_text(f"train,decision\n{run[1]['suspects'][0]['train']},drop\n")
    assert "ends in '.xls'" in upweight("apply", decisions, "--run", run[0], "--out", tmp_path / "c.xls", code=5).stderr
    sheet = tmp_path / "people.xlsx"
    sheet.write_bytes(b"PK")
    assert "module:function" in upweight("score", sheet, "--target", "y", "--out", tmp_path / "o", code=2).stderr
    asked = upweight("score", table[0], "--target", "answer", "--validation", sheet, "--out", tmp_path / "o", code=3)
    assert "ends in '.xlsx'" in asked.stderr
    few = table[1][["a", "answer"]].drop(index=3)
    few.to_csv(path, index=False)
    model = tmp_path / "m.skops"
    pytest.importorskip("skops.io").dump(LogisticRegression().fit(table[1][["b", "c"]], table[1]["answer"]), model)
    assert (
        "lacks the pipeline's columns b, c"
        in upweight("score", path, "--target", "answer", "--model", model, "--out", tmp_path / "o", code=3).stderr
    )


def test_texts_argue_for_numbers_too(tmp_path):
    rng = np.random.default_rng(0)
    words = [" ".join(["it was", *rng.choice(WORDS["good"] + WORDS["bad"], 4), f"{i} times"]) for i in range(60)]
    stars = [sum(word in WORDS["good"] for word in text.split()) + 0.01 * i for i, text in enumerate(words)]
    path = tmp_path / "stars.csv"
    pd.DataFrame({"review": words, "stars": stars}).to_csv(path, index=False)
    display = open_source(Source(str(path), "stars")).display
    assert display.head == {"meaning": "the prediction"}
    look = display.look("lovely awful")
    assert look["heat"][0] > 0 > look["heat"][1] and display.of_query(0)["tokens"][:2] == ["it", "was"]


@pytest.mark.parametrize(
    ("module", "extra"), [("pyarrow", "arrow"), ("skops.io", "sklearn"), ("sklearn.compose", "sklearn")]
)
def test_a_missing_library_exits_with_six(module, extra, table, tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    (tmp_path / "m.skops").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, module, None)
    source = tmp_path / "t.parquet" if extra == "arrow" else table[0]
    option = ["--model", tmp_path / "m.skops"] if module == "skops.io" else []
    found = upweight("score", source, "--target", "answer", *option, "--out", tmp_path / "p", code=6)
    assert f"pip install 'upweight[{extra}]'" in found.stderr


def test_a_run_that_cannot_be_written_says_so(run, tmp_path, monkeypatch):
    folder = tmp_path / "q"
    folder.mkdir()
    (folder / "refits.jsonl").mkdir()
    with pytest.raises(uw.errors.StoreError, match="could not write to"):
        Run(folder)._append({"place": 1})


def test_an_index_is_made_asked_described_and_verified(run, tmp_path):
    folder, kept = run[0], tmp_path / "index"
    made = told("index", folder, kept)
    assert made["complete"] and told("index", folder, kept)["complete"]
    found = told("query", kept, "--run", folder, "-k", 4)
    each = Run(folder).joined()
    for row in found["queries"][:3]:
        place = each.query_ids.tolist().index(row["query"])
        order = np.argsort(each.values[place])
        best = each.train_ids[order[::-1][:4]].tolist()
        assert len({pair["train"] for pair in row["top"]} & set(best)) >= 3
    assert told("info", kept)["complete"] and told("verify", kept)["complete"]
    shard = next(path for path in kept.rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "Expected" in upweight("verify", kept, code=5).stderr
