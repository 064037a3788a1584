"""Models linear in their tracked parameters: gradients are outer products, Hessians weighted Grams.

    η = M a,   ∇ℓᵢ = ∇_ηℓᵢ ⊗ aᵢ,   Σ wᵢ∇²ℓᵢ = Σ wᵢ Λᵢ ⊗ aᵢaᵢᵀ

No backward pass is taken through the model, and nothing of size p × p is formed for an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from upweight._typing import Batch, Float, Tensor
from upweight.gradients.engine import Engine
from upweight.gradients.guard import as_found
from upweight.gradients.vmap import VmapEngine, absent, refused_in_words
from upweight.objective import Examples, Objective, plain_forward
from upweight.objective.linear_map import LinearMap
from upweight.objective.predictors import Predictors
from upweight.router import TILE_BYTES
from upweight.space import CellLayout, LinearLayout, MapLayout
from upweight.tiles import Block, FactoredBlock, Jacobian, LinearJacobian

CACHE_BYTES = 2**29
"""Inputs of the linear map are kept between passes up to this size."""

CACHED_ROWS = 8192
"""Rows of fifty columns fill a core's cache: temporaries of a tile then never reach main memory."""

FOLLOWED = 24
"""Examples drawn from all on which a model is held to be one linear map."""

AFFINE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How closely the outputs at a moved θ must follow the linear map: rounding of a few hundred terms."""


@dataclass(frozen=True)
class Features:
    """A batch already brought to the linear map: what it is given, and what it is compared with.

    offset is what frozen parts of the map add to the outputs, None for nothing.
    """

    inputs: Float[Tensor, "b i"]
    offset: Float[Tensor, "b o"] | None
    targets: Tensor


@dataclass(frozen=True)
class LinearEngine(Engine):
    """Closed forms for a tracked linear map that ends the model; the rest of the model is frozen."""

    general: VmapEngine
    linear: nn.Linear | Predictors
    layout: MapLayout
    kept: list[tuple[slice, Features]] = field(default_factory=list, repr=False)

    @property
    def objective(self) -> Objective:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.general.objective

    @property
    def tile(self) -> int:
        fitting = TILE_BYTES // (8 * (self.linear.in_features + 1))
        curved = max(1, TILE_BYTES // (8 * self.layout.outputs**2))  # Λ is o × o an example
        return self.objective.batch_size or min(curved, max(256, min(CACHED_ROWS, fitting)))

    def batches(self, examples: Examples | None = None) -> Iterator[tuple[slice, Batch]]:
        """Batches of features; those of the training set are kept between passes where they fit."""
        if examples is not None and examples is not self.objective.examples:
            yield from super().batches(examples)
            return
        if not self.kept and 8 * self.objective.count * (self.linear.in_features + 1) <= CACHE_BYTES:
            names = self.objective.examples.ids
            self.kept.extend((where, self.features(batch, names[where])) for where, batch in super().batches())
        yield from self.kept or super().batches()

    def outputs(
        self, batch: Batch, theta: Tensor | None = None, names: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        found = self.features(batch, names)
        return self._eta(found, theta), found.targets

    def gradients(self, batch: Batch, theta: Tensor | None = None) -> Block:
        found = self.features(batch)
        return FactoredBlock(
            found.inputs, self.objective.loss.gradient(self._eta(found, theta), found.targets), self.layout
        )

    def jacobian(self, batch: Batch) -> Jacobian:
        return LinearJacobian(self.features(batch).inputs, self.layout)

    def hessian(self, examples: Examples, weights: Tensor, theta: Tensor | None = None) -> Tensor:
        return self._gram(examples, weights, theta, expected=False)

    def fisher(self, weights: Float[Tensor, "n"], theta: Tensor | None = None) -> Float[Tensor, "p p"]:
        """Σ wᵢ E[∇²ℓᵢ] over the training set, under the model: what a GLM's classical standard errors are made of."""
        return self._gram(self.objective.examples, weights, theta, expected=True)

    def _gram(self, examples: Examples, weights: Tensor, theta: Tensor | None, expected: bool) -> Tensor:
        p, loss = self.objective.space.size, self.objective.loss
        total = torch.zeros(p, p, dtype=torch.float64, device=self.objective.theta.device)
        with self.objective.fold.phase("Hessian"):
            for where, batch in self.own_batches(examples):
                found = self.features(batch)
                eta, jacobian = self._eta(found, theta), LinearJacobian(found.inputs, self.layout)
                weight, thin = weights[where].to(eta.dtype), self._thin(eta, found.targets)
                if thin is not None and not expected:
                    jacobian.add_diagonal_gram(thin * weight[:, None], total)
                else:
                    curvature = (loss.fisher if expected else loss.hessian)(eta, found.targets)
                    jacobian.add_gram(curvature * weight[:, None, None], total)
        self.objective.fold.sum("Hessian", [total])
        return total

    def _thin(self, eta: Tensor, targets: Tensor) -> Tensor | None:
        """Λ where outputs do not meet in it, (b, o)."""
        found = self.objective.loss.thin_hessian(eta, targets) if self.layout.outputs > 1 else None
        return found.curve if found is not None and found.root is None else None

    def curvature_times(self, batch: Batch, direction: Tensor) -> Tensor:
        found = self.features(batch)
        jacobian = LinearJacobian(found.inputs, self.layout)
        curvature = self.objective.loss.hessian(self._eta(found, None), found.targets)
        return jacobian.vjp((curvature.to(direction.dtype) @ jacobian.jvp(direction.unsqueeze(0))).squeeze(2)).dense()

    def function_of(self, batch: Batch, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return self.general.function_of(batch, dtype)

    def input_gradient(self, batch: Batch, rows: Tensor) -> Tensor:
        return self.general.input_gradient(batch, rows)

    def features(self, batch: Batch, names: np.ndarray | None = None) -> Features:
        """What the linear map is given for a batch, with checked targets."""
        if isinstance(batch, Features):
            return batch
        if (
            isinstance(self.linear, LinearMap | Predictors)
            and self.linear is self.objective.model
            and self.objective.forward is plain_forward
        ):
            with refused_in_words(batch):
                found, raw, targets = batch[0], self.linear(batch[0]).detach(), batch[1]
        else:
            found, raw, targets = self._capture(batch)
        inputs = self._augmented(found)
        outputs = raw.reshape(len(raw), -1)
        offset = None if self._whole else outputs - self._eta(Features(inputs, None, outputs), None)
        if absent(targets):
            return Features(inputs, offset, outputs.new_zeros(len(inputs), 0))
        return Features(
            inputs, offset, self.objective.loss.prepare(raw, targets, () if names is None else list(names))[1]
        )

    @property
    def _whole(self) -> bool:
        if isinstance(self.layout, CellLayout) or isinstance(self.linear, Predictors):
            return True
        return self.layout.weight is not None and (self.layout.bias is not None or self.linear.bias is None)

    def _augmented(self, inputs: Tensor) -> Tensor:
        if isinstance(self.layout, CellLayout):
            return inputs
        if self.layout.weight is None:
            return inputs.new_ones(len(inputs), 1)
        if self.layout.bias is None:
            return inputs
        return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)

    def _eta(self, found: Features, theta: Tensor | None) -> Tensor:
        theta = self.objective.theta if theta is None else theta.to(found.inputs.dtype)
        if isinstance(self.linear, Predictors):
            return found.inputs @ self.linear.weight(theta).T  # (b, o), offsets among the inputs
        outputs = found.inputs @ self.layout.matrix(theta.unsqueeze(0))[0].T  # (b, o)
        return outputs if found.offset is None else outputs + found.offset

    def _capture(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        with refused_in_words(batch), _inputs_of(self.linear) as seen, as_found(self.objective.model), torch.no_grad():
            outputs, targets = self.general.run(self.objective.theta, batch)
        return seen[0], outputs, targets


class _inputs_of:
    """Collect what a linear map is given, inside one `with`."""

    def __init__(self, linear: nn.Module) -> None:
        self.linear = linear
        self.seen: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:
        self.handle = self.linear.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0].detach()))
        return self.seen

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def linear_engine(general: VmapEngine) -> LinearEngine | None:
    """The closed-form engine, if the tracked parameters are exactly a linear map that ends the model.

    It is checked, not assumed: at a moved θ the module's own outputs must follow the map.
    """
    if isinstance(general.objective.model, Predictors):
        model = general.objective.model
        return LinearEngine(general, model, model.layout)
    found = _sole_linear(general.objective)
    if found is None:
        return None
    linear, prefix = found
    slices = general.objective.space.slices()
    layout = LinearLayout(
        linear.out_features, general.objective.space.size, slices.get(f"{prefix}weight"), slices.get(f"{prefix}bias")
    )
    engine = LinearEngine(general, linear, layout)
    return engine if _follows(engine) else None


def _sole_linear(objective: Objective) -> tuple[nn.Linear, str] | None:
    tracked = set(objective.space.names)
    for name, module in objective.model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.Linear) and tracked <= {f"{prefix}weight", f"{prefix}bias"}:
            return module, prefix
    return None


def _followed(count: int) -> np.ndarray:
    """The first and last examples and some between: sorted data may begin with one kind."""
    between = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:FOLLOWED].numpy()
    return np.unique(np.concatenate([np.arange(min(4, count)), between, np.arange(max(0, count - 4), count)]))


def _follows(engine: LinearEngine) -> bool:
    """Whether the outputs of each of those examples, all finite, are the linear map's."""
    batch = engine.objective.moved(engine.objective.examples.read(_followed(engine.objective.count)))
    theta, names = engine.objective.theta, engine.objective.examples.ids
    move = torch.randn(len(theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(theta)
    with _inputs_of(engine.linear) as seen, as_found(engine.objective.model), torch.no_grad():
        outputs, _ = engine.general.run(theta + move, batch)
    if len(seen) != 1 or seen[0].ndim != 2 or outputs.numel() != len(seen[0]) * engine.layout.outputs:
        return False
    expected, found = engine.outputs(batch, theta + move, names)[0], outputs.reshape(len(outputs), -1)
    limits = AFFINE_TOLERANCE[theta.dtype] * found.abs().amax(1).clamp_min(1)
    return bool(torch.isfinite(found).all()) and bool(((expected - found).abs().amax(1) <= limits).all())
