"""What the command line scores: tables of numbers and texts, pipelines kept by skops, factories."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import upweight as uw
from commands import WORDS, told, upweight
from pages import data_of
from upweight.runs import Run, open_source
from upweight.runs.pipeline import columns_of


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
