"""A study's plan: its shapes, its task, and the rates of the machine it runs on."""

from __future__ import annotations

import time
from typing import Any

from upweight.errors import ConfigError
from upweight.fitted import Fitted
from upweight.fitted.settings import read_bytes
from upweight.planning.plan import Plan, plan
from upweight.planning.rates import Clock, Rates
from upweight.planning.shapes import shape_of


def plan_of(
    fitted: Fitted, query: Any, memory: int | float | str | None = None, clock: Clock = time.perf_counter
) -> Plan:
    """What every method would take."""
    count = query if isinstance(query, int) and not isinstance(query, bool) else None
    if count is None:
        count = len(fitted.adapted.codec.read(query, "query"))
    if count < 1:
        raise ConfigError(f"plan found {count} queries. Expected one or more; pass data, or how many there will be.")
    shape, task = shape_of(fitted.engine, passes=True), fitted.task(count, read_bytes(memory))
    rates = Rates.measured(fitted.engine, shape, clock)
    return plan(shape, task, rates, min(fitted.engine.tile, fitted.objective.count))
