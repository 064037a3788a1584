"""The command line as a person uses it: a table scored, looked at, decided about and written back; and what it refuses."""

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
import typer
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import upweight as uw
from pages import data_of
from upweight.cli import app
from upweight.runs import Run, Source, open_source
from upweight.runs.pipeline import columns_of

WORDS = {"good": ["lovely", "great", "charming", "warm"], "bad": ["dull", "weak", "awful", "cold"]}


def upweight(*arguments, code=0):
    found = CliRunner().invoke(app, [str(part) for part in arguments])
    assert found.exit_code == code, found.output + found.stderr
    return found


def told(*arguments):
    return json.loads(upweight(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of 160 rows, eight of them with the wrong label: numbers, a gap, a category, an id, a constant."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((160, 3))
    y = np.where(x @ [2.0, -1.0, 0.5] + 0.5 * rng.standard_normal(160) > 0, "yes", "no")
    wrong = rng.choice(160, 8, replace=False)
    y[wrong] = np.where(y[wrong] == "yes", "no", "yes")
    frame = pd.DataFrame(x.round(4), columns=["a", "b", "c"])
    frame["where"], frame["name"], frame["same"], frame["answer"] = (
        rng.choice(["north", "south"], 160),
        [f"row{i:03d}" for i in range(160)],
        1,
        y,
    )
    frame.loc[3, "a"] = np.nan
    path = tmp_path_factory.mktemp("table") / "people.csv"
    frame.to_csv(path, index=False)
    return path, frame, wrong


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    found = upweight("score", table[0], "--target", "answer", "--out", folder, "--refits", 6, "--json")
    return folder, json.loads(found.stdout), found.stderr


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


def test_numbers_are_predicted_where_the_target_is_numbers(table, tmp_path):
    frame = table[1].assign(size=lambda f: f["b"] * 2 + f["c"])
    path = tmp_path / "sizes.csv"
    frame.to_csv(path, index=False)
    found = upweight("score", path, "--target", "size", "--out", tmp_path / "h", "--refits", 2)
    assert "Ridge(alpha=1)" in found.stderr
    opened = open_source(Run(tmp_path / "h").source)
    assert opened.study.objective.loss.kind == "real" and len(opened.rows) == 128
    frame["size"] = np.arange(160) % 4
    frame.to_csv(path, index=False)
    for task, last in (("numbers", "Ridge"), (None, "LogisticRegression")):
        option = [] if task is None else ["--task", task]
        talk = upweight(
            "score", path, "--target", "size", *option, "--out", tmp_path / f"i{task}", "--refits", 0
        ).stderr
        assert last in talk


def test_texts_are_read_as_texts(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.array(["good", "bad"])[rng.integers(2, size=120)]
    texts = [
        " ".join(["the film was", *rng.choice(WORDS[label], 3), f"indeed {i} times over"])
        for i, label in enumerate(labels)
    ]
    path = tmp_path / "films.csv"
    pd.DataFrame({"review": texts, "verdict": labels}).to_csv(path, index=False)
    found = upweight("score", path, "--target", "verdict", "--out", tmp_path / "j", "--refits", 2)
    assert "text in review (TF-IDF)" in found.stderr
    upweight("report", tmp_path / "j", "--out", tmp_path / "r.html")
    page = data_of((tmp_path / "r.html").read_text("utf-8"))
    assert page["looks"]["kind"] == "tokens" and "suggested label" in page["looks"]["head"]["meaning"]
    opened = open_source(Run(tmp_path / "j").source)
    display, study = opened.display, opened.study
    given = np.asarray(study.objective.examples.read(slice(None))[1])
    for place in range(0, 40, 7):
        look = display.of_train(place)
        words = display.vectorizer.transform([display.train.iloc[place]]) @ display.coefficients[0]
        assert sum(look["heat"]) == pytest.approx(float(words[0]) * (1 - 2 * given[place]), rel=0.02)
    warm = dict(zip(look["tokens"], look["heat"]))
    assert look["tokens"][:2] == ["the", "film"] and max(map(abs, warm.values())) == pytest.approx(
        look["top"], rel=0.01
    )


def test_columns_are_told_apart():
    frame = pd.DataFrame(
        {
            "number": range(40),
            "flag": [True, False] * 20,
            "category": ["a", "b"] * 20,
            "text": [f"some words about {i}" for i in range(40)],
            "name": [f"id{i}" for i in range(40)],
            "date": pd.date_range("2026-01-01", periods=40),
            "constant": 1,
            "empty": None,
            "target": 0,
        }
    )
    found = columns_of(frame, ["target"])
    assert (found.numbers, found.categories, found.texts) == (["number", "flag"], ["category"], ["text"])
    assert found.left_out == ["name", "date", "constant", "empty"]


def test_a_skops_pipeline_is_scored_as_it_was_fitted(table, tmp_path):
    sio = pytest.importorskip("skops.io")
    frame = table[1].drop(index=3)
    path, model = tmp_path / "t.csv", tmp_path / "m.skops"
    frame.to_csv(path, index=False)
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-9)).fit(
        frame[["a", "b", "c"]], frame["answer"]
    )
    sio.dump(fitted, model)
    found = told("score", path, "--target", "answer", "--model", model, "--out", tmp_path / "k", "--refits", 0)
    study = uw.from_sklearn(fitted, frame[["a", "b", "c"]], frame["answer"])
    assert found["points"] == 159 and found["suspects"][0]["self_influence"] == pytest.approx(
        study.self_influence().max()
    )
    sio.dump(
        make_pipeline(ColumnTransformer([("all", StandardScaler(), ["a"])]), Foreign()).fit(frame[["a"]], frame["b"]),
        model,
    )
    refused = upweight("score", path, "--target", "b", "--model", model, "--out", tmp_path / "l", code=3)
    assert "types that are not trusted" in refused.stderr and "Foreign" in refused.stderr
    model.write_bytes(b"PK\x03\x04 nothing")
    assert (
        "is no skops file"
        in upweight("score", path, "--target", "answer", "--model", model, "--out", tmp_path / "l", code=3).stderr
    )


class Foreign(Ridge):
    """An estimator that skops does not know."""


FACTORY = """
import numpy as np, upweight as uw
from sklearn.linear_model import LogisticRegression
rng = np.random.default_rng(0)
X = rng.standard_normal((60, 3)); y = (X[:, 0] + rng.standard_normal(60) > 0).astype(int)
def make():
    return uw.from_sklearn(LogisticRegression(tol=1e-9).fit(X[:50], y[:50]), X[:50], y[:50]), (X[50:], y[50:])
def alone():
    return make()[0]
def broken():
    raise RuntimeError("no data today")
def nothing():
    return 3
def refused():
    return uw.from_sklearn(LogisticRegression(), X, y)
def network():
    import torch
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 900), torch.nn.Tanh(), torch.nn.Linear(900, 2)).double()
    return uw.Study(net.eval(), (X, y), loss="cross_entropy", penalty=uw.L2(0.01)), (X[:9], y[:9])
"""


def test_a_factory_makes_the_study(tmp_path, monkeypatch):
    (tmp_path / "studies_of_mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path), monkeypatch.syspath_prepend(str(tmp_path))
    found = told("score", "studies_of_mine:make", "--out", "a", "--refits", 3)
    assert found["points"] == 50 and found["queries_shown"] == 10
    assert told("score", "studies_of_mine:alone", "--out", "b")["queries_shown"] == 0
    Path("d.csv").write_text(f"train,decision,label\n{found['suspects'][0]['train']},drop,\n7,relabel,0\n")
    assert told("apply", "d.csv", "--run", "a", "--out", "kept.json")["dropped"] == 1
    assert json.loads(Path("kept.json").read_text()) == {"drop": [found["suspects"][0]["train"]], "relabel": {"7": "0"}}
    assert "--groups needs a run of a table" in upweight("report", "a", "--groups", "x", code=2).stderr
    large = upweight("score", "studies_of_mine:network", "--out", "n")
    assert "refits: none" in large.stderr and "beware:" in large.stderr and not Path("n/refits.jsonl").exists()
    assert "too large to refit" in upweight("check", "n", code=2).stderr
    upweight("report", "n", "--out", "n.html")
    for name, words in [
        ("broken", "raised RuntimeError: no data today"),
        ("nothing", "returned int"),
        ("gone", "raised AttributeError"),
        ("refused", "is not fitted"),
    ]:
        assert words in upweight("score", f"studies_of_mine:{name}", "--out", "c", code=3).stderr
    assert "raised ModuleNotFoundError" in upweight("score", "no_such_module:make", "--out", "c", code=3).stderr


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
    assert found["core"]["torch"] and found["missing"] == [] and found["cores"] >= 1
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
