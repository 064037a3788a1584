"""A language model of transformers and its sequences as an objective."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from upweight._typing import Tensor
from upweight.adapters.adapted import Adapted, Codec
from upweight.adapters.huggingface.batching import BatchCheck, check_batching, same_outputs
from upweight.adapters.huggingface.forwards import SequenceForward
from upweight.adapters.huggingface.sequences import (
    BESIDE,
    IGNORED,
    LABELS,
    MASK,
    PLACES,
    TOKENS,
    Collate,
    Item,
    Sequences,
    items_of,
    label_number,
    next_labels,
    read_item,
    require_range,
    sequences_of,
    stacked_ids,
)
from upweight.adapters.huggingface.tracked import require_unmerged, tracked_parameters
from upweight.adapters.torch import COMPILED, Form, adapt_module, uncompiled
from upweight.errors import ConfigError, EmptyDataset, LabelError, ModelError, ShapeError
from upweight.gradients.guard import require_values
from upweight.objective import Examples, Forward, Penalty
from upweight.parallel import Fold

AUTO = "auto"
REGRESSION, SEVERAL = "regression", "multi_label_classification"


@dataclass(frozen=True)
class SequenceForm:
    """How a model of sequences is read; its loss and its forward are found here.

    Attributes:
        parameters, weights, penalty, batch_size, precision, ranks: as in ``Form``; parameters='auto' is what ``tracked`` says.
        ids: a name for every sequence.
        length: tokens to which batches are padded, which queries must keep within; the longest training sequence by default.
        collate: turns one item of the data into a batch of one, as a Trainer's data collator does.
        notes: what every answer must say.
    """

    parameters: str | Sequence[str] = AUTO
    weights: Any = None
    penalty: Penalty = None
    ids: Any = None
    length: int | None = None
    batch_size: int | str = "auto"
    precision: str | None = None
    ranks: Fold | None = None
    collate: Collate | None = None
    notes: tuple[str, ...] = ()

    def plain(self, parameters: str | Sequence[str], loss: Any, forward: Forward) -> Form:
        """The form of a module with these parameters, this loss and this forward."""
        return Form(
            loss, forward, parameters, self.weights, self.penalty, self.batch_size, None, self.precision, self.ranks
        )


@dataclass(frozen=True)
class SequenceCodec(Codec):
    """Sequences in any of the forms a dataset comes in.

    Attributes:
        length: tokens of a padded batch; None while the training set is read.
        classes: names of the classes and their numbers; None where every token has its own label.
        outputs: how many numbers a classifier gives; 0 for a causal language model.
        kind: 'tokens', 'class', 'real' or 'binary'.
    """

    vocabulary: int
    pad: int
    length: int | None
    classes: Mapping[str, int]
    outputs: int
    kind: str
    dtype: torch.dtype
    collate: Collate | None = None

    def read(self, data: Any, what: str, ids: Any = None) -> Examples:
        if isinstance(data, Examples):
            return data
        items = self.items(data, what)
        longest = max(len(item) for item in items)
        if self.length is not None and longest > self.length:
            place = next(k for k, item in enumerate(items) if len(item) > self.length)
            raise ShapeError(
                f"sequence {place} of the {what} has {len(items[place])} tokens. Expected at most {self.length}, to which all are padded; cut it, or pass length={longest} when making the study."
            )
        labels = None if self.kind == "tokens" else self._labels(items)
        found = sequences_of(items, self.length or longest, self.pad, stacked_ids(ids, len(items), data, what), labels)
        require_range(found.columns[TOKENS], self.vocabulary, what)
        if labels is None:
            require_range(np.maximum(found.columns[LABELS], 0), self.vocabulary, f"{what} (labels)")
        return found

    def items(self, data: Any, what: str) -> list[Item]:
        """The sequences without padding, with the labels of next tokens where tokens have labels."""
        own = self.collate if what == "training set" else None
        tokens = self.kind == "tokens"
        items = [read_item(item, place, what, tokens) for place, item in enumerate(items_of(data, what, own))]
        if not items:
            raise EmptyDataset(f"the {what} is empty. Expected at least one sequence.")
        return [next_labels(item) for item in items] if tokens else items

    def _labels(self, items: list[Item]) -> Tensor:
        missing = [place for place, item in enumerate(items) if item.label is None]
        if missing:
            raise LabelError(
                f"sequence {missing[0]} has no label ({len(missing)} of {len(items)} have none). Expected one in 'labels' or 'label'."
            )
        if self.kind == "class":
            numbers = [label_number(item.label, self.classes, self.outputs, k) for k, item in enumerate(items)]
            return torch.tensor(numbers)
        found = np.asarray([np.asarray(item.label, dtype=float).reshape(-1) for item in items])
        if found.shape[1] != self.outputs:
            raise ShapeError(
                f"sequences have {found.shape[1]} labels each, and the model {self.outputs} outputs. Expected as many."
            )
        return torch.as_tensor(found, dtype=self.dtype)

    def target(self, label: Any, like: Tensor) -> Tensor:
        if self.kind == "class":
            return torch.tensor(label_number(label, self.classes, self.outputs, "in labels="), dtype=like.dtype)
        found = torch.as_tensor(label)
        if self.kind != "tokens":
            return found.to(like.dtype).reshape(like.shape)
        if found.ndim != 1 or found.is_floating_point() or len(found) > len(like) + 1:
            raise LabelError(
                f"found a label of shape {tuple(found.shape)} and type {found.dtype} for a sequence. Expected the labels of its tokens, {IGNORED} where there is none."
            )
        whole = torch.full_like(like, IGNORED)
        whole[: len(found) - 1] = found[1:]
        return whole

    def label(self, target: Any) -> Any:
        names = {number: name for name, number in self.classes.items()}
        return names.get(int(target), target) if self.kind == "class" else target


def adapt_causal_lm(model: nn.Module, data: Any, form: SequenceForm) -> Adapted:
    """Sequences whose loss is the sum of the cross-entropies of next tokens, −100 where none is asked for.

    Raises:
        ModelError, ConfigError, InputError: as for ``uw.Study``. NondeterministicModel: outputs depend on the batch.
    """
    return _adapted(model, data, form, "tokens", 0, {}, "token_cross_entropy")


def adapt_classification(model: nn.Module, data: Any, form: SequenceForm) -> Adapted:
    """Sequences with one label each: a class, several yes-or-no labels, or real numbers, as the model's config says.

    Raises:
        ModelError: a model without classes. ConfigError: no pad token where the model looks for one. Else as above.
    """
    config = getattr(model, "config", None)
    outputs = int(getattr(config, "num_labels", 0) or 0)
    if not outputs:
        raise ModelError(
            f"a model of type {type(model).__name__} has no config.num_labels. Expected a sequence classifier of transformers; for others use uw.Study with forward=."
        )
    problem = getattr(config, "problem_type", None)
    names = {str(name): int(number) for name, number in (getattr(config, "label2id", None) or {}).items()}
    if problem == REGRESSION or (problem is None and outputs == 1):
        return _adapted(model, data, form, "real", outputs, {}, nn.MSELoss())
    if problem == SEVERAL:
        return _adapted(model, data, form, "binary", outputs, {}, "binary_cross_entropy")
    return _adapted(model, data, form, "class", outputs, names, "cross_entropy")


def batch_check(model: nn.Module, data: Any, kind: str, length: int | None = None) -> BatchCheck:
    """How far outputs of these sequences depend on padding and on the batch, for every attention implementation."""
    codec = _codec(model, kind, 0, {}, None)
    items = codec.items(data, "training set")
    labels = None if kind == "tokens" else torch.zeros(len(items), dtype=torch.long)
    longest = max(len(item) for item in items)
    found = sequences_of(items, length or longest, codec.pad, np.arange(len(items)), labels)
    return check_batching(model, _forward(model, found, kind == "tokens"), found, every=True)


def _adapted(
    model: nn.Module, data: Any, form: SequenceForm, kind: str, outputs: int, names: Mapping[str, int], loss: Any
) -> Adapted:
    _require_model(model)
    given, model = model, uncompiled(model)
    codec = _codec(model, kind, outputs, names, form.collate)
    items = codec.items(data, "training set")
    longest = max(len(item) for item in items)
    if form.length is not None and form.length < longest:
        raise ConfigError(
            f"length={form.length} found a training sequence of {longest} tokens. Expected at least that, since cutting it would change what the model was trained on."
        )
    codec = replace(codec, length=form.length or longest)
    training = codec.read(data, "training set", form.ids)
    assert isinstance(training, Sequences)
    forward = _forward(model, training, kind == "tokens")
    _checked(model, forward, training).require()
    notes = [COMPILED] * (model is not given) + list(form.notes)
    if form.parameters == AUTO:
        notes.append(f"Tracked are {tracked_parameters(model)[1]}")
    padded = sum(item.on_padding for item in items)
    if padded:
        notes.append(f"{padded} labels that stood on padding are left out")
    if kind == "tokens":
        notes.append("Position t of a sequence predicts its token t + 1; a sequence's loss is the sum over its labels")
    adapted = adapt_module(model, training, form.plain(_parameters(model, form), loss, forward))
    return replace(adapted, codec=codec, notes=(*adapted.notes, *notes))


def _checked(model: nn.Module, forward: SequenceForward, training: Sequences) -> BatchCheck:
    try:
        return check_batching(model, forward, training)
    except (ValueError, TypeError) as reason:
        raise ConfigError(
            f"the model could not be called on several sequences at once: {str(reason).splitlines()[0]} Expected it to take a padded batch; a classifier that looks for the last token needs model.config.pad_token_id, a token that no sequence holds."
        ) from reason


def _parameters(model: nn.Module, form: SequenceForm) -> str | Sequence[str]:
    if form.parameters != AUTO:
        require_unmerged(model)
        return form.parameters
    return tracked_parameters(model)[0]


def _codec(
    model: nn.Module, kind: str, outputs: int, names: Mapping[str, int], collate: Collate | None
) -> SequenceCodec:
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    if not isinstance(embedding, nn.Module) or not hasattr(embedding, "num_embeddings"):
        raise ModelError(
            f"a model of type {type(model).__name__} has no input embedding. Expected a language model of transformers; for others use uw.Study with forward=."
        )
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return SequenceCodec(
        int(embedding.num_embeddings),  # pyright: ignore - asked for above
        0 if pad is None else int(pad),
        None,
        names,
        outputs,
        kind,
        dtype,
        collate,
    )


def _forward(model: nn.Module, sequences: Sequences, tokens: bool) -> SequenceForward:
    """Which columns the model takes, and with which fixed arguments."""
    taken = _arguments(model)
    columns = [
        TOKENS,
        *(name for name in (MASK, *BESIDE) if name in taken and (name == MASK or name in sequences.columns)),
    ]
    extra = [("use_cache", False)] if "use_cache" in taken else []
    plain = SequenceForward(tuple(columns), tuple(extra), tokens)
    if not tokens or PLACES not in taken or PLACES in columns:
        return plain
    placed = replace(plain, places=True)
    return placed if same_outputs(model, plain, placed, sequences) else plain  # some count positions from elsewhere


def _arguments(model: nn.Module) -> set[str]:
    """Names of what the model's forward takes; an adapter's wrapper hands on what the model inside takes."""
    inner = getattr(model, "get_base_model", lambda: model)()
    return set(inspect.signature(inner.forward).parameters)


def _require_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"found a model of type {type(model).__name__}. Expected a model of transformers, such as AutoModelForCausalLM.from_pretrained returns."
        )
    require_values(model)
