"""Examples in a fixed order, read by position: arrays, sparse matrices, datasets and loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, default_collate

from upweight._typing import Batch, Tensor
from upweight.errors import EmptyDataset, InputError, NonFiniteInput, OrderError, ShapeError, listing

COPIED_BYTES = 2**28
"""Arrays up to this size are copied; larger ones are the caller's own, and must not be written to."""


class Examples(ABC):
    """n examples that can be read again, in the same order, any slice at a time."""

    ids: np.ndarray
    """A name for every example: the user's index where there is one, else the position."""

    @abstractmethod
    def __len__(self) -> int:
        """n."""

    @abstractmethod
    def read(self, where: slice | np.ndarray) -> Batch:
        """The examples at these positions, as one batch."""

    def heaviest(self, count: int) -> np.ndarray:
        """Positions of some examples that take the most room: the first ones, where all are alike."""
        return np.arange(min(count, len(self)))

    def batches(self, size: int) -> Iterator[tuple[slice, Batch]]:
        """All examples in order, ``size`` at a time, each batch with its positions."""
        for start in range(0, len(self), size):
            where = slice(start, min(start + size, len(self)))
            yield where, self.read(where)


@dataclass(frozen=True)
class Arrays(Examples):
    """A tree of tensors with examples along the leading axis."""

    tree: Batch
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, where: slice | np.ndarray) -> Batch:
        chosen = torch.as_tensor(where) if isinstance(where, np.ndarray) else where
        return map_tensors(self.tree, lambda tensor: tensor[chosen])


@dataclass(frozen=True)
class SparseArrays(Examples):
    """A sparse matrix of inputs, written out a batch at a time, and its targets."""

    inputs: sparse.csr_array
    targets: Tensor | None
    ids: np.ndarray
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, where: slice | np.ndarray) -> Batch:
        inputs = torch.as_tensor(self.inputs[where].toarray(), dtype=self.dtype)
        return inputs, None if self.targets is None else self.targets[where]


@dataclass(frozen=True)
class Chosen(Examples):
    """Some examples of a set, in the order asked for."""

    source: Examples
    places: np.ndarray

    @property
    def ids(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.source.ids[self.places]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, where: slice | np.ndarray) -> Batch:
        return self.source.read(self.places[where])


@dataclass(frozen=True)
class Items(Examples):
    """A map-style dataset, collated as its loader would."""

    dataset: Any
    collate: Any
    ids: np.ndarray
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, where: slice | np.ndarray) -> Batch:
        positions = np.arange(len(self))[where]
        return map_tensors(
            self.collate([self.dataset[int(i)] for i in positions]), lambda tensor: as_tensor(tensor, self.dtype)
        )


def read_examples(
    data: Any, dtype: torch.dtype = torch.float64, ids: Any = None, what: str = "training set"
) -> Examples:
    """Examples from (X, y), a dict of arrays, a map-style dataset, or an unshuffled loader.

    Raises:
        OrderError: a shuffling loader, or data without a length.
        EmptyDataset: no example.
        ShapeError: parts of different lengths.
        NonFiniteInput: NaN or infinity in an array.
    """
    if isinstance(data, Examples):
        return data
    if isinstance(data, DataLoader):
        return _from_loader(data, dtype, ids, what)
    if isinstance(data, IterableDataset) or (not hasattr(data, "__len__") and not isinstance(data, Dataset)):
        raise OrderError(
            f"the {what} is a {type(data).__name__} without a length. Expected examples with a fixed order; pass (X, y), a map-style dataset, or a list of its items."
        )
    if isinstance(data, Dataset):
        return _items(data, default_collate, dtype, ids, what)
    if isinstance(data, Mapping):
        return _from_tree({key: as_tensor(value, dtype) for key, value in data.items()}, ids, None, what)
    if isinstance(data, tuple | list) and len(data) == 2 and not np.isscalar(data[0]):
        return _from_pair(data[0], data[1], dtype, ids, what)
    raise InputError(
        f"the {what} is a {type(data).__name__}. Expected (X, y), a dict of arrays, a map-style dataset, or a loader that does not shuffle."
    )


def map_tensors(tree: Batch, function: Any) -> Batch:
    """Apply a function to every tensor of a tree of tuples, lists and dicts; leave the rest."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(value, function) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(map_tensors(value, function) for value in tree)
    return tree


def as_tensor(values: Any, dtype: torch.dtype) -> Tensor:
    """A tensor from an array, a frame or a tensor; floating point is read in the model's type."""
    if isinstance(values, Tensor) and values.ndim == 0:
        raise ShapeError(
            f"found the single value {values.item()!r}. Expected one for each example, examples along the first axis: x[None], y[None] for one of them."
        )
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() else values
    array = np.asarray(values)
    if array.ndim == 0:
        raise ShapeError(
            f"found the single value {array.item()!r}. Expected one for each example; pass a list or an array."
        )
    if array.dtype == object or array.dtype.kind in "US":
        raise InputError(
            f"found values of type {array.dtype}, for instance {array.ravel()[0]!r}. Expected numbers; encode them first."
        )
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch takes neither read-only memory nor reversed views
    return torch.as_tensor(array, dtype=dtype) if array.dtype.kind == "f" else torch.as_tensor(array)


def _from_pair(inputs: Any, targets: Any, dtype: torch.dtype, ids: Any, what: str) -> Examples:
    found_ids = ids if ids is not None else _index_of(inputs, targets)
    if sparse.issparse(inputs):
        matrix = sparse.csr_array(inputs)
        tensor = None if targets is None else as_tensor(targets, dtype)
        rows = len(matrix.indptr) - 1
        _same_length([rows, *([] if tensor is None else [len(tensor)])], what)
        _finite(torch.as_tensor(matrix.data), f"inputs of the {what}", by_row=False)
        return SparseArrays(matrix, tensor, _ids(found_ids, rows, what), dtype)
    tree = (_nested(inputs, dtype), None if targets is None else as_tensor(targets, dtype))
    return _from_tree(tree, ids, found_ids, what)


def _nested(inputs: Any, dtype: torch.dtype) -> Batch:
    if isinstance(inputs, Mapping):
        return {key: as_tensor(value, dtype) for key, value in inputs.items()}
    return as_tensor(inputs, dtype)


def _from_tree(tree: Batch, ids: Any, index: Any, what: str) -> Examples:
    tensors: list[Tensor] = []
    map_tensors(tree, tensors.append)
    _same_length([len(tensor) for tensor in tensors], what)
    for place, tensor in enumerate(tensors):
        _finite(tensor, f"{'targets' if place and place == len(tensors) - 1 else 'inputs'} of the {what}")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= COPIED_BYTES:
        tree = map_tensors(tree, torch.clone)  # the caller may go on writing to theirs
    return Arrays(tree, _ids(ids if ids is not None else index, len(tensors[0]), what))


def _from_loader(loader: DataLoader[Any], dtype: torch.dtype, ids: Any, what: str) -> Examples:
    if isinstance(loader.dataset, IterableDataset):
        raise OrderError(
            f"the {what} is a loader over an iterable dataset, without length or order. Expected a map-style dataset; pass one."
        )
    batches = loader.batch_sampler
    whole = batches is None or (type(batches) is BatchSampler and batches.sampler is loader.sampler)  # pyright: ignore
    part = type(loader.sampler) is SequentialSampler and loader.sampler.data_source is not loader.dataset
    if not whole or part:
        raise OrderError(
            f"the {what} is a loader with a sampler of its own, which may leave examples out. Expected the examples the model was trained on, in order; pass torch.utils.data.Subset(dataset, indices)."
        )
    if not isinstance(loader.sampler, SequentialSampler):
        raise OrderError(
            f"the {what} is a loader that draws with {type(loader.sampler).__name__}, so its order changes from pass to pass. "
            "Expected a fixed order; pass the dataset itself, or DataLoader(..., shuffle=False)."
        )
    size, count = loader.batch_size or 1, len(loader.dataset)  # pyright: ignore
    if loader.drop_last and count % size:
        raise OrderError(
            f"the {what} is a loader with drop_last=True, which leaves out {count % size} of {count} examples. Expected every example the model was trained on; pass a Subset of those, or drop_last=False."
        )
    return _items(loader.dataset, loader.collate_fn, dtype, ids, what)


def _items(dataset: Any, collate: Any, dtype: torch.dtype, ids: Any, what: str) -> Examples:
    if not hasattr(dataset, "__len__"):
        raise OrderError(
            f"the {what} is a {type(dataset).__name__} without a length. Expected a map-style dataset with __len__."
        )
    return Items(dataset, collate, _ids(ids, len(dataset), what), dtype)


def _index_of(*parts: Any) -> Any:
    """The pandas index of the first part that has one; positions otherwise."""
    for part in parts:
        index = getattr(part, "index", None)
        if index is not None and not callable(index):
            return index_array(index)
    return None


def index_array(index: Any) -> np.ndarray:
    """A pandas index as names: numbers and texts as they are, dates and tuples as objects that stay whole."""
    found = np.asarray(index)
    if found.ndim == 1 and found.dtype.kind in "iufbUS":
        return found
    names = np.empty(len(index), dtype=object)
    names[:] = list(index)
    return names


def _ids(ids: Any, count: int, what: str) -> np.ndarray:
    if count == 0:
        raise EmptyDataset(f"the {what} is empty. Expected at least one example.")
    if ids is None:
        return np.arange(count)
    return require_names(np.asarray(ids), count, what)


def require_names(ids: np.ndarray, count: int, what: str, noun: str = "example") -> np.ndarray:
    """Ids that name every example, each differently.

    Raises:
        ShapeError: not one an example. InputError: ids that repeat, or are None or NaN.
    """
    if ids.shape != (count,):
        found = f"{len(ids)} ids" if ids.ndim == 1 else f"ids of shape {ids.shape}"
        raise ShapeError(f"found {found} for {count} {noun}s of the {what}. Expected one id for every {noun}.")
    names = ids.tolist()
    missing = [place for place, name in enumerate(names) if _absent(name)]
    if missing:
        raise InputError(
            f"ids of the {what} are None or NaN at {listing(missing)}. Expected a name for every {noun}; fill them in, reset the index or pass ids=."
        )
    if len(set(names)) != count:
        repeated = next(name for name, times in Counter(names).items() if times > 1)
        raise InputError(
            f"the ids of the {what} repeat {repeated!r}. Expected a different id for every {noun}; reset the index or pass ids=."
        )
    return ids


def _absent(name: Any) -> bool:
    """None, or a NaN of any kind: what is not itself."""
    try:
        return name is None or bool(name != name)
    except TypeError:  # pandas' NA does not say
        return True


def _same_length(lengths: list[int], what: str) -> None:
    if len(set(lengths)) > 1:
        raise ShapeError(
            f"the parts of the {what} have {' and '.join(map(str, lengths))} examples. Expected the same number in each."
        )
    if not lengths or lengths[0] == 0:
        raise EmptyDataset(f"the {what} is empty. Expected at least one example.")


def _finite(tensor: Tensor, what: str, by_row: bool = True) -> None:
    if not tensor.is_floating_point() or torch.isfinite(tensor.sum()):
        return
    bad = ~torch.isfinite(tensor)
    if bad.any():
        where = f" at example {int(bad.reshape(len(tensor), -1).any(1).nonzero()[0])}" if by_row else ""
        raise NonFiniteInput(
            f"found NaN or infinity in the {what}{where} ({int(bad.sum())} values). Expected finite numbers; drop or impute them."
        )
