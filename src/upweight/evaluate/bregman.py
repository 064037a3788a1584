"""The proximal Bregman response: what a change does to a network that is not, and need not be, at a minimum [Bae22 PBRF].

    θ(w′) = argmin Σⱼ wⱼ D_ℓⱼ(η(θ), η(θˢ)) + Σⱼ (w′ⱼ − wⱼ) ℓⱼ(θ) + ½(θ − θˢ)ᵀ(∇²r + λ)(θ − θˢ) + ρ r(θ)
    D_ℓ(a, b) = ℓ(a) − ℓ(b) − ∇ℓ(b)ᵀ(a − b)

At w′ = w the minimum is θˢ itself, whatever θˢ is; its derivative in w′ⱼ is −(G + ∇²r + λ)⁻¹∇ℓⱼ, the damped Gauss-Newton
influence. So it tells the error of the solver and of the linearisation, and nothing about λ, which is in its definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch.func import vmap
from tqdm import tqdm

from upweight._typing import Batch, Float, Tensor
from upweight.curvature import Relative, ggn, mean_eigenvalue
from upweight.errors import ConfigError, NotConverged
from upweight.evaluate.altered import Altered
from upweight.evaluate.descent import Descended, descend
from upweight.fitted import Fitted
from upweight.gradients import NetworkEngine
from upweight.gradients.vmap import plain_attention
from upweight.linop import Dense, LinearOperator
from upweight.router import KEPT_BYTES
from upweight.solve import Filter, inverse

TOLERANCE = 1e-5
"""‖∇‖ of a response's objective in units of the gradient the change began with: errors of responses are of this size."""

ITERATIONS = 500

MEMBER_ROWS = 26
"""Rows of p that a member holds while it descends: its memory of ten pairs, and what a step needs."""


@dataclass(frozen=True)
class Response:
    """θ of every change, the largest gradient left, in units of the one it began with, and how many settled by value alone."""

    thetas: Float[Tensor, "k p"]
    residual: float
    settled: int
    iterations: int

    @property
    def words(self) -> str:
        """How far they got."""
        kinks = f", {self.settled} of {len(self.thetas)} where their objective no longer falls (kinks of the network)"
        return f"to {self.residual:.1g} of the gradient each began with{kinks if self.settled else ''}"


@dataclass(frozen=True)
class Anchored:
    """A batch with what it is held to: outputs at θˢ, slopes wⱼ∇ℓⱼ(ηˢ) there, and every member's weights w′."""

    function: Callable[[Tensor], Tensor]
    targets: Tensor
    slopes: Float[Tensor, "b o"]
    weights: Float[Tensor, "k b"]


def responses(fitted: Fitted, altered: Sequence[Altered], progress: bool | None = None) -> Response:
    """θ(w′) of every changed training set, from θˢ, in float64.

    Raises:
        ConfigError: a damping that is no λ, or none at all.
        NotConverged: the iterations ran out.
    """
    proximity = proximal_diagonal(fitted)
    size = max(1, KEPT_BYTES // (8 * MEMBER_ROWS * fitted.objective.space.size))
    found = []
    hidden = None if progress is None else not progress
    with tqdm(desc="proximal responses", unit="step", leave=False, disable=hidden) as bar:
        for start in range(0, len(altered), size):
            found.append(_Problem(fitted, altered[start : start + size], proximity).solved(bar))
    return Response(
        torch.cat([one.points for one in found]),
        max(float(torch.where(one.settled, 0.0, one.norms).max()) for one in found),
        sum(int(one.settled.sum()) for one in found),
        max(one.iterations for one in found),
    )


def proximal_diagonal(fitted: Fitted) -> Float[Tensor, "p"]:
    """λ of every coordinate: one number, or each block's own.

    Raises:
        ConfigError: a filter that is no ridge, or no λ and no penalty where the data alone need not hold θ.
    """
    chosen = fitted.blocked.chosen_damping if fitted.structured else fitted.settings.damping
    if isinstance(chosen, Filter):
        raise ConfigError(
            f"the proximal response found damping={chosen!r}, a filter of no one λ. Expected a number or uw.Relative(share); pass train= to check against retraining."
        )
    penalty = fitted.objective.penalty.diagonal.to(fitted.weights)
    found = torch.zeros_like(penalty).unsqueeze(0)
    if fitted.structured and isinstance(chosen, Relative):
        for layout, block in fitted.blocked.curvature.parts:
            share = chosen.share * mean_eigenvalue(block)
            layout.scatter(torch.full((1, layout.width), share, dtype=found.dtype, device=found.device), found)
    elif fitted.structured or fitted.iterates:
        found += fitted.blocked.damping
    else:
        found += fitted.exact.damping
    if float((found[0] + penalty).min()) <= 0 and not fitted.linear:
        raise ConfigError(
            "the proximal response found neither damping nor a penalty on some parameters of a network. Expected λ above zero, since the data alone need not hold them; build the study with damping=, or pass train= to check against retraining."
        )
    return found[0]


@dataclass(frozen=True)
class _Problem:
    """Members' objectives over one set of batches."""

    fitted: Fitted
    altered: Sequence[Altered]
    proximity: Float[Tensor, "p"]

    def solved(self, bar: tqdm) -> Descended:
        """Every member at its minimum; norms in units of where it began, and on the bar as they fall."""

        def tell(left: float) -> None:
            bar.update()
            bar.set_postfix_str(f"gradient {left * TOLERANCE:.1e} of what each began with, to be {TOLERANCE:.0e}")

        start = self.anchor.expand(len(self.altered), -1).contiguous()
        began = self.evaluate(start, torch.arange(len(start)))[1].norm(dim=1)
        floor = torch.finfo(torch.float64).tiny
        found = descend(self.evaluate, start, self._precondition, TOLERANCE * began, ITERATIONS, tell)
        relative = torch.where(began > 0, found.norms / began.clamp_min(floor), torch.zeros_like(began))
        left = float(torch.where(found.settled, 0.0, relative).max())
        if left > TOLERANCE:
            raise NotConverged(
                f"the proximal response stopped after {found.iterations} iterations with a gradient of {left:.2g} of what it began with. Expected {TOLERANCE:.0e}; raise damping=, or pass train= to check against retraining (a network of ReLU may have no smooth minimum nearby)."
            )
        return replace(found, norms=relative)

    def evaluate(self, points: Float[Tensor, "k p"], members: Tensor) -> tuple[Tensor, Tensor]:
        """Values and gradients of some members."""
        with torch.enable_grad():
            theta = points.detach().requires_grad_()
            moves = theta - self.anchor
            shares = self.shares[members]
            held = 0.5 * ((self.proximity + self.penalty) * moves.square()).sum(1)
            values = held + 0.5 * shares * (self.penalty * theta.square()).sum(1)
            gradients = torch.autograd.grad(values.sum(), theta)[0]
            values = values.detach()
            for batch in self.batches:
                value = self._of_batch(theta, batch, batch.weights[members])
                gradients = gradients + torch.autograd.grad(value.sum(), theta)[0]
                values = values + value.detach()
        return values, gradients.detach()

    def _of_batch(self, theta: Tensor, batch: Anchored, weights: Float[Tensor, "k b"]) -> Float[Tensor, "k"]:
        """Σⱼ w′ⱼℓⱼ(η) − wⱼ∇ℓⱼ(ηˢ)ᵀη; what does not depend on θ is left out."""
        loss = self.fitted.objective.loss
        outputs = self._outputs(batch.function, theta)  # (k, b, o)
        k, b, o = outputs.shape
        targets = batch.targets.repeat(k, *[1] * (batch.targets.ndim - 1))
        losses = loss.values(outputs.reshape(k * b, o), targets).view(k, b)
        return (weights * losses).sum(1) - torch.einsum("kbo,bo->k", outputs, batch.slopes)

    def _outputs(self, function: Callable[[Tensor], Tensor], theta: Tensor) -> Float[Tensor, "k b o"]:
        if self.vectorised:
            with plain_attention():
                return vmap(function)(theta)
        return torch.stack([function(row) for row in theta])

    @cached_property
    def vectorised(self) -> bool:
        """Whether the model can be run at several θ at once."""
        try:
            with torch.no_grad(), plain_attention():
                vmap(self.batches[0].function)(self.anchor.expand(2, -1).contiguous())
        except RuntimeError:
            return False
        return True

    @property
    def tile(self) -> int:
        """Examples read at a time: what all members hold of them stays within memory."""
        engine = self.fitted.engine
        held = engine.held if isinstance(engine, NetworkEngine) else self.fitted.objective.space.size
        return max(1, min(engine.tile, KEPT_BYTES // (8 * len(self.altered) * held)))

    @cached_property
    def batches(self) -> list[Anchored]:
        """The training set and what the changes bring, with members' weights."""
        objective, found = self.fitted.objective, []
        weights = torch.stack([one.weights for one in self.altered])
        for where, batch in objective.examples.batches(self.tile):
            found.append(self._anchored(objective.moved(batch), self.fitted.weights[where], weights[:, where]))
        for member, one in enumerate(self.altered):
            if one.extra is None or one.added is None:
                continue
            for where, batch in one.extra.batches(self.tile):
                own = weights.new_zeros(len(self.altered), where.stop - where.start)
                own[member] = one.added[where]
                found.append(self._anchored(objective.moved(batch), torch.zeros_like(own[0]), own))
        return found

    def _anchored(self, batch: Batch, before: Tensor, after: Tensor) -> Anchored:
        engine, loss = self.fitted.engine, self.fitted.objective.loss
        targets = engine.outputs(batch)[1]
        targets = targets.double() if targets.is_floating_point() else targets
        function = engine.function_of(batch, torch.float64)
        with torch.no_grad():
            outputs = function(self.anchor)
        return Anchored(function, targets, before[:, None] * loss.gradient(outputs, targets), after)

    @cached_property
    def anchor(self) -> Float[Tensor, "p"]:
        """θˢ."""
        return self.fitted.objective.theta.double()

    @cached_property
    def penalty(self) -> Float[Tensor, "p"]:
        """∇²r."""
        return self.fitted.objective.penalty.diagonal.to(self.fitted.weights)

    @cached_property
    def shares(self) -> Float[Tensor, "k"]:
        """ρ: the part of the penalty that goes or comes with each change."""
        moved = [one.total - self.fitted.objective.total_weight for one in self.altered]
        return self.fitted.shares(torch.tensor(moved, dtype=torch.float64, device=self.anchor.device))

    def _precondition(self, rows: Tensor) -> Tensor:
        """V ↦ VP with P near the inverse of the response's own curvature, G + ∇²r + λ: that itself where it is small."""
        if self.exact is not None:
            return rows @ self.exact
        fitted = self.fitted
        if fitted.iterates:
            return fitted.row_inverse(len(rows)).solve(rows).rows.double()
        return (rows @ fitted.blocked.inverse.operator.T).double()

    @cached_property
    def exact(self) -> LinearOperator | None:
        """P written out, None where it is too large."""
        fitted = self.fitted
        if not (fitted.small or (fitted.linear and fitted.exact.fits)):
            return None
        matrix = ggn(fitted.engine).matrix.clone()
        matrix.diagonal().add_(self.proximity)
        return inverse(Dense(matrix, is_symmetric=True))
