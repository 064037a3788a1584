"""One self-contained HTML page: a template, a style, scripts, and data that no script or style is made of."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from upweight.fitted import Fitted
from upweight.report.gathered import Gathered, Stored, Wanted
from upweight.report.packed import script_json
from upweight.report.payload import payload
from upweight.store import write_whole

APP = ("data", "words", "charts", "decisions", "looks", "trust", "suspects", "queries", "keys", "start")
"""The page's own scripts, in the order they are read."""


def write_report(fitted: Fitted, path: str | Path, wanted: Wanted, stored: Stored | None = None) -> str:
    """Gather, render and write; a crash leaves the old page or none."""
    found = payload(Gathered(fitted, wanted, stored or Stored()))
    write_whole(path, render(found).encode("utf-8", "replace"))
    return str(path)


def render(data: dict[str, Any]) -> str:
    """The page as text. Data reach it as JSON only, which the scripts write as text; it loads nothing."""
    from jinja2 import Environment, StrictUndefined, select_autoescape

    scripts, style = [asset("vega.min.js"), asset("vega-interpreter.js"), app()], read("page.css")
    environment = Environment(
        autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.from_string(read("page.html")).render(
        title=data["title"],
        policy=policy(scripts, style),
        style=style,
        scripts=scripts,
        data=script_json(data),
        charts=script_json({"charts": asset("charts.json")}),
    )


def policy(scripts: list[str], style: str) -> str:
    """Nothing but these scripts, this style, and pictures written into the page."""
    allowed = " ".join(f"'{digest(text)}'" for text in scripts)
    return f"default-src 'none'; script-src {allowed}; style-src '{digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"


def digest(text: str) -> str:
    """The hash by which a policy allows an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def app() -> str:
    """The page's own scripts as one."""
    parts = [read(f"app/{name}.js").strip() for name in APP]
    return "(function () {\n'use strict';\n" + "\n\n".join(parts) + "\n})();\n"


def asset(name: str) -> str:
    """What was built: see ``tools/build_report_assets.py``."""
    return read(f"assets/{name}")


@cache
def read(name: str) -> str:
    """A file beside this one."""
    return resources.files("upweight.report").joinpath(name).read_text("utf-8")
