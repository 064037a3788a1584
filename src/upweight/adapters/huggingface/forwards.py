"""How a batch of padded sequences is put to a model of transformers, and what its outputs are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from upweight._typing import Batch, Tensor
from upweight.adapters.huggingface.sequences import LABELS, MASK, PLACES
from upweight.errors import ModelError


@dataclass(frozen=True)
class SequenceForward:
    """(model, batch) → (logits, targets): padding that all sequences of a batch have is cut off before the model sees it.

    Attributes:
        columns: names of the batch's columns that the model takes.
        extra: fixed arguments, such as use_cache=False.
        tokens: True for logits at every token, zero on padding, padded again so that all batches have one shape.
        places: True hands on positions, counted from each sequence's first token, one row an example.
    """

    columns: tuple[str, ...]
    extra: tuple[tuple[str, Any], ...]
    tokens: bool
    places: bool = False

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        longest = int(batch[MASK].sum(1).max())
        inputs = {name: batch[name][:, :longest] for name in self.columns}
        if self.places:
            row = torch.arange(longest, device=batch[MASK].device)
            inputs[PLACES] = row.expand(len(batch[MASK]), -1)
        logits = getattr(model(**inputs, **dict(self.extra)), "logits", None)
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"a model of type {type(model).__name__} returned no logits. Expected a causal language model or a sequence classifier of transformers; for others use uw.Study with forward=."
            )
        if self.tokens:  # what stands on padding is nobody's, and none of the sequence's outputs
            real = batch[MASK][:, :longest, None].to(logits.dtype)
            logits = F.pad(logits * real, (0, 0, 0, batch[MASK].shape[1] - longest))
        return logits, batch[LABELS]
