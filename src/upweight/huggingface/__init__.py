"""Studies of Hugging Face models: causal language models, sequence classifiers, and what a Trainer has trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import nn

from upweight._typing import Float, Tensor
from upweight.adapters.huggingface import BatchCheck, SequenceForm, adapt_causal_lm, adapt_classification, batch_check
from upweight.adapters.huggingface.recording import Recording, read_recording
from upweight.adapters.huggingface.texts import completions
from upweight.adapters.huggingface.trainers import read_trainer
from upweight.errors import ConfigError, MissingExtraError
from upweight.fitted import Settings, StudySettings, read_settings, spelled_out
from upweight.huggingface.heat import HeatMap, heat_map
from upweight.methods.checkpoints import Adam
from upweight.objective import Penalty
from upweight.objective.tokens import IGNORED
from upweight.parallel import Fold
from upweight.study import Study

if TYPE_CHECKING:
    from upweight.adapters.huggingface.callback import Recorder


class SequenceSettings(StudySettings, total=False):
    """What a study of sequences may be told: see ``causal_lm``."""

    parameters: str | Sequence[str]
    weights: Any
    penalty: Penalty
    ids: Any
    length: int | None
    batch_size: int | str
    precision: str | None
    ranks: Fold | None


@spelled_out(SequenceSettings, SequenceForm, Settings)
def causal_lm(model: nn.Module, dataset: Any, **settings: Unpack[SequenceSettings]) -> Study:
    """A study of a causal language model: what each training sequence did to the log-probability of others.

        ℓᵢ = −Σ_t log p(token t | tokens before it), over tokens with a label

    Args:
        model: of transformers (GPT-2, Llama, Mistral, Qwen, ...), plain or with PEFT's adapters; never modified.
        dataset: a list of dicts, a dict of columns, a map-style or ``datasets.Dataset``, with 'input_ids' and, where the data have
            them, 'attention_mask', 'labels' (−100 is ignored; the tokens themselves by default) and 'position_ids'; or a
            list of token lists. Padding, on either side, is taken off.
        parameters: 'auto' is the adapters of a model that has some, else the weights and biases of its linear layers
            but for the output embedding; names and patterns as for ``uw.Study``, '*' for all.
        length: to which sequences are padded, and which queries must keep within; the longest training sequence by default.
        settings: weights, penalty, ids, batch_size, precision, ranks, protocol, curvature, solver, damping, memory, fisher,
            factor_share, products, seed, strict: as for ``uw.Study``.

    Returns:
        A Study. Queries come in the same forms; ``measure=uw.huggingface.log_probability`` is the log-probability of their labels.

    Raises:
        NondeterministicModel: outputs depend on padding or on the batch; the message has the remedy, tried out.
        ModelError, InputError, ConfigError: a model or data that cannot be scored.

    Error and cost:
        Exact to rounding whatever the padding. Outputs are tokens × vocabulary numbers an example.
    """
    form, curved = _read(settings)
    return Study.of(adapt_causal_lm(model, dataset, form), curved)


@spelled_out(SequenceSettings, SequenceForm, Settings)
def sequence_classification(model: nn.Module, dataset: Any, **settings: Unpack[SequenceSettings]) -> Study:
    """A study of a sequence classifier: one label a sequence, in 'labels' or 'label', as a number or a name of the config.

    The loss is that of the model's config: cross-entropy, for ``problem_type='multi_label_classification'`` a binary one a label,
    for 'regression' (or one output) the mean squared error. Everything else as for ``causal_lm``.

    Raises:
        NondeterministicModel: as for ``causal_lm``. ModelError: no config.num_labels. LabelError: an unknown class.
    """
    form, curved = _read(settings)
    return Study.of(adapt_classification(model, dataset, form), curved)


@spelled_out(SequenceSettings, SequenceForm, Settings)
def from_trainer(trainer: Any, **settings: Unpack[SequenceSettings]) -> Study:
    """A study of what a ``transformers.Trainer`` has trained: its model, its training set, its collator, its weight decay.

    Args:
        trainer: after ``train()``. A causal language model or a sequence classifier, told apart by its class.
        settings: as for ``causal_lm``: parameters, ids, length, curvature, damping, ...

    Returns:
        A Study; its notes say what of the training run its objective does not have: decoupled weight decay, examples
        that the last epoch left out.

    Raises:
        ConfigError: a loss of the trainer's own, label smoothing, or a collator with chance in it.
        ModelError: a model of another kind, or no training set.
    """
    found = read_trainer(trainer)
    form, curved = _read(settings)
    adapt = adapt_causal_lm if found.causal else adapt_classification
    return Study.of(adapt(found.model, found.data, replace(form, collate=found.collate, notes=found.notes)), curved)


def recorder(folder: str | os.PathLike[str], *, checkpoints: int | Sequence[int] = 4, moments: bool = True) -> Recorder:
    """A callback for ``Trainer(callbacks=[...])`` that records what attribution needs of a run.

    The order of the data, the learning rate of every step, and checkpoints of the trained parameters with Adam's second moments.

    Args:
        folder: where they go: one JSON file of the run, one safetensors file a checkpoint.
        checkpoints: how many, evenly spaced, the last at the end; or the steps after which one is taken.
        moments: keep Adam's moments, which LESS and TrackStar need, and which triple a checkpoint.

    Raises:
        MissingExtraError: transformers is not installed.

    Error and cost:
        Two appends a step and a write a checkpoint; docs/language-models.md has the measured share of a run.
    """
    try:
        from upweight.adapters.huggingface.callback import Recorder
    except ImportError as reason:
        raise MissingExtraError(
            "recorder() needs transformers, which is not installed. Install it with: pip install 'upweight[hf]'."
        ) from reason
    return Recorder(Path(folder), checkpoints, moments)


def check_batching(model: nn.Module, dataset: Any, *, kind: str = "causal_lm", length: int | None = None) -> BatchCheck:
    """How far a sequence's outputs depend on its padding and on its batch, for every attention implementation there is.

    Args:
        kind: 'causal_lm' or 'sequence_classification'.
        length: to which sequences are padded.

    Returns:
        BatchCheck: .passed, .differences by implementation, .remedy in words; printed, it says what was found.
    """
    return batch_check(model, dataset, "tokens" if kind == "causal_lm" else "class", length)


def adam(recording: Recording, study: Study, step: int) -> Adam:
    """What Adam kept at a recorded checkpoint, in the order of the study's parameters: for ``uw.methods.less`` and TrackStar.

    Raises:
        ConfigError: no such checkpoint, no moments in it, or a tracked parameter that was not trained.
    """
    space, (mean, square) = study.objective.space, recording.moments(step)
    missing = [name for name in space.names if name not in mean]
    if missing:
        raise ConfigError(
            f"the recording has no moments of {missing[0]!r}. Expected those of every tracked parameter; track what was trained."
        )
    known = {"betas": tuple(recording.about.get("betas", (0.9, 0.999))), "epsilon": recording.about.get("eps", 1e-8)}
    return Adam(space.flatten(mean), space.flatten(square), step, **known)


def log_probability(outputs: Float[Tensor, "b t v"], targets: Tensor) -> Float[Tensor, "b"]:
    """log p of a query's labels, given what is before each: Σ_t log p(token t). For ``measure=``."""
    chosen = torch.log_softmax(outputs, 2).gather(2, targets.clamp_min(0).unsqueeze(2)).squeeze(2)
    return torch.where(targets == IGNORED, 0.0, chosen).sum(1)


def _read(settings: SequenceSettings) -> tuple[SequenceForm, Settings]:
    """How the model is read, and how its curvature is formed and inverted."""
    own = {field.name for field in fields(SequenceForm)}
    form = SequenceForm(**{name: value for name, value in settings.items() if name in own})  # pyright: ignore
    return form, read_settings(settings, SequenceSettings, causal_lm)


__all__ = [
    "BatchCheck",
    "HeatMap",
    "Recording",
    "adam",
    "causal_lm",
    "check_batching",
    "completions",
    "from_trainer",
    "heat_map",
    "log_probability",
    "read_recording",
    "recorder",
    "sequence_classification",
]
