"""Effects as a notebook shows them: the sentences, and what is strongest for the first queries."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from upweight.influence.effects import Effects

ROWS, EACH, LONG = 5, 3, 60
"""Queries shown, changes on either side of each, and characters of a name."""


def effects_html(effects: Effects) -> str:
    """A paragraph and a table; every name is escaped."""
    words = "<br>".join(escape(line) for line in repr(effects).split("\n"))
    rows = [_row(effects, place) for place in range(min(ROWS, len(effects.values)))] if effects.values.size else []
    more = len(effects.values) - len(rows)
    note = f"<p>… and {more:,} more rows: effects.to_pandas()</p>" if more > 0 and rows else ""
    head = "<tr><th>query</th><th>raised most by</th><th>lowered most by</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    return f"<div><p>{words}</p>{table}{note}</div>"


def _row(effects: Effects, place: int) -> str:
    values = effects.values[place]
    order = np.argsort(-values, kind="stable")
    up = [k for k in order[:EACH] if values[k] > 0]
    down = [k for k in order[::-1][:EACH] if values[k] < 0]
    sides = (", ".join(f"{_name(effects.train_ids[k])} ({values[k]:+.3g})" for k in side) for side in (up, down))
    return f"<tr><td>{_name(effects.query_ids[place])}</td>{''.join(f'<td>{side}</td>' for side in sides)}</tr>"


def _name(name: object) -> str:
    text = str(name)
    return escape(text if len(text) <= LONG else f"{text[: LONG - 1]}…")
