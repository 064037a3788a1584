"""What a retraining returned: checked, put in the model's place, and measured at the queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Tensor
from upweight.errors import ConfigError, ModelError, NonFiniteInput, ShapeError, listing
from upweight.fitted import Fitted
from upweight.gradients import LinearEngine
from upweight.gradients.guard import ForwardModule, as_found, called
from upweight.questions.measuring import Measurement
from upweight.questions.question import Question

Train = Callable[[np.ndarray, int], Any]
"""(weights, seed) → state dict."""

State = dict[str, Tensor]
"""Parameters and buffers by name."""


def read_state(returned: Any) -> State:
    """A state dict as finite tensors of our own on the CPU.

    Raises:
        ConfigError: something else than a mapping of tensors.
        NonFiniteInput: the retraining diverged.
    """
    if not isinstance(returned, Mapping):
        raise ConfigError(
            f"train= returned {type(returned).__name__}. Expected a state dict; return model.state_dict()."
        )
    return {str(name): _tensor(str(name), value) for name, value in returned.items()}


def _tensor(name: str, value: Any) -> Tensor:
    try:
        found = torch.as_tensor(value).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"train= returned {name!r} of type {type(value).__name__}. Expected tensors or arrays of numbers; return model.state_dict()."
        ) from error
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        raise NonFiniteInput(
            f"train= returned {name!r} with NaN or infinity. Expected finite parameters; the retraining diverged."
        )
    return found


def of_model(fitted: Fitted, state: Mapping[str, Tensor]) -> State:
    """The state in the types of the study's model, refused where it is another model's.

    Raises:
        ConfigError, ShapeError: names or shapes that are not this model's.
    """
    objective = fitted.objective
    own = dict(objective.model.named_parameters()) | dict(objective.model.named_buffers())
    known = set(own) | set(objective.model.state_dict())
    missing, foreign = [k for k in objective.space.names if k not in state], [k for k in state if k not in known]
    if missing or foreign:
        wrong = f"without {listing(map(repr, missing))}" if missing else f"with {listing(map(repr, foreign))}"
        raise ConfigError(
            f"train= returned a state dict {wrong}. Expected the names of this model: {listing(objective.space.names)}; return model.state_dict() of a model made the same way."
        )
    return {name: _like(name, state[name], like) for name, like in own.items() if name in state}


def _like(name: str, value: Tensor, like: Tensor) -> Tensor:
    if value.shape != like.shape:
        raise ShapeError(
            f"train= returned {name!r} of shape {tuple(value.shape)}. Expected {tuple(like.shape)}; return the state dict of a model made the same way."
        )
    return value.to(like)


def require_unchanged(fitted: Fitted) -> None:
    """Refuse a retraining that wrote into the study's own model."""
    objective = fitted.objective
    own = dict(objective.model.named_parameters())
    if not torch.equal(objective.space.flatten({name: own[name] for name in objective.space.names}), objective.theta):
        raise ModelError(
            "train= changed the study's own model. Expected it to leave that alone; train a new model or a copy (copy.deepcopy)."
        )


def outputs_of(question: Question, state: Mapping[str, Tensor]) -> Float[Tensor, "m o"]:
    """Outputs of the queries with retrained parameters and buffers, float64; the model keeps its own."""
    fitted, model = question.fitted, question.fitted.objective.model
    bound = ForwardModule(model, fitted.objective.forward)
    buffers = {f"model.{name}": value.clone() for name, value in model.named_buffers()}
    placed = buffers | {f"model.{name}": value for name, value in of_model(fitted, state).items()}
    found = []
    with as_found(model), torch.no_grad():
        for _, batch in fitted.engine.batches(fitted.adapted.codec.read(question.query, "query")):
            outputs, _ = called(bound, placed, batch)
            found.append(outputs.reshape(len(outputs), -1).double())
    return torch.cat(found)


def outputs_at(question: Question, theta: Float[Tensor, "p"]) -> Float[Tensor, "m o"]:
    """Outputs of the queries with the tracked parameters at θ, computed in float64."""
    engine = question.fitted.engine
    examples, found = question.fitted.adapted.codec.read(question.query, "query"), []
    for _, batch in engine.batches(examples):
        if isinstance(engine, LinearEngine):
            found.append(engine.outputs(batch, theta)[0].double())
        else:
            with torch.no_grad():
                found.append(engine.function_of(batch, torch.float64)(theta.double()))
    return torch.cat(found)


def measured_at(question: Question, theta: Float[Tensor, "p"]) -> Float[Tensor, "r"]:
    """The measurement of the asked queries with the parameters at θ; θ itself where those are asked for."""
    return theta if question.measured is None else question.measured.at_outputs(outputs_at(question, theta))


def measured_of(question: Question, measured: Measurement | None, state: Mapping[str, Tensor]) -> Float[Tensor, "r"]:
    """The measurement at a retrained model; its tracked parameters where those are asked for."""
    if measured is None:
        found = of_model(question.fitted, state)
        return question.fitted.objective.space.flatten(found).double()
    return measured.at_outputs(outputs_of(question, state))
