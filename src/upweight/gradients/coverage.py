"""Which rule finds the gradient of which parameter, and the refusal of those that none does."""

from __future__ import annotations

from upweight.errors import ModelError, listing
from upweight.gradients.engine import Engine
from upweight.gradients.linear import LinearEngine
from upweight.gradients.network import NetworkEngine
from upweight.gradients.vmap import VmapEngine

NO_RULE = ("vmap", "one by one")
"""How parameters are differentiated that no layer rule covers."""


def coverage_of(engine: Engine) -> dict[str, str]:
    """For every tracked parameter 'linear model', the layer whose rule gives its gradient, 'vmap' or 'one by one'."""
    names = engine.objective.space.names
    if isinstance(engine, NetworkEngine):
        return engine.coverage
    if isinstance(engine, LinearEngine):
        return dict.fromkeys(names, "linear model")
    assert isinstance(engine, VmapEngine)
    return dict.fromkeys(names, "vmap" if engine.vectorised else "one by one")


def require_rules(engine: Engine) -> None:
    """Refuse parameters without a layer rule.

    Raises:
        ModelError: some parameter's gradient is found by ``vmap`` or one example at a time.
    """
    bare = {name: how for name, how in coverage_of(engine).items() if how in NO_RULE}
    if bare:
        homes = {name: engine.objective.model.get_submodule(name.rpartition(".")[0]) for name in bare}
        found = [f"{name} of a {type(home).__name__} ({bare[name]})" for name, home in homes.items()]
        raise ModelError(
            f"strict=True found {len(bare)} tracked parameter{'s' * (len(bare) > 1)} without a layer rule: {listing(found)}. "
            "Expected a rule for every one; leave them out with parameters=, or pass strict=False to have them differentiated one example at a time, which is slower and as exact."
        )
