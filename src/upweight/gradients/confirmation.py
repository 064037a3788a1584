"""Which layers of a network are read by their rule: those whose gradients plain autograd confirms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from upweight._typing import Batch, Float, Tensor
from upweight.errors import ModelError
from upweight.gradients.capture import Captured, Site, capture
from upweight.gradients.guard import as_found
from upweight.gradients.layers import Direct, Factored, Indexed, rule_for
from upweight.gradients.network import NetworkEngine
from upweight.gradients.vmap import VmapEngine
from upweight.objective import Objective
from upweight.space import FlatLayout, LinearLayout, ParameterSpace
from upweight.tiles.blocks import added_rows
from upweight.tiles.layer_jacobians import sum_of

SHUFFLED = 7
"""Examples from all over the training set, out of order: a model that sorts its batch is found out, but for one chance in 5,040."""

CHECKED = 3
"""Examples whose rows are held against plain autograd: an odd number that few other axes share."""

AGREEMENT = {torch.float64: 1e-8, torch.float32: 2e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest difference between two ways to a parameter's gradient, in units of its own largest entry: rounding of deep sums."""

NOISE = 100.0
"""Units of rounding of the largest gradient that a parameter's own may consist of: a bias before a norm has only those."""


@dataclass(frozen=True)
class Trial:
    """A few examples, random slopes of their outputs, and the rows Jᵀ·slopes by plain autograd."""

    batch: Batch
    slopes: Float[Tensor, "b o"]
    truth: Float[Tensor, "b p"]


def network_engine(general: VmapEngine) -> NetworkEngine | None:
    """The engine of a network, None where no layer's rule is confirmed by plain autograd."""
    sites = _candidates(general.objective)
    if not sites:
        return None
    count = general.objective.count
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:SHUFFLED].tolist()
    ends = [range(start, min(start + CHECKED, count)) for start in sorted({0, max(0, count - CHECKED)})]
    return _confirmed(general, sites, [_trial(general, places) for places in (*ends, drawn)])


def plain_rows(
    general: VmapEngine, places: Sequence[int], slopes: Float[Tensor, "b o"] | None = None
) -> Float[Tensor, "b p"]:
    """Jᵀ·slopes of some examples by plain autograd, one backward pass each; the loss's own gradient by default."""
    rows = []
    for k, place in enumerate(places):
        batch = general.objective.moved(general.objective.examples.read(slice(place, place + 1)))
        theta = general.objective.theta.clone().requires_grad_()
        with as_found(general.objective.model), torch.enable_grad():
            outputs, targets = general.run(theta, batch)
            if slopes is None:
                value = general.objective.loss.values(*general.objective.loss.prepare(outputs, targets)).sum()
            else:
                value = (outputs.reshape(-1) * slopes[k]).sum()
            rows.append(torch.autograd.grad(value + 0 * theta.sum(), theta)[0])  # outputs may leave θ out
    return torch.stack(rows)


def _trial(general: VmapEngine, places: Sequence[int]) -> Trial:
    batch = general.objective.moved(general.objective.examples.read(np.asarray(places)))
    shape = len(places), general.objective.outputs
    slopes = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes = slopes.to(general.objective.theta)
    return Trial(batch, slopes, plain_rows(general, places, slopes))


def _candidates(objective: Objective) -> tuple[Site, ...]:
    tracked = {id(p): name for name, p in objective.model.named_parameters() if name in objective.space.names}
    slices, found = objective.space.slices(), []
    for name, module in objective.model.named_modules():
        rule = rule_for(module)
        own = {key: slices[tracked[id(p)]] for key, p in module.named_parameters(recurse=False) if id(p) in tracked}
        if rule is not None and own:
            found.append(Site(name, module, rule, _layouts(module, rule, own, objective.space)))
    return tuple(found)


def _layouts(
    module: nn.Module, rule: object, own: dict[str, slice], space: ParameterSpace
) -> dict[str, LinearLayout | FlatLayout]:
    flat: dict[str, LinearLayout | FlatLayout] = {key: FlatLayout(space.size, at) for key, at in own.items()}
    if not isinstance(rule, Factored) or not (rule.bias or "weight" in own):
        return flat
    shape = module.weight.shape  # pyright: ignore
    outputs = shape[1:].numel() if rule.transposed else shape[0]  # pyright: ignore
    bias = own.get("bias") if rule.bias else None
    window = rule.window(module) if "weight" in own else 1
    linear = LinearLayout(int(outputs), space.size, own.get("weight"), bias, rule.transposed, window)
    alone = {} if rule.bias else {key: layout for key, layout in flat.items() if key != "weight"}
    return {"weight": linear, **alone}


def _confirmed(general: VmapEngine, sites: tuple[Site, ...], trials: list[Trial]) -> NetworkEngine | None:
    """The engine of the sites whose rows agree with the truth, with examples on the first axis or the second."""
    good: list[Site] = []
    for axis in (0, 1):
        todo = tuple(replace(site, axis=axis) for site in sites if site.name not in {s.name for s in good})
        good += _agreeing(general, (*good, *todo), todo, trials) if todo else []
    good = _folded(general, good, trials)
    if not good:
        return None
    starts = Counter(start for site in good for start in site.starts)
    names = {where.start: name for name, where in general.objective.space.slices().items()}
    rest = tuple(name for start, name in names.items() if start not in starts)
    widest = general.objective.examples.read(general.objective.examples.heaviest(CHECKED))
    tensors = _tensors(capture(general, tuple(good), general.objective.moved(widest)))
    return NetworkEngine(general, tuple(good), rest, max(starts.values()) > 1, sum(tensors), max(tensors))


def _agreeing(
    general: VmapEngine, watched: tuple[Site, ...], todo: tuple[Site, ...], trials: list[Trial]
) -> list[Site]:
    """Those of the new sites all of whose parameters get the true rows, contributions of tied layers added up.

    A parameter whose true rows are all zero on these examples confirms nothing, and its layers are not believed.
    """
    places = list(general.objective.space.slices().values())
    broken: set[str] = set()
    wrong: set[int] = set()
    seen: set[int] = set()
    for trial in trials:
        rows, failed = _rows_by_rules(general, watched, trial)
        broken |= failed
        dtype = trial.truth.dtype
        rounding = NOISE * torch.finfo(dtype).eps * float(trial.truth.abs().max())
        for where in places:
            scale = float(trial.truth[:, where].abs().max())
            limit = max(AGREEMENT[dtype] * scale, rounding)
            if float((rows[:, where] - trial.truth[:, where]).abs().max()) > limit:
                wrong.add(where.start)
            if scale > 0:
                seen.add(where.start)
    return [site for site in todo if site.name not in broken and not site.starts & wrong and site.starts <= seen]


def _rows_by_rules(general: VmapEngine, watched: tuple[Site, ...], trial: Trial) -> tuple[Tensor, set[str]]:
    """The rows the rules give, and the sites whose rule fails: all from one pass, or one by one where that fails."""
    found, broken = [], set()
    try:
        captured = capture(general, watched, trial.batch)
        gradients = captured.pull(trial.slopes)
    except FAILURES:
        if len(watched) == 1:
            return torch.zeros_like(trial.truth), {watched[0].name}
        alone = [_rows_by_rules(general, (site,), trial) for site in watched]
        return sum_of([rows for rows, _ in alone]), set().union(*(names for _, names in alone))
    for place, (site, _) in enumerate(captured.calls):
        try:
            rows = [(block.layout, block.own_rows()) for block in captured.blocks_of(place, gradients[place])]
        except FAILURES:
            broken.add(site.name)
            continue
        if all(own.shape[1] == layout.width for layout, own in rows):
            found += rows
        else:  # the wrong axis was taken for the examples, and the numbers happened to fit
            broken.add(site.name)
    return added_rows(found) if found else torch.zeros_like(trial.truth), broken


FAILURES = (RuntimeError, ValueError, TypeError, IndexError, ModelError)
"""What a rule may raise at a layer it does not fit."""


def _folded(general: VmapEngine, sites: list[Site], trials: list[Trial]) -> list[Site]:
    """Sites told how many rows an example takes; those for which that differs between calls or trials are left out."""
    found: dict[str, set[float]] = {site.name: set() for site in sites}
    for trial in trials:
        captured = capture(general, tuple(sites), trial.batch)
        for site, calls in captured.calls:
            found[site.name] |= {call.inputs.shape[site.axis] / captured.count for call in calls}
    same = [site for site in sites if len(found[site.name]) <= 1]
    return [replace(site, fold=int(next(iter(found[site.name]), 0))) for site in same]


def _tensors(captured: Captured) -> list[int]:
    """Numbers of every tensor an example holds: inputs and output gradients of every call, windows of convolutions included."""
    found = [1]
    for place, (site, calls) in enumerate(captured.calls):
        outputs = [call.shape.numel() // captured.count for call in calls]
        found += outputs + [call.inputs.numel() // captured.count for call in calls]
        if isinstance(site.rule, Factored):
            found.append(captured.inputs(place)[0].numel())
        if isinstance(site.rule, Indexed | Direct):
            found += outputs
    return found
