"""Token sequences of different lengths, kept end to end and padded on the right when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from upweight._typing import Batch, Tensor
from upweight.errors import EmptyDataset, InputError, LabelError, OrderError, ShapeError, plain
from upweight.objective.data import Examples, index_array, require_names

IGNORED = -100
"""The label of a token that is not to be predicted, as everywhere in PyTorch."""

TOKENS, MASK, LABELS, PLACES = "input_ids", "attention_mask", "labels", "position_ids"
SINGLE = ("label", "label_ids")
"""Other names under which a sequence's one label is found."""

BESIDE = (PLACES, "token_type_ids")
"""Columns beside the tokens that are handed to the model where the data have them."""

Collate = Callable[[list[Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Item:
    """One sequence, its padding taken off: columns of as many numbers as it has tokens."""

    columns: dict[str, np.ndarray]
    label: Any = None
    on_padding: int = 0
    """Labels that stood on padding."""

    def __len__(self) -> int:
        return len(self.columns[TOKENS])


@dataclass(frozen=True)
class Sequences(Examples):
    """Sequences end to end; a batch is padded on the right to one length, the same for all batches.

    Attributes:
        columns: every column of all sequences, one after the other.
        ends: where each sequence ends, after a leading 0.
        labels: one label a sequence for classification, None where every token has its own.
        length: to which batches are padded.
        pad: the token that fills.
    """

    columns: dict[str, np.ndarray]
    ends: np.ndarray
    labels: Tensor | None
    length: int
    pad: int
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every sequence."""
        return np.diff(self.ends)

    def heaviest(self, count: int) -> np.ndarray:
        return np.argsort(-self.lengths, kind="stable")[:count]

    def tokens(self, place: int) -> np.ndarray:
        """The tokens of one sequence, without padding."""
        return self.columns[TOKENS][self.ends[place] : self.ends[place + 1]]

    def read(self, where: slice | np.ndarray) -> Batch:
        places = np.arange(len(self))[where]
        inside = np.arange(self.length) < self.lengths[places][:, None]
        batch = {MASK: torch.as_tensor(inside.astype(np.int64))}
        flat = np.concatenate([np.arange(int(self.ends[p]), int(self.ends[p + 1])) for p in places])
        for name, column in self.columns.items():
            filled = np.full(inside.shape, {TOKENS: self.pad, LABELS: IGNORED}.get(name, 0), dtype=np.int64)
            filled[inside] = column[flat]
            batch[name] = torch.as_tensor(filled)
        return batch if self.labels is None else {**batch, LABELS: self.labels[torch.as_tensor(places)]}


def items_of(data: Any, what: str, collate: Collate | None = None) -> Iterator[Mapping[str, Any]]:
    """Sequences one by one, from any of the forms they come in.

    Raises:
        OrderError: data without a fixed order or length.
        InputError: data of no known form.
    """
    if isinstance(data, DataLoader):
        raise OrderError(
            f"the {what} is a DataLoader, whose batches are padded and may be shuffled. Expected the dataset itself; pass loader.dataset."
        )
    if isinstance(data, Mapping) or hasattr(data, "keys"):
        yield from _rows_of(data, what)
        return
    if isinstance(data, (IterableDataset, str)) or not hasattr(data, "__len__"):
        raise OrderError(
            f"the {what} is a {type(data).__name__} without a length. Expected sequences with a fixed order; pass a list of dicts, or a map-style dataset."
        )
    for place in range(len(data)):
        item = data[place]
        if collate is not None:
            item = {key: value[0] for key, value in collate([item]).items()}
        yield item if isinstance(item, Mapping) or hasattr(item, "keys") else {TOKENS: item}


def read_item(item: Mapping[str, Any], place: int, what: str, labelled: bool) -> Item:
    """One sequence without its padding; ``labelled`` asks for one label a token.

    Raises:
        InputError: no tokens, or tokens that are no integers. ShapeError: columns of different lengths.
    """
    if TOKENS not in item:
        raise InputError(
            f"sequence {place} of the {what} has {', '.join(map(str, item)) or 'no columns'}. Expected 'input_ids', its tokens as integers; run the tokenizer first."
        )
    tokens = _integers(item[TOKENS], TOKENS, place, what)
    columns = {TOKENS: tokens}
    for name in (*BESIDE, MASK, *([LABELS] if labelled else [])):
        if name in item and item[name] is not None:
            columns[name] = _integers(item[name], name, place, what)
            if len(columns[name]) != len(tokens):
                raise ShapeError(
                    f"sequence {place} of the {what} has {len(tokens)} tokens and {len(columns[name])} numbers in {name!r}. Expected as many; tokenize it again."
                )
    real = np.flatnonzero(columns.pop(MASK, np.ones(len(tokens))))
    if not len(real):
        raise EmptyDataset(
            f"sequence {place} of the {what} has no token{' but padding' if len(tokens) else ''}. Expected at least one; leave such sequences out."
        )
    if len(real) != real[-1] - real[0] + 1:
        raise InputError(
            f"sequence {place} of the {what} has an attention_mask with holes. Expected ones for its tokens and zeros before or after them; cut the sequence in two."
        )
    inside = slice(real[0], real[-1] + 1)
    given = columns.get(LABELS)
    on_padding = 0 if given is None else int((given != IGNORED).sum() - (given[inside] != IGNORED).sum())
    if labelled and given is None:
        columns[LABELS] = tokens.copy()
    label = None if labelled else next((item[name] for name in (LABELS, *SINGLE) if name in item), None)
    return Item({name: column[inside] for name, column in columns.items()}, label, on_padding)


def stacked_ids(ids: Any, count: int, data: Any, what: str) -> np.ndarray:
    """A name for every sequence: the user's, those of a frame, or positions."""
    index = getattr(data, "index", None) if ids is None else ids
    if index is None or callable(index):
        return np.arange(count)
    return require_names(index_array(index), count, what, "sequence")


def sequences_of(items: Sequence[Item], length: int, pad: int, ids: np.ndarray, labels: Tensor | None) -> Sequences:
    """Sequences end to end, with the columns that all of them have."""
    names = [name for name in items[0].columns if all(name in item.columns for item in items)]
    columns = {name: np.concatenate([item.columns[name] for item in items]) for name in names}
    ends = np.concatenate([[0], np.cumsum([len(item) for item in items])])
    return Sequences(columns, ends, labels, length, pad, ids)


def next_labels(item: Item) -> Item:
    """The same with, at every token, the label of the next: what the outputs there predict."""
    labels = item.columns[LABELS]
    shifted = np.append(labels[1:], IGNORED)
    return Item({**item.columns, LABELS: shifted}, item.label, item.on_padding)


def require_range(tokens: np.ndarray, vocabulary: int, what: str) -> None:
    """Refuse tokens the model does not know: an embedding would read past its end.

    Raises:
        LabelError: a token outside the vocabulary.
    """
    wrong = (tokens < 0) | (tokens >= vocabulary)
    if wrong.any():
        raise LabelError(
            f"the {what} has the token {int(tokens[wrong][0])}. Expected 0 to {vocabulary - 1}, the model's vocabulary; use the tokenizer the model was trained with."
        )


def _rows_of(data: Any, what: str) -> Iterator[dict[str, Any]]:
    """A dict of columns, row by row."""
    columns = {name: data[name] for name in data.keys()}  # noqa: SIM118 - a BatchEncoding iterates over nothing else
    lengths = {name: len(column) for name, column in columns.items() if hasattr(column, "__len__")}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise ShapeError(f"the columns of the {what} have different lengths: {said}. Expected one row a sequence.")
    for place in range(next(iter(lengths.values()), 0)):
        yield {name: columns[name][place] for name in lengths}


def _integers(values: Any, name: str, place: int, what: str) -> np.ndarray:
    try:
        found = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    except ValueError:
        found = np.asarray(None)
    if found.ndim != 1 or (found.dtype.kind not in "iub" and found.size):
        shown = "text" if isinstance(values, str) else f"{found.ndim}-dimensional values of type {found.dtype}"
        raise InputError(
            f"sequence {place} of the {what} has {shown} in {name!r}. Expected a list of integers, one a token; run the tokenizer first, and put a lone sequence into a list, [{...}]."
        )
    return found.astype(np.int64)


def label_number(label: Any, names: Mapping[str, int], count: int, place: Any) -> int:
    """A class as its number.

    Raises:
        LabelError: no such class.
    """
    found = plain(label.item() if isinstance(label, Tensor) and label.ndim == 0 else label)
    if isinstance(found, str) and found in names:
        return names[found]
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < count:
        return found
    raise LabelError(
        f"sequence {place} has the label {found!r}. Expected a class from 0 to {count - 1}, or one of {', '.join(list(names)[:5])}; recode the labels."
    )
