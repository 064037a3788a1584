"""Any module, one example at a time, by torch.func: the reference every faster engine must equal."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch.func import grad, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from upweight._typing import Batch, Tensor
from upweight.errors import ConfigError, ModelError, ShapeError
from upweight.gradients.engine import Engine
from upweight.gradients.guard import ForwardModule, as_found, called
from upweight.objective import Examples, Objective
from upweight.objective.data import map_tensors
from upweight.router import TILE_BYTES
from upweight.tiles import Block, DenseBlock, DenseJacobian, Jacobian

PROBED, MOST_PROBED = 3, 64
"""Examples on which vectorised derivatives are held against single ones, and outputs up to which Jacobians are."""

VECTORISED_RTOL = 1e-3
"""Rounding of float32 networks; torch's faulty vectorisations are off by tens of percent."""

HESSIAN_ROWS = 64
"""Hessian rows formed by one vectorised double backward pass."""


def absent(targets: Any) -> bool:
    """Whether examples came without targets: they can be predicted, and nothing else."""
    return targets is None or (isinstance(targets, Tensor) and targets.shape[1:] == (0,))


@contextmanager
def refused_in_words(batch: Batch) -> Iterator[None]:
    """Say which batch the model could not be called on, and what to do."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        raise ShapeError(
            f"the model could not be called on {described(batch)}: {error}. Expected inputs as in training, in shape and type; "
            "convert them, or pass forward= to take the batch apart."
        ) from error


@contextmanager
def unruled_functions() -> Iterator[None]:
    """Say what a custom ``torch.autograd.Function`` lacks where torch.func refuses it.

    Raises:
        ModelError: it has no ``setup_context``.
    """
    try:
        yield
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise ModelError(
            "the model calls a torch.autograd.Function that torch.func cannot differentiate, for it has no setup_context. Expected one for every "
            "question that no layer rule answers; give the Function setup_context and generate_vmap_rule = True, or leave the parameters without a "
            "layer rule out with parameters= and use curvature='ekfac'."
        ) from error


def described(batch: Batch) -> str:
    """The shapes and types of a batch, for a message."""
    found: list[str] = []
    map_tensors(batch, lambda tensor: found.append(f"{tuple(tensor.shape)} {tensor.dtype}"))
    return "a batch of " + ", ".join(found)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by its formula: fused kernels have no second derivative and no rule for examples one by one."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message=".*torch.jit.script", category=DeprecationWarning
        )  # torch's own, in jvp
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@dataclass(frozen=True)
class VmapEngine(Engine):
    """Per-example derivatives of any differentiable module."""

    objective: Objective

    @property
    def tile(self) -> int:
        outputs = int(np.prod(self.objective.trailing, dtype=int)) if self.objective.trailing else 1
        return self.objective.batch_size or max(1, min(1024, TILE_BYTES // (8 * self.objective.space.size * outputs)))

    def outputs(
        self, batch: Batch, theta: Tensor | None = None, names: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        with refused_in_words(batch), as_found(self.objective.model), torch.no_grad():
            outputs, targets = self.run(self._at(theta), batch)
        if absent(targets):
            return outputs.reshape(len(outputs), -1), outputs.new_zeros(len(outputs), 0)
        return self.objective.loss.prepare(outputs, targets, () if names is None else list(names))

    def run(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Any]:
        """Raw outputs and targets at θ; buffers are copies, so the model keeps its own."""
        tracked = {f"model.{name}": value for name, value in self.objective.space.unflatten(theta).items()}
        buffers = {f"model.{name}": value.clone() for name, value in self.objective.model.named_buffers()}
        with unruled_functions():
            return called(self._bound, {**self._frozen, **buffers, **tracked}, batch)

    def function_of(self, batch: Batch, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """θ ↦ η of a batch, in another floating-point type; frozen parameters and buffers are cast along."""
        cast = map_tensors(batch, lambda t: t.to(dtype) if t.is_floating_point() else t)
        others = {
            **self._frozen,
            **{f"model.{name}": value.clone() for name, value in self.objective.model.named_buffers()},
        }
        others = {name: value.to(dtype) if value.is_floating_point() else value for name, value in others.items()}

        def function(theta: Tensor) -> Tensor:
            tracked = {f"model.{name}": value for name, value in self.objective.space.unflatten(theta).items()}
            with as_found(self.objective.model):
                outputs, _ = called(self._bound, {**others, **tracked}, cast)
            return outputs.reshape(len(outputs), -1)

        return function

    def gradients(self, batch: Batch, theta: Tensor | None = None) -> Block:
        _, targets = self.outputs(batch, theta)
        slope = partial(grad(self._loss), self._at(theta))
        return DenseBlock(self._each(slope, batch, targets))  # (b, p)

    def jacobian(self, batch: Batch) -> Jacobian:
        return DenseJacobian(self._each(partial(jacrev(self._outputs), self._at(None)), batch))

    def pulled_of(
        self, names: tuple[str, ...], batch: Batch, slopes: Tensor, theta: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The rows Jᵀ·slopes of some parameters only, (b, q) each."""
        whole = self.objective.space.unflatten(self._at(theta))
        part = {name: whole[name] for name in names}

        def along(part: dict[str, Tensor], example: Batch, slope: Tensor) -> Tensor:
            return self._outputs(self.objective.space.flatten({**whole, **part}), example) @ slope

        found = self._each(partial(grad(along), part), batch, slopes.to(self.objective.theta.dtype))
        return {name: value.flatten(1) for name, value in found.items()}

    def jacobians_of(self, names: tuple[str, ...], batch: Batch) -> dict[str, Tensor]:
        """Output Jacobians of some parameters only, (b, o, q) each."""
        whole = self.objective.space.unflatten(self._at(None))
        part = {name: whole[name] for name in names}

        def outputs(part: dict[str, Tensor], example: Batch) -> Tensor:
            return self._outputs(self.objective.space.flatten({**whole, **part}), example)

        found = self._each(partial(jacrev(outputs), part), batch)
        return {name: value.flatten(2) for name, value in found.items()}

    def hessian(self, examples: Examples, weights: Tensor, theta: Tensor | None = None) -> Tensor:
        p = self.objective.space.size
        total = torch.zeros(p, p, dtype=torch.float64, device=self.objective.theta.device)
        with self.objective.fold.phase("Hessian"):
            for where, batch in self.own_batches(examples):
                targets = self.outputs(batch, theta)[1]
                with as_found(self.objective.model):
                    self._add_hessian(total, self._at(theta), batch, targets, weights[where])
        self.objective.fold.sum("Hessian", [total])
        return total.add_(total.T.clone()).mul_(0.5)

    def curvature_times(self, batch: Batch, direction: Tensor) -> Tensor:
        _, targets = self.outputs(batch)
        slope = grad(self._loss)

        def one(theta: Tensor, example: Batch, target: Tensor) -> Tensor:
            return slope(theta, example, target) @ direction.to(theta.dtype)

        return self._each(partial(grad(one), self._at(None)), batch, targets)

    def input_gradient(self, batch: Batch, rows: Tensor) -> Tensor:
        if not (isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) and batch[0].is_floating_point()):
            raise ConfigError(
                "perturb found inputs that are not one floating-point tensor. Expected (X, y) with real-valued X; integers such as token ids have no derivative."
            )
        targets = self.outputs(batch)[1]

        def along(inputs: Tensor, raw: Tensor, target: Tensor, row: Tensor) -> Tensor:
            return grad(self._loss)(self._at(None), (inputs, raw), target) @ row

        def of_example(inputs: Tensor, raw: Tensor, target: Tensor) -> Tensor:
            slope = grad(along)
            return torch.stack([slope(inputs, raw, target, row) for row in rows.to(self.objective.theta.dtype)])

        return self._each(of_example, batch[0], batch[1], targets)

    def _add_hessian(self, total: Tensor, theta: Tensor, batch: Batch, targets: Tensor, weights: Tensor) -> None:
        def weighted(theta: Tensor) -> Tensor:
            outputs, _ = self.run(theta, batch)
            return weights.to(theta.dtype) @ self.objective.loss.values(outputs.reshape(len(outputs), -1), targets)

        def row(direction: Tensor) -> Tensor:
            return grad(lambda point: grad(weighted)(point) @ direction)(theta)

        eye = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
        size = HESSIAN_ROWS if self.vectorised else 1
        for start in range(0, len(theta), size):
            directions = eye[start : start + size]
            with plain_attention():
                found = vmap(row)(directions) if self.vectorised else row(directions[0]).unsqueeze(0)
            total[start : start + size] += found.detach()

    def _each(self, function: Callable[..., Any], *batches: Any) -> Any:
        """A function of one example for every example: vectorised where the model allows it, else one by one."""
        with as_found(self.objective.model), plain_attention():
            if self.vectorised:
                return map_tensors(vmap(function)(*batches), Tensor.detach)
        tensors: list[Tensor] = []
        map_tensors(batches, tensors.append)
        return self._one_by_one(function, len(tensors[0]), *batches)

    @cached_property
    def vectorised(self) -> bool:
        """Whether torch can vectorise the model's derivatives over examples; some recurrent kernels it cannot."""
        count = min(PROBED, self.objective.count)
        batch = self.objective.moved(self.objective.examples.read(slice(0, count)))
        outputs, targets = self.outputs(batch)
        slope, jacobian = partial(grad(self._loss), self._at(None)), partial(jacrev(self._outputs), self._at(None))
        try:
            with as_found(self.objective.model), plain_attention():
                together = [vmap(slope)(batch, targets)]
                together += [vmap(jacobian)(batch)] if outputs.shape[1] <= MOST_PROBED else []
        except RuntimeError:
            return False
        alone = [self._one_by_one(slope, count, batch, targets)]
        alone += [self._one_by_one(jacobian, count, batch)] if len(together) > 1 else []
        return all(
            torch.allclose(
                a, b, rtol=VECTORISED_RTOL, atol=VECTORISED_RTOL * float(b.abs().nan_to_num().max()), equal_nan=True
            )
            for a, b in zip(together, alone, strict=True)
        )

    def _one_by_one(self, function: Callable[..., Any], count: int, *batches: Any) -> Any:
        with as_found(self.objective.model), plain_attention():
            found = [function(*(map_tensors(b, lambda t, i=i: t[i]) for b in batches)) for i in range(count)]
        if isinstance(found[0], dict):
            return {name: torch.stack([one[name] for one in found]).detach() for name in found[0]}
        return torch.stack(found).detach()

    def _outputs(self, theta: Tensor, example: Batch) -> Tensor:
        return self.run(theta, map_tensors(example, partial(torch.unsqueeze, dim=0)))[0].reshape(-1)

    def _loss(self, theta: Tensor, example: Batch, target: Tensor) -> Tensor:
        return self.objective.loss.values(self._outputs(theta, example).unsqueeze(0), target.unsqueeze(0)).reshape(())

    def _at(self, theta: Tensor | None) -> Tensor:
        return self.objective.theta if theta is None else theta.to(self.objective.theta.dtype)

    @cached_property
    def _bound(self) -> ForwardModule:
        return ForwardModule(self.objective.model, self.objective.forward)

    @cached_property
    def _frozen(self) -> dict[str, Tensor]:
        """Copies: the caller may go on training what is not tracked."""
        return {f"model.{name}": value.detach().clone() for name, value in self.objective.model.named_parameters()}
