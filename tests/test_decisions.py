"""Decisions survive CSV and JSON whatever they hold, and nothing that cannot be followed is followed."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

import upweight as uw
from cases import classification, regression
from upweight.errors import DecisionError, LabelError
from upweight.review import Decision, Decisions, read_decisions
from upweight.review.followed import follow, training_set_fingerprint

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=40)
decisions = st.builds(
    lambda train, action, label, place: Decision(train, action, label if action == "relabel" else None, label, place),
    texts,
    st.sampled_from(["keep", "relabel", "drop"]),
    texts,
    st.integers(0, 10**6),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(decisions, max_size=6, unique_by=lambda one: (one.train, one.position)))
def test_what_is_written_is_read_as_it_was(tmp_path_factory, items):
    folder = tmp_path_factory.mktemp("decisions")
    made = Decisions(tuple(items), "0123456789abcdef")
    assert read_decisions(made.save(folder / "d.json")) == made
    assert read_decisions(made.save(folder / "d.csv")).items == made.items


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-cmd", "@SUM(A1)", "'=1", "''", "-1.5", "a,b", 'a"b', "a\nb"])
def test_a_spreadsheet_computes_nothing(cell, tmp_path):
    path = Decisions((Decision(cell, "relabel", cell, cell, 3),)).save(tmp_path / "d.csv")
    first = path.read_bytes().decode().split("\r\n", 1)[1]
    assert first.startswith(("'", '"', "-1.5", "+1", "a"))
    assert read_decisions(path).items[0].label == cell


BAD = {
    "no such file": ("nowhere.csv", None, "could not read"),
    "bytes": ("d.csv", b"\xff\xfe\x00", "not UTF-8"),
    "no json": ("d.json", b'{"format": ', "not JSON"),
    "other json": ("d.json", b'{"format": "x", "decisions": []}', "format 'x'"),
    "no objects": ("d.json", b"[1]", "no objects"),
    "columns": ("d.csv", b"id,what\n1,drop\n", "without 'train'"),
    "action": ("d.csv", b"train,decision\n1,burn\n", "'burn'"),
    "no label": ("d.csv", b"train,decision,label\n1,relabel,\n", "new label is missing"),
    "position": ("d.csv", b"train,position,decision\n1,x,drop\n", "position 'x'"),
    "twice": ("d.csv", b"train,decision\n1,drop\n1,keep\n", "twice"),
    "quotes": ("d.csv", b'train,decision\n"1,drop\n', "not a CSV table"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_decisions_is_refused(case, tmp_path):
    name, contents, words = BAD[case]
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(DecisionError, match=words):
        read_decisions(tmp_path / name)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("upweight.review.decisions.LARGEST", 10)
    (tmp_path / "d.csv").write_text("train,decision\n1,drop\n")
    with pytest.raises(DecisionError, match="at most 10"):
        read_decisions(tmp_path / "d.csv")


def test_frames_and_lists_are_read_too():
    rows = [{"train": 3, "decision": "relabel", "label": 1}, {"train": 5, "decision": "drop", "label": None}]
    read = read_decisions(rows)
    assert read == read_decisions(pd.DataFrame(rows)) == read_decisions(read)
    assert (len(read), read.count("drop"), [item.train for item in read]) == (2, 1, [3, 5])
    with pytest.raises(DecisionError, match="of type int"):
        read_decisions(3)


@pytest.fixture(scope="module")
def study():
    data = classification(n=40, classes=3)
    names = np.array(["=a", "b", "c"])
    fitted = LogisticRegression(tol=1e-10, max_iter=1000).fit(data.X, names[data.y])
    return uw.from_sklearn(fitted, data.X, names[data.y], ids=[f"p{i}" for i in range(40)]), names[data.y]


def test_decisions_about_other_data_are_refused(study):
    of, labels = study
    mark = training_set_fingerprint(of.fitted)
    right = Decision("p3", "drop", None, str(labels[3]), 3)
    assert follow(of.fitted, Decisions((right,), mark)).dropped.tolist() == [3]
    other = str(labels[3]) + "?"
    cases = [
        (Decisions((right,), "f" * 16), "training set ffffffffffffffff"),
        (Decisions((Decision("p3", "drop", None, other),)), "but was"),
        (Decisions((Decision("p99", "drop"),)), "no training point is called 'p99'"),
        (Decisions((Decision("p3", "drop", position=4),)), "at position 3, not at 4"),
        (Decisions((Decision("p3", "drop"), Decision("p3", "keep", position=3))), "decided about twice"),
    ]
    for decided, words in cases:
        with pytest.raises(DecisionError, match=words):
            follow(of.fitted, decided)
    with pytest.raises(LabelError):
        follow(of.fitted, Decisions((Decision("p3", "relabel", "nothing"),)))


def test_a_fingerprint_tells_labels_names_and_sizes_apart():
    data = regression(n=20)
    fitted = Ridge().fit(data.X, data.y)
    marks = {
        training_set_fingerprint(uw.from_sklearn(fitted, X, y, ids=ids).fitted)
        for X, y, ids in [
            (data.X, data.y, None),
            (data.X[:19], data.y[:19], None),
            (data.X, data.y + 1.0, None),
            (data.X, data.y, [f"{i}" for i in range(1, 21)]),
        ]
    }
    assert len(marks) == 4 and all(len(mark) == 16 for mark in marks)


def test_numbers_as_labels_are_compared_as_numbers():
    data = regression(n=20)
    of = uw.from_sklearn(Ridge().fit(data.X, data.y), data.X, data.y)
    written = json.dumps(float(np.float32(data.y[4])))
    assert follow(of.fitted, Decisions((Decision(4, "drop", None, written),))).dropped.tolist() == [4]
    with pytest.raises(DecisionError, match="but was"):
        follow(of.fitted, Decisions((Decision(4, "drop", None, "1e9"),)))
    with pytest.raises(LabelError):
        follow(of.fitted, Decisions((Decision(4, "relabel", "many"),)))
