"""The page in a real browser: searched, sorted, decided, exported, imported, by mouse and by keyboard, on any screen."""

import json
import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import upweight as uw
from cases import classification
from pages import NAMES, numbers, trees, trees_query, written
from upweight.review import read_decisions
from upweight.show import Images, Series, Table, Text, Tokens

expect = pytest.importorskip("playwright.sync_api").expect
Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe


@pytest.fixture(scope="module")
def leaf(tmp_path_factory):
    """A page about trees, described in words."""
    data, y, study = trees()
    words = [f"a {'tall' if x[0] > 0 else 'low'} tree number {i}" for i, x in enumerate(data.X)]
    path = tmp_path_factory.mktemp("leaf") / "r.html"
    queries = [f"query tree {i}" for i in range(20)]
    return written(
        path, study, query=trees_query(), display=Text(words, queries), truth=["tree 26"], refits=6, groups=y.tolist()
    )


def shown(page):
    """Names of the cards on the screen, in order."""
    return [re.search(r"tree \d+", text).group() for text in page.locator("#cards .id").all_inner_texts()]


def count(page):
    return page.locator("#count").inner_text()


def test_the_page_says_what_it_knows(visit, leaf):
    page = visit(leaf)
    _, _, study = trees()
    assert "believe" in page.locator("#verdict").inner_text()
    assert "6 training points were really left out" in page.locator("#findings").inner_text()
    assert page.locator("#calibration-chart svg").count() == 1
    assert "130 training points with labels in 3 classes" in page.locator("#lead").inner_text()
    first = page.locator("#cards > .card").first
    suspect = study.mislabeled(1).iloc[0]
    for word in (
        suspect["train"],
        suspect["label"],
        suspect["predicted"],
        f"{suspect['self_influence']:.3g}",
        "tree number",
    ):
        assert str(word) in first.inner_text()


def test_points_are_found_by_name_label_and_words(visit, leaf):
    page = visit(leaf)
    _, _, study = trees()
    frame = study.mislabeled(130)
    elms = frame[(frame["label"] == "elm") | (frame["predicted"] == "elm")]
    page.fill("#search", "tree 11")
    expect(page.locator("#count")).to_contain_text("11 matching points, 130 in all")
    assert all("tree 11" in name for name in shown(page))
    page.fill("#search", "Elm")
    expect(page.locator("#count")).to_contain_text(f"of {len(elms)} matching points")
    page.fill("#search", "NUMBER 77")
    expect(page.locator("#count")).to_contain_text("1–1 of 1 matching point, 130 in all")
    assert shown(page) == ["tree 77"]
    page.fill("#search", "nothing at all")
    expect(page.locator("#count")).to_contain_text("Nothing matches")
    assert shown(page) == []


@pytest.mark.parametrize("sort", ["influence", "loss", "confidence", "hurts", "place"])
def test_every_order_is_the_order_of_the_numbers(visit, leaf, sort):
    page = visit(leaf)
    _, _, study = trees()
    frame = study.mislabeled(130)
    orders = {
        "influence": frame["train"],
        "loss": frame.sort_values("loss", ascending=False)["train"],
        "confidence": frame.sort_values("confidence")["train"],
        "hurts": study.drop(trees_query(), aggregate="mean").harmful(130)["train"],
        "place": [f"tree {i}" for i in range(130)],
    }
    page.select_option("#sort", sort)
    assert shown(page) == list(orders[sort])[:24]


def test_points_are_filtered_by_label_and_by_what_the_model_says(visit, leaf):
    page = visit(leaf)
    frame = trees()[2].mislabeled(130)
    page.select_option("#filter", "disagrees")
    disagree = frame[frame["label"] != frame["predicted"]]
    assert shown(page) == disagree["train"].tolist()[:24] and f"of {len(disagree)} matching points" in count(page)
    page.select_option("#class", label="ash")
    assert shown(page) == disagree[disagree["label"] == "ash"]["train"].tolist()[:24]
    page.select_option("#class", label="any")
    page.select_option("#filter", "known")
    assert shown(page) == ["tree 26"] and "known wrong" in page.locator("#cards").inner_text()


def test_pages_are_turned(visit, leaf):
    page = visit(leaf)
    order = trees()[2].mislabeled(130)["train"].tolist()
    page.get_by_role("button", name="Next page").click()
    assert shown(page) == order[24:48]
    page.get_by_role("button", name="Last page").click()
    assert shown(page) == order[120:] and page.get_by_role("button", name="Next page").is_disabled()
    page.get_by_label("Page", exact=True).fill("3")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_contain_text("49–72", timeout=60_000)
    assert shown(page) == order[48:72]


def test_decisions_are_made_undone_and_kept(visit, leaf):
    page = visit(leaf)
    cards = page.locator("#cards > .card")
    cards.nth(0).get_by_role("button", name="Keep").click()
    cards.nth(1).get_by_role("button", name="Drop").click()
    cards.nth(2).locator("[data-action=relabel]").click()
    assert "3 decisions: 1 keep, 1 relabel, 1 drop" in page.locator("#tally").inner_text()
    assert "predicted to" in page.locator("#forecast").inner_text()
    page.click("#undo")
    assert "2 decisions: 1 keep, 0 relabel, 1 drop" in page.locator("#tally").inner_text()
    cards.nth(1).get_by_role("button", name="Drop").click()
    assert "1 decision: 1 keep" in page.locator("#tally").inner_text()
    page.click("#undo")
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert "2 decisions: 1 keep, 0 relabel, 1 drop" in page.locator("#tally").inner_text()
    assert cards.nth(1).get_by_role("button", name="Drop").get_attribute("aria-pressed") == "true"


def test_the_predicted_change_is_the_sum_of_what_was_decided(visit, leaf):
    page = visit(leaf)
    _, _, study = trees()
    frame = study.mislabeled(2)
    dropped = study.drop(trees_query(), which=[frame["train"][0]], aggregate="mean").values[0, 0]
    page.locator("#cards > .card").nth(0).get_by_role("button", name="Drop").click()
    words = page.locator("#forecast").inner_text()
    assert f"{'lower' if dropped < 0 else 'raise'} the mean loss by {abs(dropped):.3g}" in words.replace("−", "-")


def test_the_keyboard_is_enough(visit, leaf):
    page = visit(leaf)
    order = trees()[2].mislabeled(130)["train"].tolist()
    for key in ("j", "a", "d", "c", "ArrowDown", "k", "2"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.closest('.card') !== null")
    rows = exported(page, "json")["decisions"]
    made = {row["train"]: row["decision"] for row in rows}
    assert [made.get(order[k]) for k in range(3)] == ["relabel", "drop", "keep"]
    page.keyboard.press("u"), page.keyboard.press("u")
    before = len(exported(page, "json")["decisions"])
    assert before < len(rows)
    page.keyboard.press("n")
    assert shown(page) == order[24:48]
    page.keyboard.press("/")
    page.keyboard.type("d")
    assert page.input_value("#search") == "d" and len(exported(page, "json")["decisions"]) == before


def exported(page, kind):
    with page.expect_download() as waiting:
        page.click(f"#export-{kind}")
    text = waiting.value.path().read_text("utf-8")
    assert waiting.value.suggested_filename == f"decisions.{kind}"
    return json.loads(text) if kind == "json" else text


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_what_is_exported_is_followed_and_imported(visit, leaf, kind, tmp_path):
    page = visit(leaf)
    _, _, study = trees()
    frame = study.mislabeled(3)
    cards = page.locator("#cards > .card")
    cards.nth(0).locator("[data-action=relabel]").click()
    cards.nth(1).get_by_role("button", name="Drop").click()
    cards.nth(2).locator("select.other").select_option(index=1)
    with page.expect_download() as waiting:
        page.click(f"#export-{kind}")
    path = tmp_path / f"decisions.{kind}"
    waiting.value.save_as(path)
    read = {item.train: (item.action, item.label) for item in read_decisions(path)}
    assert read[frame["train"][0]] == ("relabel", frame["predicted"][0])
    assert read[frame["train"][1]] == ("drop", None) and read[frame["train"][2]][0] == "relabel"
    found = study.what_if(path, trees_query())
    assert (found.relabelled, found.dropped) == (2, 1) and found.predicted == pytest.approx(found.refitted, rel=0.05)
    other = visit(leaf)
    other.set_input_files("#import-file", path)
    expect(other.locator("#forecast")).to_contain_text("3 decisions read", timeout=60_000)
    assert other.locator("#tally").inner_text() == page.locator("#tally").inner_text()
    with other.expect_download() as again:
        other.click(f"#export-{kind}")
    assert again.value.path().read_bytes() == path.read_bytes()
    other.click("#undo")
    assert "No decisions" in other.locator("#tally").inner_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("d.csv", 'train,decision\n"tree 1,drop\n', "a quote is not closed"),
        ("d.csv", "a,b\n1,2\n", "columns train and decision are missing"),
        ("d.csv", "train,decision\ntree 1,drop\ntree 999,drop\n", "no point is called tree 999"),
        ("d.csv", "train,decision\ntree 1,burn\n", "the decision burn is unknown"),
        ("d.csv", "train,decision,label\ntree 1,relabel,beech\n", "the label beech is unknown"),
        ("d.json", '{"format": "other"}', "its format is not"),
        ("d.json", '{"format": "upweight.decisions.1", "fingerprint": "0", "decisions": []}', "another training set"),
        ("d.json", "{", "JSON"),
    ],
)
def test_a_file_that_cannot_be_read_changes_nothing(visit, leaf, name, text, words, tmp_path):
    page = visit(leaf)
    (tmp_path / name).write_text(text)
    page.set_input_files("#import-file", tmp_path / name)
    expect(page.locator("#forecast")).to_contain_text("Nothing was read", timeout=60_000)
    assert words in page.locator("#forecast").inner_text() and "No decisions" in page.locator("#tally").inner_text()


def test_a_query_shows_what_helped_and_hurt_it(visit, leaf):
    page = visit(leaf)
    _, _, study = trees()
    effects = study.drop(trees_query())
    page.click("#query-next")
    loss_first = page.locator("#query").input_value()
    assert loss_first == "0" and "query tree" in page.locator("#query-card").inner_text()
    name = int(re.search(r"query\s+(\d+)", page.locator("#query-card .labels").inner_text()).group(1))
    for side, frame in (("helped", effects.helpful(10)), ("hurt", effects.harmful(10))):
        listed = [re.search(r"tree \d+", text).group() for text in page.locator(f"#{side} .labels").all_inner_texts()]
        assert listed == frame[frame["query"] == name]["train"].tolist()
    assert page.locator("#effects-chart .mark-rect.role-mark path").count() == 20
    page.locator("#hurt button").first.click()
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "point " + effects.harmful(1).set_index("query").loc[name, "train"]


def test_a_rectangle_on_the_map_picks_points_out(visit, leaf):
    page = visit(leaf)
    page.locator("#map summary").click()
    chart = page.locator("#suspects-chart svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.15)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + box["height"] * 0.7, steps=5)
    page.mouse.up()
    expect(page.locator("#count")).to_contain_text("matching", timeout=60_000)
    assert 0 < int(re.search(r"of (\d+) matching", count(page)).group(1)) < 130


def test_charts_take_the_colours_of_the_theme(visit, leaf):
    page = visit(leaf)
    ink = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    dot = lambda: page.locator("#calibration-chart .mark-symbol path").first.get_attribute("fill")  # noqa: E731
    before = ink(), dot()
    page.click("#theme")
    assert ink() != before[0] and dot() != before[1]
    dark = visit(leaf, color_scheme="dark")
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == ink()


DISPLAYS = {
    "images": lambda n: Images(np.random.default_rng(0).integers(0, 256, (n, 8, 8), np.uint8)),
    "photographs": lambda n: Images(np.random.default_rng(0).integers(0, 256, (n, 60, 90, 3), np.uint8)),
    "text": lambda n: Text(["word " * 80 + "x" * 300] * n),
    "tokens": lambda n: Tokens([["good", "bad", "t" * 90] * 9] * n, heat=[[1.0, -0.5, 0.1] * 9] * n),
    "table": lambda n: Table(np.random.default_rng(0).standard_normal((n, 14))),
    "series": lambda n: Series(np.random.default_rng(0).standard_normal((n, 300, 2))),
    "nothing": lambda n: None,
}


@pytest.mark.parametrize("kind", DISPLAYS)
def test_every_display_is_read_on_a_phone(visit, kind, tmp_path):
    _, y, study = trees()
    display, groups = DISPLAYS[kind](130), y.tolist()
    page = visit(written(tmp_path / "r.html", study, query=trees_query(), display=display, refits=4, groups=groups))
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#map summary").click()
    expect(page.locator("#suspects-chart svg")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("table", "dark"),
        pytest.param("tokens", "light", marks=pytest.mark.slow),
        *(pytest.param(kind, "dark", marks=pytest.mark.slow) for kind in ("text", "images", "series", "nothing")),
    ],
)
def test_everyone_can_read_it(visit, kind, scheme, tmp_path):
    _, y, study = trees()
    display, groups = DISPLAYS[kind](130), y.tolist()
    path = written(tmp_path / "r.html", study, query=trees_query(), display=display, refits=4, groups=groups)
    page = visit(path, color_scheme=scheme)
    page.keyboard.press("j"), page.keyboard.press("d"), page.keyboard.press("a"), page.keyboard.press("c")
    for details in page.locator("details > summary").all():
        details.click()
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    grave = {one["id"]: one["nodes"][0]["html"][:200] for one in found if one["impact"] in ("serious", "critical")}
    assert grave == {}


def test_numbers_are_reviewed_too(visit, tmp_path):
    data, study = numbers()
    page = visit(written(tmp_path / "r.html", study, query=data.query, refits=4))
    first = page.locator("#cards > .card").first
    first.locator("input.other").fill("2.5")
    page.keyboard.press("Enter")
    rows = exported(page, "json")["decisions"]
    place = int(np.argmax(study.self_influence()))
    assert rows[0]["label"] == 2.5 and rows[0]["train"] == place
    assert float(rows[0]["given"]) == pytest.approx(data.y[place], rel=1e-5)
    (tmp_path / "d.json").write_text(json.dumps({"format": "upweight.decisions.1", "decisions": rows}))
    assert study.what_if(tmp_path / "d.json", data.query).relabelled == 1


def test_broken_pictures_leave_the_rest_whole(visit, tmp_path):
    data = classification(n=30)
    study = uw.from_sklearn(LogisticRegression(tol=1e-8).fit(data.X, data.y), data.X, data.y)
    pictures = [np.zeros((8, 8), np.uint8) if i % 2 else tmp_path / "gone.png" for i in range(30)]
    page = visit(written(tmp_path / "r.html", study, display=Images(pictures)))
    assert page.locator("#cards img").count() + page.locator("#cards .look.none").count() == 24
    assert page.locator("#cards .look.none").count() > 5
    assert "gone.png" in page.locator("#cards .look.none").first.inner_text()


def test_a_hundred_thousand_points_are_a_page_at_a_time(visit, tmp_path):
    n = 100_000
    data = classification(n=n, m=30, classes=3, p=13)
    y = NAMES[data.y]
    study = uw.from_sklearn(LogisticRegression(tol=1e-6).fit(data.X, y), data.X, y)
    path = written(tmp_path / "r.html", study, query=(data.Xt, NAMES[data.yt]), refits=0)
    assert path.stat().st_size < 10_000_000
    page = visit(path)
    assert "of 100,000 points" in count(page)
    assert page.evaluate("document.getElementsByTagName('*').length") < 4000
    page.select_option("#sort", "loss")
    page.fill("#search", "9999")
    expect(page.locator("#count")).to_contain_text("matching", timeout=60_000)
    expected = sum("9999" in str(i) for i in range(n))
    assert f"of {expected} matching points, 100,000 in all" in count(page)
    page.keyboard.press("Escape")
    page.locator("#cards > .card").first.get_by_role("button", name="Drop").click()
    assert len(exported(page, "json")["decisions"]) == 1
