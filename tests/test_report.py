"""What a page carries: the right numbers, bounded bytes, a strict policy, and words that follow what was measured."""

import dataclasses
import hashlib
import html
import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import upweight as uw
from cases import classification
from pages import data_of, numbers, trees, trees_query, unpacked
from upweight.report import looks as looks_room
from upweight.report.gathered import Gathered, Stored, Wanted
from upweight.report.judgement import BAD, CARE, GOOD, judge
from upweight.report.packed import script_json
from upweight.report.page import asset, digest
from upweight.report.payload import payload

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    _, y, study = trees()
    path = tmp_path_factory.mktemp("page") / "r.html"
    groups = [f"plot {i % 4}" for i in range(len(y))]
    assert study.report(path, query=trees_query(), groups=groups, truth=["tree 26"], refits=6) == str(path)
    return path.read_text("utf-8")


def test_the_numbers_are_those_of_the_study(page):
    _, y, study = trees()
    found, query = data_of(page), trees_query()
    points = found["points"]
    np.testing.assert_allclose(unpacked(points["influence"]), study.self_influence(), rtol=1e-6)
    np.testing.assert_allclose(
        unpacked(points["mean"]), study.drop(query, aggregate="mean").values[0], rtol=1e-5, atol=1e-9
    )
    assert np.asarray(points["levels"])[unpacked(points["given"])].tolist() == y.tolist()
    frame = study.mislabeled(130).set_index("train")
    predicted = dict(zip(points["ids"]["names"], np.asarray(points["levels"])[unpacked(points["predicted"])]))
    assert predicted == frame["predicted"].to_dict()
    np.testing.assert_allclose(
        unpacked(points["confidence"]), frame.loc[points["ids"]["names"], "confidence"], rtol=1e-6
    )
    assert unpacked(points["known"]).tolist() == [26]


def test_a_suggestion_is_never_the_given_label_and_else_the_most_probable(page):
    points = data_of(page)["points"]
    given, predicted, suggested = (unpacked(points[name]) for name in ("given", "predicted", "suggested"))
    assert (suggested != given).all()
    assert (suggested[predicted != given] == predicted[predicted != given]).all() and (predicted != given).any()


def test_relabelling_is_predicted_for_the_suggestion(page):
    _, _, study = trees()
    points = data_of(page)["points"]
    at, effect = unpacked(points["relabelled"]["at"]), unpacked(points["relabelled"]["effect"])
    place = int(at[0])
    label = points["levels"][unpacked(points["suggested"])[place]]
    alone = study.relabel({f"tree {place}": label}, trees_query(), aggregate="mean").values[0, 0]
    assert place == int(np.argmax(study.self_influence())) and effect[0] == pytest.approx(alone, rel=1e-5)


def test_what_helped_and_hurt_is_what_effects_say(page):
    _, _, study = trees()
    found = data_of(page)["queries"]
    effects = study.drop(trees_query())
    name = found["ids"]["names"][0] if "names" in found["ids"] else 0
    entry = found["entries"][1]
    for side, frame in (("helped", effects.helpful(10)), ("hurt", effects.harmful(10))):
        rows = frame[frame["query"] == name]
        assert [f"tree {place}" for place, _ in entry[side]] == rows["train"].tolist()
        np.testing.assert_allclose([effect for _, effect in entry[side]], rows["effect"], rtol=1e-4)


def test_classes_and_groups_are_sums_and_whole_groups(page):
    _, y, study = trees()
    found, query = data_of(page), trees_query()
    whole = study.drop_group([f"plot {i % 4}" for i in range(130)], query, aggregate="mean")
    assert dict(map(tuple, found["groups"]["rows"])) == pytest.approx(
        dict(zip(whole.train_ids.tolist(), whole.values[0])), rel=1e-4
    )
    levels = found["points"]["levels"]
    sums = study.drop(query).groupby(y)
    for q, t, value in found["classes"]["cells"]:
        row = sums.values[query[1] == levels[q]].mean(0)
        assert value == pytest.approx(row[sums.train_ids.tolist().index(levels[t])], rel=1e-3, abs=1e-12)


def test_the_policy_names_the_hash_of_every_script_and_nothing_else(page):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    style = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["script-src"].split() == [f"'{digest(text)}'" for text in scripts] and len(scripts) == 3
    assert rules["style-src"] == f"'{digest(style)}'"
    assert {rules["base-uri"], rules["form-action"]} == {"'none'"}
    assert not re.search(
        r"\son\w+=|javascript:|<link|<iframe|@import|url\(", page.split('id="data"')[0].replace(scripts[0], "")
    )


def test_data_cannot_end_their_script_or_open_another():
    hostile = ["</script><script>", "<!--", "&lt;", "\u2028", "\ud800", "]]>"]
    written = script_json({"a": hostile})
    assert not set("<>&\u2028") & set(written) and json.loads(written) == {"a": hostile}


def test_the_page_is_small_and_names_no_host(page):
    assert len(page) < 800_000
    own = page.replace(asset("vega.min.js"), "")
    assert "http://" not in own and "https://" not in own


def test_the_assets_are_those_that_were_built():
    built = json.loads(asset("assets.json"))
    for name, digest_ in built["sha256"].items():
        assert hashlib.sha256(asset(name).encode()).hexdigest() == digest_, name
    pinned = json.loads((ROOT / "tools/report_assets/package.json").read_text())["dependencies"]
    assert built["versions"] == pinned
    licences = asset("LICENSES.txt")
    assert all(f"{name} {version}" in licences for name, version in pinned.items()) and "d3-scale" in licences


def test_the_charts_are_compiled_from_their_sources():
    pytest.importorskip("altair"), pytest.importorskip("vl_convert")
    script = "import json, build_report_assets as b; print(json.dumps({n: json.loads(b.compiled(c)) for n, c in b.charts().items()}))"
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=ROOT / "tools", capture_output=True, text=True, check=True
    )
    assert json.loads(made.stdout) == json.loads(asset("charts.json"))["specs"]


def test_a_page_without_queries_has_suspects_only_and_says_that_nothing_was_tested():
    _, _, study = trees()
    found = payload(Gathered(study.fitted, Wanted()))
    assert found["queries"] is found["groups"] is found["classes"] is found["calibration"] is None
    assert found["trust"]["light"] == CARE and "None were made" in found["trust"]["findings"][0][2]
    with pytest.raises(uw.errors.ConfigError, match="groups= without query="):
        payload(Gathered(study.fitted, Wanted(groups=["a"] * 130)))


def test_stored_answers_are_not_computed_again():
    _, _, study = trees()
    plain = Gathered(study.fitted, Wanted(query=trees_query(), refits=0))
    stored = Stored(plain.self_influence * 2, plain.each, plain.mean * 3)
    again = Gathered(study.fitted, Wanted(query=trees_query(), refits=0), stored)
    np.testing.assert_array_equal(again.self_influence, plain.self_influence * 2)
    np.testing.assert_array_equal(again.mean, plain.mean * 3)
    assert again.each is plain.each


def test_regression_has_numbers_for_labels():
    data, study = numbers()
    points = payload(Gathered(study.fitted, Wanted(query=data.query, refits=4)))["points"]
    assert points["kind"] == "number" and points["levels"] == [] and points["ids"] == {"count": 60}
    np.testing.assert_allclose(unpacked(points["given"]), data.y, rtol=1e-6)


def test_the_light_follows_what_was_measured():
    _, _, study = trees()
    trust, refits = study.trust(), study.check(trees_query(), refits=10)
    good = judge(trust, refits)
    assert good.light == GOOD and "believe" in good.headline
    assert judge(trust, None).light == CARE
    wrong = dataclasses.replace(refits, refitted=-refits.refitted)
    assert judge(trust, wrong).light == BAD and "do not follow" in judge(trust, wrong).findings[0].words
    cases = [
        ({"solver": "the Hessian is indefinite"}, BAD, "Solver"),
        ({"lowest_curvature": -1.0}, BAD, "Curvature"),
        ({"lowest_curvature": 1e-9, "convex": False}, CARE, "Curvature"),
        ({"stationarity": dataclasses.replace(trust.stationarity, ratio=0.5)}, CARE, "Training"),
        ({"pending_shift": 0.5}, CARE, "Training"),
        ({"highest_leverage": 0.9}, CARE, "Leverage"),
        ({"highest_leverage": 6.0}, CARE, "Leverage"),
        ({"damping_share": 0.2}, CARE, "Damping"),
        ({"solver": dataclasses.replace(trust.solver, converged=False)}, BAD, "Solver"),
        ({"solver": dataclasses.replace(trust.solver, condition=1e13)}, CARE, "Solver"),
    ]
    for change, light, name in cases:
        judged = judge(dataclasses.replace(trust, **change), refits)
        assert judged.light == light, change
        assert {one.light for one in judged.findings if one.name == name} == {light}, change


def test_looks_stop_where_the_page_is_full(monkeypatch):
    _, _, study = trees()
    monkeypatch.setattr(looks_room, "LEAST", 2000)
    monkeypatch.setattr(looks_room, "BYTES", 0)
    found = payload(Gathered(study.fitted, Wanted()))["looks"]
    first = int(np.argmax(study.self_influence()))
    assert 5 < len(found["items"]) < 60 and first in found["items"]


def test_a_thousand_photographs_fit_in_ten_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    data = classification(n=1000, classes=2)
    study = uw.from_sklearn(LogisticRegression(tol=1e-8).fit(data.X, data.y), data.X, data.y)
    coarse = rng.integers(0, 256, (1000, 12, 12, 3)).astype(float)
    photographs = np.kron(coarse, np.ones((1, 10, 10, 1))) + rng.normal(0, 8, (1000, 120, 120, 3))
    photographs = photographs.clip(0, 255).astype(np.uint8)
    path = study.report(tmp_path / "r.html", display=uw.show.Images(photographs))
    page = Path(path).read_text("utf-8")
    assert len(page) < 10_000_000 and len(data_of(page)["looks"]["items"]) == 1000


def test_displays_are_refused_in_words(tmp_path):
    _, _, study = trees()
    with pytest.raises(uw.errors.ConfigError, match="display='video' is unknown"):
        study.report(tmp_path / "r.html", display="video")
    with pytest.raises(uw.errors.ShapeError, match="Images found 3 for 130 training points"):
        study.report(tmp_path / "r.html", display=uw.show.Images(np.zeros((3, 2, 2))))
    with pytest.raises(uw.errors.ShapeError, match="Text found 1 for 20 queries"):
        study.report(tmp_path / "r.html", query=trees_query(), display=uw.show.Text(["a"] * 130, ["b"]), refits=0)
    net = torch.nn.Linear(4, 2).double().eval()
    data = classification(n=20)
    keyed = {"x": data.X, "y": data.y}
    of = uw.Study(net, keyed, loss="cross_entropy", forward=lambda m, b: (m(b["x"]), b["y"]), penalty=uw.L2(0.1))
    with pytest.raises(uw.errors.InputError, match="inputs that are not one array"):
        of.report(tmp_path / "r.html", display="table")
    with pytest.raises(uw.errors.StoreError, match="could not write"):
        study.report(tmp_path / "nowhere" / "r.html")


def test_every_file_of_the_page_is_packaged():
    there = {entry.name for entry in resources.files("upweight.report").joinpath("app").iterdir()}
    from upweight.report.page import APP

    assert {f"{name}.js" for name in APP} == there
