"""Write docs/paper.md from the results in docs/paper/: what the paper reports, what we get, what was to be kept, and why they differ."""

from __future__ import annotations

import json

from experiment import RESULTS

HEAD = """# The paper's experiments

Koh & Liang, *Understanding black-box predictions via influence functions* (ICML 2017), experiment by experiment, on data that package registries
have, and the group effects of Koh, Ang, Teo & Liang (NeurIPS 2019). Every number below is read from `docs/paper/*.json`, which the scripts in
`examples/paper/` wrote; `make paper` runs them at full size and writes this page, finished ones are not run again. The small sizes run in the tests.
`paper` is what the paper reports, *expected* what we set ourselves to reach before running; a figure beside each.
A change is that of the measurement if points are left out: see [sign-and-scale.md](sign-and-scale.md).

"""


def number(value: float) -> str:
    """Four figures, integers as they are."""
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.4g}"


def bounds(row: dict) -> str:
    """What a number should keep, in words."""
    parts = [] if row["least"] is None else [f"≥ {number(row['least'])}"]
    parts += [] if row["most"] is None else [f"≤ {number(row['most'])}"]
    return ", ".join(parts)


def section(name: str, held: dict) -> str:
    """One experiment."""
    mark = {True: "kept", False: "**not kept**", None: ""}
    lines = [f"## {held['title']}", "", f"*Paper.* {held['paper']}", "", f"*Here.* {held['setting']}; {minutes(held['seconds'])}.", ""]  # fmt: skip
    lines += ["| | paper | here | expected | |", "|---|---|---|---|---|"]
    lines += [f"| {row['what']} | {row['paper']} | {number(row['ours'])} | {bounds(row)} | {mark[row['met']]} |" for row in held["rows"]]  # fmt: skip
    lines += ["", f"*Where they differ.* {held['why']}", ""]
    if (RESULTS / f"{name}.png").exists():
        lines += [f"![{held['title']}](paper/{name}.png)", ""]
    return "\n".join(lines)


def minutes(seconds: float) -> str:
    """How long it took."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def page() -> str:
    """The whole page: a table of contents that says what was kept, then the experiments."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    order = sorted(found, key=lambda name: (int(name[1:].split("_")[0]), name))
    lines = [HEAD, "| experiment | script | expectations kept |", "|---|---|---|"]
    for name in order:
        asked = [row["met"] for row in found[name]["rows"] if row["met"] is not None]
        lines.append(f"| {found[name]['title']} | `{name}.py` | {sum(asked)} of {len(asked)} |")
    return "\n".join(lines) + "\n\n" + "\n".join(section(name, found[name]) for name in order)


if __name__ == "__main__":
    target = RESULTS.parent / "paper.md"
    target.write_text(page(), "utf-8")
    print(target)
