"""Write docs/paper.md from the results in docs/paper/: what the paper reports, what we get, what was to be kept, and why they differ."""

from __future__ import annotations

import json
from pathlib import Path

from experiment import RESULTS

HEAD = """# The paper's experiments

Koh & Liang, *Understanding black-box predictions via influence functions* (ICML 2017), experiment by experiment, on data that package
registries have, and the group effects of Koh, Ang, Teo & Liang (NeurIPS 2019). Every number below is read from `docs/paper/*.json`, which
the scripts in `examples/paper/` wrote. `make paper` runs them at full size and writes this page; what is finished is not run again. Where
the full size has not been run, the small one stands here, mostly on scikit-learn's 8 × 8 digits, and says so. The small sizes run in the tests.

*Paper* is what the paper reports, *expected* what was to be reached. Changes are those of a measurement when points are left out: see
[sign-and-scale.md](sign-and-scale.md).
"""
HERE = Path(__file__).resolve().parent
BAR = "\\|"
"""A bar inside a cell of a table."""

SMALL = " **Small size**: the full one has not been run yet."


def number(value: float) -> str:
    """Four figures; more of what is close to one; integers as they are."""
    if 0.999 < value < 1:
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.4g}"


def bounds(row: dict) -> str:
    """What a number should keep, in words."""
    parts = [] if row["least"] is None else [f"≥ {number(row['least'])}"]
    parts += [] if row["most"] is None else [f"≤ {number(row['most'])}"]
    return ", ".join(parts)


def section(name: str, held: dict) -> str:
    """One experiment."""
    mark = {True: "kept", False: "**not kept**", None: ""}
    lines = [
        f"## {held['title']}",
        "",
        f"*Paper.* {held['paper']}",
        "",
        f"*Here.* {held['setting']}.{SMALL * (held['size'] == 'small')}",
        "",
    ]
    lines += ["| | paper | here | expected | |", "|---|---|---|---|---|"]
    lines += [f"| {row['what'].replace('|', BAR)} | {row['paper']} | {number(row['ours'])} | {bounds(row)} | {mark[row['met']]} |" for row in held["rows"]]  # fmt: skip
    lines += ["", f"*Where they differ.* {held['why']}", ""]
    if (RESULTS / f"{name}.png").exists():
        lines += [f"![{held['title']}](paper/{name}.png)", ""]
    return "\n".join(lines)


def page() -> str:
    """The whole page: a table of contents that says what was kept, then the experiments."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    scripts = sorted((path.stem for path in HERE.glob("a*_*.py")), key=lambda name: (int(name[1:].split("_")[0]), name))
    lines = [HEAD, "| experiment | script | size | expectations kept |", "|---|---|---|---|"]
    for name in scripts:
        if name not in found:
            lines.append(f"| | `{name}.py` | not run yet | |")
            continue
        asked = [row["met"] for row in found[name]["rows"] if row["met"] is not None]
        kept = f"{sum(asked)} of {len(asked)}"
        lines.append(f"| {found[name]['title']} | `{name}.py` | {found[name]['size']} | {kept} |")
    order = [name for name in scripts if name in found]
    return "\n".join(lines) + "\n\n" + "\n".join(section(name, found[name]) for name in order)


if __name__ == "__main__":
    target = RESULTS.parent / "paper.md"
    target.write_text(page(), "utf-8")
    print(target)
