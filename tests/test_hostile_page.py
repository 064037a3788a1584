"""A hundred hostile strings in every place a page shows data: shown letter by letter, and nothing runs or leaves."""

import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import upweight as uw
from cases import classification
from pages import data_of, written
from upweight.review.followed import spelled
from upweight.show import Table, Text, Tokens

pytest.importorskip("playwright.sync_api")

CALL = "window.ran=1"
TEMPLATES = [
    "<script>{}</script>",
    "</script><script>{}</script>",
    "</SCRIPT ><script>{}</script>",
    "<!--<script>{}</script>-->",
    "]]><script>{}</script>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    "<svg><script>{}</script></svg>",
    "<body onload={}>",
    "<iframe srcdoc='<script>parent.{}</script>'>",
    "<iframe src='javascript:parent.{}'>",
    "<a href='javascript:{}'>x</a>",
    "<details open ontoggle={}>",
    "<input autofocus onfocus={}>",
    "<video><source onerror={}></video>",
    "<math><mtext></mtext><script>{}</script></math>",
    "<style>*{{background:url(x)}}</style><script>{}</script>",
    "<link rel=stylesheet href=x onerror={}>",
    "<meta http-equiv=refresh content='0;url=javascript:{}'>",
    "<base href=javascript:{}//>",
    "<object data='javascript:{}'>",
    "<embed src='javascript:{}'>",
    "<form action='javascript:{}'><button>",
    "<template><script>{}</script></template>",
    "<noscript><img src=x onerror={}></noscript>",
    "</title><script>{}</script>",
    "</style><script>{}</script>",
    "</textarea><script>{}</script>",
    "</option></select><script>{}</script>",
    "'\"><script>{}</script>",
    '" onmouseover="{}" x="',
    "' onfocus='{}' autofocus='",
    "`${{{}}}`",
    "${{{}}}",
    "{{{{{}}}}}",
    "{{% {} %}}",
    "\\u003cscript\\u003e{}\\u003c/script\\u003e",
    "&lt;script&gt;{}&lt;/script&gt;",
    "&#60;script&#62;{}&#60;/script&#62;",
    "%3Cscript%3E{}%3C/script%3E",
    "javascript:{}",
    "data:text/html,<script>{}</script>",
    "__proto__.{}",
    "constructor.constructor('{}')()",
    "\u2028{}\u2029",
    "\u202e{}\u202c",
    "\u2066{}\u2069",
    "\u200b{}\ufeff",
    "\x00\x01{}\x1b[31m",
    "=cmd|' /C {}'!A0",
]
OTHERS = [
    "\ud83d\ude00" * 5,
    "é́́́" * 20,
    "\u0645\u0631\u062d\u0628\u0627 abc \u05e9\u05dc\u05d5\u05dd",
    "a" * 5000,
    "line\nline\r\nline\ttab",
    "\"quoted\" 'single' `back`",
    "NaN",
    "null",
    "undefined",
    "toString",
    "hasOwnProperty",
    "__proto__",
    "constructor",
    "-0",
    "1e999",
    "𝒳𝒴𝒵",
    "🏳️‍🌈",
    "<",
    "&",
    "&amp;",
    "\\",
    "\\n",
    "%s%d%n",
    "../../etc/passwd",
    "C:\\Windows",
    "; DROP TABLE points; --",
    "$(id)",
    "${jndi:ldap://x}",
    "//comment",
    "/*",
    "*/",
    "<!doctype html>",
    "<?xml version='1.0'?>",
    "<![CDATA[x]]>",
    "@import 'x';",
    "url(x)",
    "expression(1)",
    "datum.x",
    "event.view",
    "signal('x')",
    ",,,",
    "a,b",
    "+1",
    "@SUM(A1)",
    "'=1",
    "\u00ad soft",
    "ﷺ" * 30,
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯A",
    " ",
    "\udc00 half a character",
]
HOSTILE = [template.format(CALL) for template in TEMPLATES] + OTHERS
MARKS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)


def as_shown(text):
    return MARKS.sub(lambda mark: f"⟨U+{ord(mark.group()):04X}⟩", text)


@pytest.fixture(scope="module")
def hostile():
    """Two classes with hostile names, 104 points with hostile ids."""
    assert len(HOSTILE) == len(set(HOSTILE)) == 100
    data = classification(n=100, m=8)
    names = np.array([HOSTILE[1], HOSTILE[45]])
    labels = names[data.y]
    fitted = LogisticRegression(tol=1e-8).fit(data.X, labels)
    return data, names, uw.from_sklearn(fitted, data.X, labels, ids=HOSTILE)


DISPLAYS = {
    "text": Text(HOSTILE, HOSTILE[:8]),
    "table": Table(np.array([HOSTILE, HOSTILE[::-1]], object).T, columns=[HOSTILE[0], HOSTILE[5]]),
    "tokens": Tokens([[text, "x"] for text in HOSTILE], heat=[[1.0, -1.0]] * 100, meaning=HOSTILE[6]),
}


def relabelled(page):
    """Accept every suggestion, page by page: the position and the look of every card."""
    found = []
    for _ in range(5):
        found += page.evaluate(
            """[...document.querySelectorAll('#cards > .card')].map(card => {
                card.querySelector('[data-action=relabel]').click();
                const look = card.querySelector('.look');
                return [Number(card.dataset.place), look ? look.textContent : ''];
            })"""
        )
        page.keyboard.press("n")
    return found[:100]


@pytest.mark.parametrize(
    "kind", ["text", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("table", "tokens"))]
)
def test_hostile_data_stay_data(visit, hostile, kind, tmp_path):
    data, names, study = hostile
    path = written(
        tmp_path / "r.html",
        study,
        query=(data.Xt, names[data.yt]),
        display=DISPLAYS[kind],
        groups=[HOSTILE[i % 10] for i in range(100)],
        title=HOSTILE[25],
        commands=HOSTILE[:30],
        notes=HOSTILE[30:],
        refits=6,
    )
    text = path.read_text("utf-8")
    assert [spelled(name) for name in data_of(text)["points"]["ids"]["names"]] == [spelled(name) for name in HOSTILE]
    page = visit(path)
    scripts = page.evaluate("document.scripts.length")
    assert scripts == 5
    page.locator("#map summary").click()
    page.locator("#made summary").first.click()
    seen = dict(relabelled(page))
    assert sorted(seen) == list(range(100))
    for place, words in seen.items():
        shown = as_shown(spelled(HOSTILE[place]))
        assert shown[:55] in spelled(words), HOSTILE[place]
    for option in range(9):
        page.select_option("#query", index=option)
    for word in (CALL, "<script>", "__proto__"):
        page.fill("#search", word)
        page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None and page.evaluate("document.scripts.length") == scripts
    assert page.locator("h1").inner_text() == HOSTILE[25] and page.title() == HOSTILE[25]
    assert page.evaluate(
        "[...document.querySelectorAll('*')].every(n => [...n.attributes].every(a => !/^on/i.test(a.name)))"
    )
    assert page.locator("iframe, object, embed, link, base, form[action], a[href^='javascript']").count() == 0


def test_hostile_decisions_go_out_and_come_back(visit, hostile, tmp_path):
    data, names, study = hostile
    page = visit(written(tmp_path / "r.html", study, display=None))
    relabelled(page)
    for kind in ("csv", "json"):
        with page.expect_download() as waiting:
            page.click(f"#export-{kind}")
        waiting.value.save_as(tmp_path / f"d.{kind}")
        found = study.what_if(tmp_path / f"d.{kind}", (data.Xt, names[data.yt]))
        assert found.relabelled == 100
        other = visit(tmp_path / "r.html")
        other.set_input_files("#import-file", tmp_path / f"d.{kind}")
        other.wait_for_selector("#forecast:has-text('100 decisions read')")


def test_a_text_of_a_megabyte_is_an_excerpt(visit, tmp_path):
    data = classification(n=30)
    study = uw.from_sklearn(LogisticRegression(tol=1e-8).fit(data.X, data.y), data.X, data.y)
    path = written(tmp_path / "r.html", study, display=Text([HOSTILE[0] * 30_000] * 30))
    assert path.stat().st_size < 1_000_000
    page = visit(path)
    assert "more characters" in page.locator("#cards .look").first.inner_text()


def test_notebooks_are_given_escaped_words(hostile):
    data, names, study = hostile
    effects = study.drop((data.Xt, names[data.yt]))
    for words in (effects._repr_html_(), study._repr_html_()):
        assert "<script" not in words.lower() and "onerror=" not in words.replace("&lt;img src=x onerror=", "")
    assert "&lt;" in effects._repr_html_() and "<table>" in effects._repr_html_()
    assert "130" not in study._repr_html_() and "100 training points" in study._repr_html_()
