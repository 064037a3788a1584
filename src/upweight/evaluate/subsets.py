"""Random halves of the training set, the model retrained on each, and what that did to every query: the truth of tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from upweight._typing import Batch, Float, Tensor
from upweight.errors import BudgetError, ConfigError, ModelError, NonFiniteInput, ShapeError, listing
from upweight.evaluate.calibration import watched
from upweight.evaluate.refit import refit
from upweight.fitted import Fitted
from upweight.gradients.guard import as_found, called
from upweight.questions.measuring import Measurement
from upweight.questions.question import Question

Train = Callable[[np.ndarray, int], Any]
"""(weights, seed) → state dict."""

State = dict[str, Tensor]
"""Parameters and buffers by name."""


def halves(weights: Float[Tensor, "n"], count: int, seed: int) -> Float[Tensor, "r n"]:
    """Weights of random halves of the training set, each keeping ⌊n/2⌋ points and the whole set's total weight.

        w′ᵢ = wᵢ Σw / Σ_kept w  on the points kept (2/n each where weights are equal and n is even), else 0

    Raises:
        ConfigError: a half without any weight.
    """
    generator, n = np.random.default_rng(seed), len(weights)
    found = torch.zeros(count, n, dtype=torch.float64, device=weights.device)
    for row in found:
        kept = torch.as_tensor(np.sort(generator.permutation(n)[: n // 2]), device=weights.device)
        held = float(weights[kept].sum())
        if not held > 0:
            raise ConfigError(
                f"a random half of {n} training points has a total weight of {held}. Expected one above zero; leave points without weight out of the training set."
            )
        row[kept] = weights[kept] * (float(weights.sum()) / held)
    return found


def measured_changes(
    question: Question,
    measured: Measurement,
    weights: Float[Tensor, "r n"],
    seed: int,
    train: Train | None,
    progress: bool | None,
) -> np.ndarray:
    """Δ = φ(θ_r) − φ(θ̂) of every query at each retrained model, (r, m), float64.

    Raises:
        BudgetError: no ``train``, and a model too large for Newton's method.
        ConfigError, ShapeError, NonFiniteInput: ``train`` returned no state dict of this model.
        ModelError: ``train`` changed the study's own model.
        NotConverged: a refit did not reach a minimum; pass ``train``.
    """
    fitted = question.fitted
    before = measured.at_outputs(measured.outputs.double())
    changes = []
    for row in watched(weights, progress):
        state = _refitted(fitted, row) if train is None else _trained(fitted, row, seed, train)
        changes.append(measured.at_outputs(_outputs(question, state)) - before)
    return torch.stack(changes).cpu().numpy()


def require_refits(fitted: Fitted, train: Train | None) -> None:
    """Refuse to begin where no refit can be made."""
    if train is None and not (fitted.small or (fitted.linear and fitted.exact.fits)):
        raise BudgetError(
            f"tune found {fitted.objective.space.size:,} parameters and no train=. Expected a model small enough for Newton's method within the memory budget; pass train=callable(weights, seed) → state dict, which retrains as you did."
        )


def _refitted(fitted: Fitted, weights: Tensor) -> State:
    theta = refit(fitted, weights).to(fitted.objective.theta.dtype)
    return dict(fitted.objective.space.unflatten(theta))


def _trained(fitted: Fitted, weights: Tensor, seed: int, train: Train) -> State:
    objective = fitted.objective
    with torch.random.fork_rng(devices=[]):
        state = train(weights.cpu().numpy(), seed)
    own = dict(objective.model.named_parameters())
    if not torch.equal(objective.space.flatten({name: own[name] for name in objective.space.names}), objective.theta):
        raise ModelError(
            "train= changed the study's own model. Expected it to leave that alone; train a new model or a copy (copy.deepcopy)."
        )
    if not isinstance(state, Mapping):
        raise ConfigError(f"train= returned {type(state).__name__}. Expected a state dict; return model.state_dict().")
    own |= dict(objective.model.named_buffers())
    known = set(own) | set(objective.model.state_dict())
    missing, foreign = [k for k in objective.space.names if k not in state], [k for k in state if k not in known]
    if missing or foreign:
        wrong = f"without {listing(missing)}" if missing else f"with {listing(foreign)}"
        raise ConfigError(
            f"train= returned a state dict {wrong}. Expected the names of this model: {listing(objective.space.names)}; return model.state_dict() of a model made the same way."
        )
    return {name: _read(name, state[name], like) for name, like in own.items() if name in state}


def _read(name: str, value: Any, like: Tensor) -> Tensor:
    found = torch.as_tensor(value).detach().to(like, copy=True)
    if found.shape != like.shape:
        raise ShapeError(
            f"train= returned {name!r} of shape {tuple(found.shape)}. Expected {tuple(like.shape)}; return the state dict of a model made the same way."
        )
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        raise NonFiniteInput(
            f"train= returned {name!r} with NaN or infinity. Expected finite parameters; the retraining diverged."
        )
    return found


class _Called(nn.Module):
    """A model behind its forward, so that parameters and buffers can be put in its place by name."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.call(self.model, batch)


def _outputs(question: Question, state: State) -> Float[Tensor, "m o"]:
    """Outputs of the queries with retrained parameters and buffers, float64; the model keeps its own."""
    fitted, model = question.fitted, question.fitted.objective.model
    bound = _Called(model, fitted.objective.forward)
    buffers = {f"model.{name}": value.clone() for name, value in model.named_buffers()}
    placed = buffers | {f"model.{name}": value for name, value in state.items()}
    found = []
    with as_found(model), torch.no_grad():
        for _, batch in fitted.engine.batches(fitted.adapted.codec.read(question.query, "query")):
            outputs, _ = called(bound, placed, batch)
            found.append(outputs.reshape(len(outputs), -1).double())
    return torch.cat(found)
