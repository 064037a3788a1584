"""What a Trainer has trained: its model, data and collator; and what of its run no objective says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from upweight._typing import Tensor
from upweight.adapters.huggingface.sequences import Collate
from upweight.errors import ConfigError, InputError, ModelError

WRAPPED = "_original_forward"
"""Where accelerate keeps the forward pass that it has put another around."""

CLASSIFIER, CAUSAL = "ForSequenceClassification", ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Trained:
    """What is studied of a Trainer."""

    model: nn.Module
    data: Any
    collate: Collate
    causal: bool
    notes: tuple[str, ...]


def read_trainer(trainer: Any) -> Trained:
    """Model, data and collator of a Trainer.

    Raises:
        ModelError: no Trainer, or one of another kind of model. InputError: no training set.
        ConfigError: a loss that is not the model's own, or a collator with chance in it.
    """
    base = next((kind for kind in type(trainer).__mro__ if kind.__module__ == "transformers.trainer"), None)
    if base is None:
        raise ModelError(f"found {type(trainer).__name__}. Expected a transformers.Trainer that has trained.")
    _require_plain_loss(trainer, base)
    if getattr(trainer, "train_dataset", None) is None:
        raise InputError(
            "the trainer has no train_dataset. Expected the one it was trained on; pass it to the Trainer."
        )
    model = trainer.model
    inner = getattr(model, "get_base_model", lambda: model)()
    name = type(inner).__name__
    if not (name.endswith((CLASSIFIER, *CAUSAL))):
        raise ModelError(
            f"the trainer's model is a {name}. Expected a causal language model or a sequence classifier; for others use uw.Study with forward=."
        )
    loader = trainer.get_train_dataloader()
    data, collate = loader.dataset, loader.collate_fn
    _require_same(collate, data)
    return Trained(_unwrapped(model), data, collate, name.endswith(CAUSAL), _notes(trainer))


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model with its own forward pass, on the same parameters; accelerate puts autocast around that of a run in bf16 or fp16.

    Autocast rounds each weight's gradient, and layer rules cannot be told from wrong ones through that.
    """
    if WRAPPED not in vars(model):
        return model
    plain = copy.copy(model)
    for name in ("forward", WRAPPED):
        vars(plain).pop(name, None)
    return plain


def _require_plain_loss(trainer: Any, base: type) -> None:
    args = trainer.args
    if args.label_smoothing_factor:
        raise ConfigError(
            f"the trainer smooths labels by {args.label_smoothing_factor}. Expected label_smoothing_factor=0: the model's own loss; use uw.Study with loss= for another."
        )
    own = getattr(type(trainer), "compute_loss", None) is not getattr(base, "compute_loss", None)
    if own or getattr(trainer, "compute_loss_func", None) is not None:
        raise ConfigError(
            "the trainer has a loss of its own (compute_loss or compute_loss_func). Expected the model's; where they are the same use uw.huggingface.causal_lm(trainer.model, trainer.train_dataset), else uw.Study with loss=."
        )


def _require_same(collate: Collate, data: Any) -> None:
    if not len(data):
        raise InputError("the trainer's training set is empty. Expected at least one sequence.")
    with torch.random.fork_rng(devices=[]):
        first, second = collate([data[0]]), collate([data[0]])
        torch.rand(1)
    if not _alike(first, second):
        raise ConfigError(
            "the trainer's data collator gives two different batches of the same sequence, as masking at random does. Expected one without chance; for masked language models use uw.Study with masks that are fixed."
        )


def _alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(torch.equal(v, second[k]) if isinstance(v, Tensor) else True for k, v in first.items())


def _notes(trainer: Any) -> tuple[str, ...]:
    args, found = trainer.args, []
    if args.weight_decay:
        found.append(
            f"The run's weight decay of {args.weight_decay} is not in the objective: AdamW's is decoupled from it, and of SGD's pass penalty=uw.L2(...)"
        )
    if getattr(args, "dataloader_drop_last", False):
        found.append("The run left out the last incomplete batch of every epoch")
    if args.bf16 or args.fp16:
        found.append("The run computed in half precision; its objective is that of the parameters as they are kept")
    epoch = float(getattr(trainer.state, "epoch", 0) or 0)
    if epoch < 1:
        found.append(f"The run read {epoch:.0%} of its data: some sequences it has not seen")
    return tuple(found)
