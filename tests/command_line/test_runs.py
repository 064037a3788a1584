"""The command line as a person uses it: a table scored, looked at, decided about and written back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import upweight as uw
from commands import told, upweight
from upweight.runs import Run, open_source


def test_scoring_says_what_was_fitted_and_finds_wrong_labels(table, run):
    _, _, wrong = table
    folder, found, talk = run
    assert (
        "default pipeline: 3 numeric columns" in talk
        and "1 categorical columns" in talk
        and "LogisticRegression(C=1)" in talk
    )
    assert "not used: name, same" in talk and "are held out" in talk and f"upweight report {folder}" in talk
    assert found["points"] == 129 and found["refits"]["count"] == 6
    assert found["refits"]["slope"] == pytest.approx(1, abs=0.1) and found["refits"]["pearson"] > 0.99
    suspects = {row["train"] for row in found["suspects"]}
    trained = set(Run(folder).suspects[1]["ids"])
    assert len(suspects & set(wrong.tolist())) >= 0.7 * len(trained & set(wrong.tolist())) > 0


def test_the_run_holds_what_the_library_says(table, run):
    folder, found, _ = run
    opened = open_source(Run(folder).source)
    study = opened.study
    frame = study.mislabeled(10)
    assert [row["train"] for row in told("top", folder, "-k", 10)] == frame["train"].tolist()
    assert [row["suggested"] for row in found["suspects"]] != [row["given"] for row in found["suspects"]]
    mean = study.drop(opened.query, aggregate="mean")
    for side, flag in ((mean.harmful(5), "--harmful"), (mean.helpful(5), "--helpful")):
        rows = told("top", folder, "--query", "mean", "-k", 5, flag)
        assert [row["train"] for row in rows] == side["train"].tolist()
        np.testing.assert_allclose([row["effect"] for row in rows], side["effect"], rtol=1e-9)
    name = Run(folder).joined().query_ids[3]
    one = study.drop(opened.query).harmful(4)
    rows = told("top", folder, "--query", name, "-k", 4)
    assert [row["train"] for row in rows] == one[one["query"] == name]["train"].tolist()


def test_words_and_json_say_the_same(run):
    folder, _, _ = run
    words = upweight("top", folder, "-k", 3).stdout
    for row in told("top", folder, "-k", 3):
        assert str(row["train"]) in words and f"{row['self_influence']:.4g}" in words


def test_a_run_goes_on_where_it_stopped(table, run, tmp_path):
    folder, _, _ = run
    again = tmp_path / "b"
    upweight("score", table[0], "--target", "answer", "--out", again, "--refits", 2)
    first = sorted(again.glob("each-*"))
    assert len(first) == 4
    kept = {path.name: path.stat().st_mtime_ns for path in again.iterdir()}
    first[1].unlink(), (again / "mean.safetensors").unlink()
    with (again / "refits.jsonl").open("a") as file:
        file.write('{"place": 3, "refi')  # what a crash leaves
    upweight("score", table[0], "--target", "answer", "--out", again, "--refits", 6)
    for path in again.iterdir():
        redone = path.name in (first[1].name, "mean.safetensors", "refits.jsonl")
        assert (path.stat().st_mtime_ns != kept[path.name]) == redone, path
    for name in (first[1].name, "mean.safetensors"):
        np.testing.assert_array_equal(uw.load(again / name).values, uw.load(folder / name).values)
    assert len(Run(again).refits) >= 6
    assert told("diff", folder, again)["suspects_spearman"] == 1.0


def test_control_c_leaves_what_was_done_and_says_how_to_go_on(table, tmp_path):
    out = tmp_path / "c"
    command = [
        sys.executable,
        "-m",
        "upweight",
        "score",
        table[0],
        "--target",
        "answer",
        "--out",
        out,
        "--refits",
        "100",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(uw.__file__).parent.parent)}
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    while not (out / "refits.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, talk = process.communicate()
    assert process.returncode == 130 and printed == "" and "the same command goes on" in talk
    done = len(Run(out).refits)
    assert 1 <= done < 100 and not list(out.glob(".*partial"))
    upweight("score", table[0], "--target", "answer", "--out", out, "--refits", 100)
    assert len(Run(out).refits) == 100


def test_a_run_of_something_else_is_not_gone_on_with(table, run, tmp_path):
    folder, _, _ = run
    assert (
        "holds a run of target 'answer'"
        in upweight("score", table[0], "--target", "where", "--out", folder, code=5).stderr
    )
    copy = tmp_path / "people.csv"
    copy.write_bytes(table[0].read_bytes())
    out = tmp_path / "d"
    upweight("score", copy, "--target", "answer", "--out", out, "--refits", 0)
    text = copy.read_text()
    copy.write_text(text.replace(",no\n", ",yes\n", 3))
    for command in (["score", copy, "--target", "answer", "--out", out], ["report", out, "--out", tmp_path / "r.html"]):
        assert "training set" in upweight(*command, code=5).stderr
    copy.write_bytes(table[0].read_bytes())
    upweight("report", out, "--out", tmp_path / "r.html")
    copy.write_text(copy.read_text().replace("0.", "5.", 40))
    for command in (["score", copy, "--target", "answer", "--out", out], ["check", out]):
        assert "the model or the inputs have changed" in upweight(*command, code=5).stderr
    (out / "run.json").write_text("{")
    assert "is damaged" in upweight("top", out, code=5).stderr
    (out / "run.json").write_text('{"format": "other"}')
    assert "no run of this version" in upweight("top", out, code=5).stderr
    assert "found no run" in upweight("top", tmp_path / "nowhere", code=5).stderr


def test_the_report_and_what_was_decided_in_it(table, run, tmp_path):
    path, _, _ = table
    folder, found, _ = run
    page, cleaned = tmp_path / "r.html", tmp_path / "cleaned.csv"
    assert told("report", folder, "--out", page, "--groups", "where")["bytes"] == page.stat().st_size
    text = page.read_text("utf-8")
    assert (
        str(path.parent) not in text
        and str(tmp_path) not in text
        and "upweight score people.csv" in text
        and "What the rows of people.csv did" in text
    )
    first, second = found["suspects"][:2]
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(
        f"train,position,decision,label,given\n{first['train']},,relabel,{first['suggested']},{first['given']}\n{second['train']},,drop,,\n"
    )
    told_ = told("apply", decisions, "--run", folder, "--out", cleaned)
    opened = open_source(Run(folder).source)
    direct = opened.study.what_if(decisions, opened.query)
    assert told_["what_if"]["predicted"] == pytest.approx(direct.predicted)
    assert told_["what_if"]["refitted"] == pytest.approx(told_["what_if"]["predicted"], rel=0.05)
    before, after = path.read_text().splitlines(), cleaned.read_text().splitlines()
    expected = [line for row, line in enumerate(before) if row != second["train"] + 1]
    changed = before[first["train"] + 1].rsplit(",", 1)[0] + "," + first["suggested"]
    assert after == [changed if line == before[first["train"] + 1] else line for line in expected]
    assert "Written" in upweight("apply", decisions, "--run", folder, "--out", cleaned, "--no-refit").stdout
    assert "never overwritten" in upweight("apply", decisions, "--run", folder, "--out", path, code=2).stderr
    assert "is no column" in upweight("report", folder, "--out", page, "--groups", "nope", code=2).stderr
    decisions.write_text("train,decision\nrow,drop\n")
    assert "no training point is called 'row'" in upweight("apply", decisions, "--run", folder, code=3).stderr


def test_check_makes_the_refits_that_are_missing(run):
    folder, _, _ = run
    found = told("check", folder, "--refits", 9)
    opened = open_source(Run(folder).source)
    gathered = Run(folder).gathered(opened)
    direct = gathered.about(gathered.shown).query
    assert found["refits"] == 9 and len(Run(folder).refits) >= 9 and found["slope"] == pytest.approx(1, abs=0.1)
    from upweight.evaluate.calibration import check

    expected = check(opened.study, gathered.each, direct, "loss", 9)
    assert found["slope"] == pytest.approx(expected.slope, rel=1e-6)
    assert "at least 2" in upweight("check", folder, "--refits", 1, code=2).stderr


def test_every_row_is_scored_where_none_is_held_out(table, run, tmp_path):
    out = tmp_path / "e"
    found = told("score", table[0], "--target", "answer", "--holdout", 0, "--out", out, "--id", "name")
    assert found["points"] == 160 and found["queries_shown"] == 0 and found["refits"] is None
    assert found["suspects"][0]["train"].startswith("row")
    assert "share 0 rows" in upweight("diff", run[0], out, code=2).stderr
    assert "no effects" in upweight("top", out, "--query", "mean", code=5).stderr
    assert "no queries" in upweight("check", out, code=2).stderr
    decisions = tmp_path / "d.csv"
    decisions.write_text("train,decision\nrow003,drop\n")
    assert told("apply", decisions, "--run", out)["what_if"] is None
    assert "nothing tells" in upweight("apply", decisions, "--run", out).stdout


def test_rows_to_ask_about_come_from_another_table(table, tmp_path):
    frame = table[1]
    train, asked = tmp_path / "train.parquet", tmp_path / "asked.tsv"
    frame[:120].to_parquet(train), frame[120:].to_csv(asked, sep="\t", index=False)
    found = told("score", train, "--target", "answer", "--validation", asked, "--out", tmp_path / "f", "--refits", 3)
    assert found["points"] == 120 and found["queries_shown"] == 40
    decisions = tmp_path / "d.json"
    decisions.write_text(
        json.dumps([{"train": 5, "decision": "drop"}, {"train": 7, "decision": "relabel", "label": "no"}])
    )
    told("apply", decisions, "--run", tmp_path / "f", "--out", tmp_path / "clean.parquet")
    cleaned = pd.read_parquet(tmp_path / "clean.parquet")
    assert len(cleaned) == 119 and cleaned.loc[7, "answer"] == "no" and 5 not in cleaned.index
    frame[["a", "answer"]].to_csv(asked, sep="\t", index=False)
    refused = upweight("score", train, "--target", "answer", "--validation", asked, "--out", tmp_path / "g", code=3)
    assert "lacks the columns b, c" in refused.stderr
