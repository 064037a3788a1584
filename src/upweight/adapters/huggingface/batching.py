"""Does a sequence's output depend on its padding, or on the rest of its batch? Measured, with what would mend it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from upweight._typing import Tensor
from upweight.adapters.huggingface.forwards import SequenceForward
from upweight.adapters.huggingface.sequences import Sequences
from upweight.errors import NondeterministicModel
from upweight.gradients.guard import as_found
from upweight.objective.data import map_tensors

PROBED = 4
"""Sequences that are read together and alone: the longest, the shortest, and the first others."""

ROUNDING = 1e3
"""Units of rounding, of the largest output, by which two kernels may differ."""

KERNELS = ("eager", "sdpa")
"""Attention implementations that every machine has."""


@dataclass(frozen=True)
class BatchCheck:
    """How far outputs move when sequences are padded and read together.

    Attributes:
        kernel: the attention implementation the model has.
        differences: for each implementation tried, the largest difference of an output, in units of the largest output.
        limit: what rounding explains.
    """

    kernel: str
    differences: Mapping[str, float]
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the model's own implementation is within rounding."""
        return self.differences[self.kernel] <= self.limit

    @property
    def remedy(self) -> str:
        """What mends it, measured; empty where nothing is wrong."""
        if self.passed:
            return ""
        clean = [name for name, found in self.differences.items() if found <= self.limit]
        if clean:
            return f"attn_implementation={clean[0]!r} does not have this ({self.differences[clean[0]]:.1g}): load the model with it, or call model.set_attn_implementation({clean[0]!r})"
        tried = ", ".join(self.differences)
        return f"no attention implementation mends it ({tried} tried): what mixes sequences is elsewhere, such as a pad token that is also a real one, position ids that count padding, or experts with a capacity"

    def __repr__(self) -> str:
        found = f"{self.differences[self.kernel]:.1g} of the largest output (limit {self.limit:.1g})"
        head = f"Padding and the rest of a batch move outputs by {found} with attn_implementation={self.kernel!r}"
        return f"{head}: rounding." if self.passed else f"{head}; {self.remedy}."

    def require(self) -> None:
        """Refuse a model whose answers depend on the batch.

        Raises:
            NondeterministicModel: with the remedy.
        """
        if not self.passed:
            raise NondeterministicModel(
                f"an output depends on the padding or on the rest of the batch: by {self.differences[self.kernel]:.2g} of the largest output with attn_implementation={self.kernel!r}. Expected at most {self.limit:.1g}, which is rounding; {self.remedy}."
            )


def check_batching(model: nn.Module, forward: SequenceForward, sequences: Sequences, every: bool = False) -> BatchCheck:
    """Read some sequences alone without padding and together with it, and compare outputs.

    Args:
        every: try the other attention implementations as well; they are tried anyway where the model's own fails.
    """
    kernel = str(getattr(getattr(model, "config", None), "_attn_implementation", None) or "its own")
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    limit = ROUNDING * torch.finfo(dtype).eps
    found = {kernel: _difference(model, forward, sequences)}
    if every or found[kernel] > limit:
        for name in KERNELS:
            if name != kernel and hasattr(model, "set_attn_implementation"):
                with _switched(model, kernel, name) as possible:
                    if possible:
                        found[name] = _difference(model, forward, sequences)
    return BatchCheck(kernel, found, limit)


def same_outputs(model: nn.Module, first: SequenceForward, second: SequenceForward, sequences: Sequences) -> bool:
    """Whether two ways to put the longest sequence to the model give the same outputs up to rounding."""
    place = sequences.heaviest(1)
    a, b = _outputs(model, first, sequences, place), _outputs(model, second, sequences, place)
    limit = ROUNDING * torch.finfo(next(p.dtype for p in model.parameters() if p.is_floating_point())).eps
    return bool((a - b).abs().max() <= limit * a.abs().max())


def _difference(model: nn.Module, forward: SequenceForward, sequences: Sequences) -> float:
    """Largest |together − alone| of the outputs at real tokens, in units of the largest output; NaN counts as infinite."""
    order = np.argsort(-sequences.lengths, kind="stable")
    places = np.sort(np.unique([*order[:1], *order[-1:], *range(min(PROBED - 2, len(order)))]))
    together = _outputs(model, forward, sequences, places)
    worst, scale = 0.0, float(together.abs().max())
    for row, place in enumerate(places):
        alone, mine = _outputs(model, forward, sequences, np.asarray([place]))[0], together[row]
        if forward.tokens:
            alone, mine = (values[: int(sequences.lengths[place])] for values in (alone, mine))
        worst = max(worst, float((alone - mine).abs().max().nan_to_num(nan=np.inf)))
        scale = max(scale, float(alone.abs().max()))
    return worst / scale if np.isfinite(scale) and scale > 0 else float(worst > 0)


def _outputs(model: nn.Module, forward: SequenceForward, sequences: Sequences, places: np.ndarray) -> Tensor:
    device = next(model.parameters()).device
    batch = map_tensors(sequences.read(places), lambda tensor: tensor.to(device))
    with as_found(model), torch.no_grad():
        return forward(model, batch)[0].float()


@contextmanager
def _switched(model: nn.Module, before: str, name: str) -> Iterator[bool]:
    """The model with another attention implementation, which is put back."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.set_attn_implementation(name)  # pyright: ignore
        yield True
    except (ValueError, ImportError, RuntimeError):
        yield False
    finally:
        model.set_attn_implementation(before)  # pyright: ignore
