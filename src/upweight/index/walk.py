"""One shard of an index: the compressed gradients of a stretch of examples, and how much of each was left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import NonFiniteGradient, plain
from upweight.fitted import Fitted
from upweight.index.basis import Basis
from upweight.index.lower import Lower
from upweight.index.rounding import Rounding
from upweight.objective import Examples
from upweight.tiles.compressed import compressed
from upweight.tiles.layer_jacobians import LayerJacobian, layer_sandwich

UPWARDS = 1 + 1e-6
"""What a bound is raised by when it is rounded to float32."""

ROUNDING = 64.0
"""Units of rounding of ‖g‖² that the difference of two sums of squares may be off by."""


@dataclass(frozen=True)
class Recorder:
    """How gradients become the arrays of a shard.

    Attributes:
        lower: D with D ≼ H, by which √(gᵢᵀH⁻¹gᵢ) is bounded; None where the study's own answers need no solve.
        bounds: whether to record what is left out.
        tile: examples a pass takes; part of what the last bits depend on.
    """

    fitted: Fitted
    basis: Basis
    rounding: Rounding
    lower: Lower | None
    bounds: bool
    tile: int

    def arrays(self, examples: Examples) -> dict[str, np.ndarray]:
        """The arrays of one shard.

        Raises:
            NonFiniteGradient: an example's gradient is NaN or infinite.
        """
        parts = []
        for names, layers, own in gradients(self.fitted, examples, self.tile, self.lower if self.bounds else None):
            rows = compressed(layers, self.basis.projection)[:, 0]
            _require_finite(rows, names)
            stored = self.rounding.encode(rows)
            parts.append(stored | (self._left_out(layers, rows, stored, own) if self.bounds else {}))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _left_out(
        self, layers: tuple[LayerJacobian, ...], rows: Tensor, stored: dict[str, np.ndarray], own: Tensor | None
    ) -> dict[str, np.ndarray]:
        """‖what a layer leaves out‖ and ‖what rounding changes‖, in the metric's inverse; and the bound of √(gᵢᵀH⁻¹gᵢ)."""
        lengths = self.basis.lengths.sqrt()
        changed = ((rows.double().cpu() - self.rounding.decode(stored)) * lengths).norm(dim=1)
        found = {"rounded": _up(changed), "tail": _up(self._tails(layers, rows))}
        return found if own is None else found | {"own": _up(own)}

    def _tails(self, layers: tuple[LayerJacobian, ...], rows: Float[Tensor, "b r"]) -> Float[Tensor, "b x"]:
        if self.basis.metric_inverse is None:
            return rows.new_zeros(len(rows), 0)
        found = {layer.layout.places: layer for layer in layers}
        tails, eps = [], torch.finfo(rows.dtype).eps
        blocks = zip(self.basis.metric_inverse.parts, self.basis.projection.columns(), strict=True)
        for (at, block), where in blocks:
            whole = layer_sandwich(found[at.places], block)[:, 0, 0].double()
            kept = rows[:, where].double().square() @ self.basis.lengths[where].to(rows.device)
            tails.append((whole - kept).clamp_min(0) + ROUNDING * eps * whole)
        return torch.stack(tails, 1).sqrt()


def gradients(
    fitted: Fitted, examples: Examples, tile: int, lower: Lower | None = None
) -> Iterator[tuple[np.ndarray, tuple[LayerJacobian, ...], Float[Tensor, "b"] | None]]:
    """Names and gradient rows of examples, layer by layer; and the bound of √(gᵢᵀH⁻¹gᵢ) where D is given."""
    objective = fitted.objective
    for where, batch in examples.batches(tile):
        names = examples.ids[where]
        outputs, targets, jacobian = fitted.engine.linearised(objective.moved(batch), names)
        slopes = objective.loss.gradient(outputs, targets)
        layers = jacobian.pulled([slopes])
        yield names, layers, None if lower is None else lower.own(outputs, targets, jacobian, layers)


def _require_finite(rows: Float[Tensor, "b r"], names: np.ndarray) -> None:
    if bool(torch.isfinite(rows).all()):
        return
    place = int((~torch.isfinite(rows)).any(1).nonzero()[0])
    raise NonFiniteGradient(
        f"the gradient of training example {plain(names[place])!r} is NaN or infinite. Expected finite gradients; look at this example's input and target, or leave it out."
    )


def _up(bound: Tensor) -> np.ndarray:
    """A bound in float32, rounded upwards."""
    return (bound.double() * UPWARDS).float().cpu().numpy()
