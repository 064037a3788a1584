"""One forward and one backward pass give every layer's inputs and output gradients; no weight gradient is formed.

Parameters carry no gradient, so autograd keeps only what the layers' outputs need, from the first tracked
layer on. A layer used several times has as many positions more. Layer rules are believed only after the
rows they give have been held against plain autograd; a parameter that no rule covers is left to ``vmap``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from upweight._typing import Batch, Float, Tensor
from upweight.errors import ModelError
from upweight.float32_products import fast_float32
from upweight.gradients.guard import as_found, torch_only
from upweight.gradients.layers import Direct, Factored, Indexed, Rule
from upweight.gradients.vmap import VmapEngine, refused_in_words
from upweight.objective import plain_forward
from upweight.space import FlatLayout, LinearLayout
from upweight.tiles import PlacedBlock
from upweight.tiles.blocks import IndexedBlock, LayerBlock
from upweight.tiles.layer_jacobians import (
    FactoredJacobian,
    IndexedJacobian,
    LayerJacobian,
    PlacedJacobian,
    factored_block,
    stacked,
)


@dataclass(frozen=True)
class Site:
    """A tracked layer: its module, its rule, where its parameters lie, and on which axis its examples are."""

    name: str
    module: nn.Module
    rule: Rule
    layouts: dict[str, LinearLayout | FlatLayout]
    axis: int = 0
    fold: int = 0
    """Rows an example takes on the leading axis, as they were when the rule was confirmed; 0 before that."""

    @property
    def starts(self) -> set[int]:
        """Where its parameters begin in θ."""
        return {start for layout in self.layouts.values() for start, _ in layout.places}

    def leading(self, values: Tensor, count: int) -> Tensor:
        """Examples on the leading axis: moved there, or unfolded from (b·s, ...) where layers flatten them.

        Raises:
            ModelError: other rows an example than when the rule was confirmed: the model routes its inputs.
        """
        values = values.movedim(self.axis, 0) if self.axis else values
        if self.fold and len(values) != count * self.fold:
            raise ModelError(
                f"layer {self.name!r} was given {len(values)} rows for {count} examples. Expected {self.fold} an example, as for the first ones: "
                "a layer that sees a different part of each batch has no per-example rows here; leave it out with parameters=."
            )
        return values if len(values) == count else values.reshape(count, -1, *values.shape[1:])


@dataclass
class Call:
    """One use of a layer within a pass."""

    inputs: Tensor
    edge: Any
    shape: torch.Size


@dataclass(frozen=True)
class Captured:
    """A forward pass at which every tracked layer was watched."""

    outputs: Float[Tensor, "b ..."]
    targets: Any
    calls: list[tuple[Site, list[Call]]]
    count: int
    kept: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @fast_float32()
    def pull(self, slopes: Float[Tensor, "b o"], again: bool = False) -> list[list[Tensor]]:
        """Gradients of Σ slopes·outputs with respect to the output of every call of every site."""
        edges = [call.edge for _, calls in self.calls for call in calls]
        shapes = [call.shape for _, calls in self.calls for call in calls]
        along = torch.dot(self.outputs.reshape(-1), slopes.reshape(-1).to(self.outputs.dtype))
        found = torch.autograd.grad(along, edges, retain_graph=again, allow_unused=True)  # slopes= would import sympy
        flat = iter(
            self.outputs.new_zeros(shape) if g is None else g.to(self.outputs.dtype)
            for g, shape in zip(found, shapes, strict=True)
        )
        return [[next(flat) for _ in calls] for _, calls in self.calls]

    def inputs(self, place: int) -> Float[Tensor, "b s i"]:
        """a of a factored site, the positions of its calls side by side, with the constant where there is a bias."""
        site, calls = self.calls[place]
        assert isinstance(site.rule, Factored)
        if site.name not in self.kept:
            layout = site.layouts["weight"]
            assert isinstance(layout, LinearLayout)
            ones = layout.bias is not None
            given = [site.leading(call.inputs, self.count) for call in calls]
            parts = [site.rule.inputs(site.module, inputs, ones) for inputs in given]
            joined = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            self.kept[site.name] = joined if layout.weight is not None else joined[..., -1:]
        return self.kept[site.name]

    def slopes(self, place: int, gradients: list[Tensor]) -> Float[Tensor, "b s o"]:
        """g of a factored or indexed site, the positions of its calls side by side."""
        site, _ = self.calls[place]
        leading = [site.leading(g, self.count) for g in gradients]
        if isinstance(site.rule, Factored):
            parts = [site.rule.outputs(site.module, g) for g in leading]
        else:
            joined = torch.cat([g.reshape(self.count, -1, g.shape[-1]) for g in leading], 1)
            padding = site.module.padding_idx  # pyright: ignore
            return joined if padding is None else joined * self.index(place).ne(padding).unsqueeze(2)  # pyright: ignore
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def index(self, place: int) -> Tensor:
        """The rows an embedding looked up, (b, s)."""
        site, calls = self.calls[place]
        return torch.cat([site.leading(call.inputs, self.count).reshape(self.count, -1) for call in calls], 1)

    def direct(self, place: int, gradients: list[Tensor]) -> dict[str, Float[Tensor, "b q"]]:
        """Written-out gradients of a site's parameters that have no factors."""
        site, calls = self.calls[place]
        rule = site.rule
        total: dict[str, Tensor] = {}
        for call, gradient in zip(calls, gradients, strict=True):
            inputs, slopes = (site.leading(t, self.count) for t in (call.inputs, gradient))
            if isinstance(rule, Direct):
                found = rule.gradients(site.module, inputs, slopes)
            else:  # the bias of a transposed convolution: one number an output channel
                found = {"bias": slopes.flatten(2).sum(2)}
            for name, value in found.items():
                if name in site.layouts:
                    total[name] = total[name] + value.flatten(1) if name in total else value.flatten(1)
        return total

    def blocks(self, gradients: list[list[Tensor]]) -> list[LayerBlock]:
        """The gradient rows of every site, from what ``pull`` returned."""
        return [block for place, mine in enumerate(gradients) for block in self.blocks_of(place, mine)]

    def blocks_of(self, place: int, gradients: list[Tensor]) -> list[LayerBlock]:
        """The gradient rows of one site."""
        site = self.calls[place][0]
        found: list[LayerBlock] = []
        if isinstance(site.rule, Factored) and "weight" in site.layouts:
            layout = site.layouts["weight"]
            assert isinstance(layout, LinearLayout)
            found.append(factored_block(self.inputs(place), self.slopes(place, gradients), layout))
        elif isinstance(site.rule, Indexed):
            layout = site.layouts["weight"]
            assert isinstance(layout, FlatLayout)
            found.append(IndexedBlock(self.index(place), self.slopes(place, gradients), layout))
        placed = self._placed(place, gradients).items()
        return [*found, *(PlacedBlock(values, _flat(site, name)) for name, values in placed)]

    def jacobians(self, gradients: list[list[list[Tensor]]]) -> list[LayerJacobian]:
        """The Jacobian of every site, from one ``pull`` for each output."""
        found: list[LayerJacobian] = []
        for place, (site, _) in enumerate(self.calls):
            mine = [of_output[place] for of_output in gradients]
            if isinstance(site.rule, Factored | Indexed) and "weight" in site.layouts:
                slopes = stacked([self.slopes(place, one) for one in mine])  # (b, k, s, o)
                layout = site.layouts["weight"]
                if isinstance(layout, LinearLayout):
                    found.append(FactoredJacobian(self.inputs(place), slopes, layout))
                else:
                    found.append(IndexedJacobian(self.index(place), slopes, layout))
            placed = [self._placed(place, one) for one in mine]
            for name in placed[0]:
                found.append(PlacedJacobian(stacked([one[name] for one in placed]), _flat(site, name)))
        return found

    def _placed(self, place: int, gradients: list[Tensor]) -> dict[str, Tensor]:
        site, _ = self.calls[place]
        alone = isinstance(site.rule, Direct) or (isinstance(site.rule, Factored) and "bias" in site.layouts)
        return self.direct(place, gradients) if alone else {}


def _flat(site: Site, name: str) -> FlatLayout:
    layout = site.layouts[name]
    assert isinstance(layout, FlatLayout)
    return layout


def capture(
    general: VmapEngine,
    sites: tuple[Site, ...],
    batch: Batch,
    theta: Tensor | None = None,
    precision: torch.dtype | None = None,
) -> Captured:
    """Run the model once with every site watched, its products in another precision where one is named.

    What is captured is read in the parameters' type, float32 at least: sums over examples are not for half precision.
    """
    model, theta = general.objective.model, general.objective.theta if theta is None else theta
    calls: dict[str, list[Call]] = {site.name: [] for site in sites}
    own = general.objective.theta.dtype
    like = theta.new_zeros((), dtype=torch.promote_types(own, torch.float32))
    lower = torch.autocast(theta.device.type, precision or torch.bfloat16, enabled=precision is not None)
    quick = fast_float32() if torch_only(model) and general.objective.forward is plain_forward else nullcontext()
    watched, guarded = _watched(sites, calls, like), as_found(model)
    with refused_in_words(batch), watched, guarded, torch.enable_grad(), quick, lower:
        outputs, targets = general.run(theta.to(own).detach(), batch)
        outputs = outputs.to(like.dtype)
    return Captured(outputs, targets, [(site, calls[site.name]) for site in sites if calls[site.name]], len(outputs))


@contextmanager
def _watched(sites: tuple[Site, ...], calls: dict[str, list[Call]], like: Tensor) -> Iterator[None]:
    """Hooks that keep inputs and the autograd edges of outputs, inside one `with`."""
    anchor = torch.zeros((), dtype=like.dtype, device=like.device, requires_grad=True)

    def hook_of(site: Site) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            given = args[0] if args else next(iter(kwargs.values()))
            if not output.requires_grad:
                output = output + anchor.to(output.dtype)
            edge = torch.autograd.graph.get_gradient_edge(output)
            inputs = given.detach().to(like.dtype) if given.is_floating_point() else given.detach()
            calls[site.name].append(Call(inputs, edge, output.shape))
            return output

        return hook

    handles = [site.module.register_forward_hook(hook_of(site), with_kwargs=True) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
