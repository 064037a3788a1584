"""Index: a study's training gradients, compressed, on disk; build once, ask for ever."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from upweight.errors import ConfigError, StaleStore
from upweight.index.answer import Asking, Source, answer
from upweight.index.build import (
    FORMAT,
    VERSION,
    appended_recorder,
    bar,
    committed,
    fill,
    open_or_begin,
    saved_of,
    stretches,
)
from upweight.index.contents import Append, Contents, encoded_names
from upweight.index.distributed import build_together
from upweight.index.fingerprints import data_fingerprint, fingerprints
from upweight.index.info import IndexInfo
from upweight.index.ranking import Ranking
from upweight.index.saved import Saved
from upweight.index.settings import Compression
from upweight.index.walk import Recorder
from upweight.objective import Examples
from upweight.objective.data import Chosen, index_array
from upweight.questions.question import MeasureLike
from upweight.store import Store, locked
from upweight.store.fingerprints import require_same
from upweight.study import Study


class Index:
    """The compressed gradients of a training set on disk, and questions answered from them.

    An answer is the predicted change of a measurement if a training point is left out, to first order, at both ends:

        wᵢ(x̂_q·ĝᵢ + κ_q),   x = (H + λI)⁻¹∇φ_q, hats for what the index keeps of each

    Example:
        >>> import tempfile, torch, upweight as uw
        >>> X = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64); y = torch.tensor([[1.0], [2.0], [9.0]], dtype=torch.float64)
        >>> line = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64).eval()
        >>> _ = line.weight.data.fill_(float((X * y).sum() / (X * X).sum()))
        >>> study = uw.Study(line, (X, y), loss="squared_error")
        >>> index = uw.Index.build(study, tempfile.mkdtemp() + "/index", dtype="float64", progress=False)
        >>> index.query(([[3.0]], [[5.0]]), k=1, measure="prediction").raises()["train"].tolist()
        [1]
    """

    def __init__(self, store: Store, study: Study | None) -> None:
        self.study = study
        self._appended: dict[str, Examples] = {}
        self._saved = None if study is None else saved_of(store)
        self._use(store)

    @classmethod
    def build(
        cls,
        study: Study,
        path: str | os.PathLike[str],
        *,
        compression: str = "auto",
        size: int | float | tuple[int, int] | None = None,
        dtype: str = "float16",
        bounds: bool | None = None,
        seed: int = 0,
        rows_per_shard: int | None = None,
        progress: bool | None = None,
    ) -> Index:
        """Make an index in a folder, or finish one that was interrupted: shards that are there are not made again.

        Args:
            path: a new or empty folder (with ranks, one that all of them see), or one with an unfinished index of the same study and settings.
            compression: 'eigenbasis' keeps the coordinates of K-FAC's eigenbasis in which most of the scores lies;
                'sketch' adds all of them up, whitened and with random signs, in ``size`` numbers, 131,072 by default;
                'logra' projects both sides of every layer at random; 'none'; 'auto' is 'none' up to 1,024 parameters,
                else the eigenbasis.
            size: numbers an example; in an eigenbasis also a share of the scores' variance, Σ (f(Λ)E[g²])², .99 by
                default; for 'logra' numbers on each side of a layer, 64.
            dtype: 'float64', 'float32', 'float16' or 'int8'; of a sketch also 'bit', its signs and one scale a row.
            bounds: keep how much is left out of each gradient, for ``query(certified=True)``; by default where the
                study's curvature is exact and something is known to lie below it.
            seed: of a random projection.
            rows_per_shard: examples a file holds, and an interruption loses at most.
            progress: show a progress bar; None shows one on a terminal.

        Raises:
            StaleStore: the folder holds an index of another model, data set, settings or code; it names what differs.
            StoreFull, StoreDenied, StoreLocked: the disk is full, permission is lost, another writer is at work;
                what is written stays, and the same call goes on from there.
            CorruptStore: a file is not what was written.

        Error and cost:
            What is lost by compression is measured before the pass and written into the manifest, see ``info``. One
            pass over the training set beyond the study's factors; memory of one shard.
        """
        folder = Path(path).absolute()
        _check_rows(rows_per_shard)
        wanted = Compression(compression, size, dtype, bounds, seed)
        if study.objective.fold.size > 1:
            return cls(build_together(study.fitted, folder, wanted, rows_per_shard, progress), study)
        with locked(folder):
            store = open_or_begin(study.fitted, folder, wanted, rows_per_shard)
            fill(store, study.fitted, saved_of(store), progress)
        return cls(store, study)

    @classmethod
    def open(cls, path: str | os.PathLike[str], study: Study | None = None, *, appended: Any = None) -> Index:
        """Open an index that was built; the study it was built from is what it can be asked with.

        Args:
            study: without one, ``info``, ``verify`` and ``delete`` work and nothing else.
            appended: data that were appended, or a list of such, where answers about them are to be recomputed.

        Raises:
            StaleStore: it was built from another model, data set or settings; it names what differs.
            StoreError: there is no index, or it is damaged, or of a later version.
        """
        store = Store.open(Path(path).absolute(), FORMAT, VERSION)
        if study is None:
            return cls(store, None)
        found = fingerprints(study.fitted)
        require_same(found, store.manifest["made_of"], store.folder, found)
        given = [] if appended is None else appended if isinstance(appended, list) else [appended]
        index = cls(store, study)
        for data in given:
            examples, digest = index._read(data, None)
            if digest not in {one.data for one in index._contents.appends}:
                raise StaleStore(
                    f"{store.folder} found appended= data of {len(examples)} examples that were never appended. Expected what append() was given; correct appended=."
                )
            index._appended[digest] = examples
        return index

    def query(
        self,
        query: Any,
        k: int = 20,
        *,
        measure: MeasureLike = "loss",
        aggregate: str | None = None,
        rerank: int | None = None,
        certified: bool = False,
    ) -> Ranking:
        """The k training points at each end of every query's ranking.

        Args:
            query, measure, aggregate: as for ``study.drop``.
            rerank: take this many at each end by the index, compute their gradients again and rank them by the
                uncompressed method; at least k.
            certified: go on until these k are certain to be the k of the uncompressed method, their order aside: every
                score with a bound of its error, for an exact curvature conjugate gradients until the ends separate.

        Returns:
            Ranking: both ends, (m, k) ids and effects; positive means that the measurement would rise were the point
            left out. An appended point counts as one of the training set, with the mean weight.

        Raises:
            ConfigError: a measure over the whole set, k or rerank that cannot be meant, an index without its study.
            StaleStore: data that were appended are needed and not at hand.

        Error and cost:
            The index's own error is in ``info``; none with ``certified``. One product of m queries and n rows, read once;
            m × k answers are held, never m × n. ``rerank`` and ``certified`` hold m·p numbers.
        """
        asking = Asking(query, k, measure, aggregate, rerank, certified)
        study, saved = self._asked()
        self._contents.require_whole()
        source = Source(saved.fitted(study.fitted), saved, self._contents, self._appended)
        return answer(source, asking)

    def append(self, data: Any, ids: Any = None, *, progress: bool | None = None) -> Index:
        """Add examples the model has not been trained on, or has been since; an interrupted append is finished by the same call.

        Args:
            data: in the form of the training data.
            ids: a name for each; their pandas index, or numbers that follow on, by default.

        Raises:
            InputError: a name that is taken.
            StoreError: as for ``build``.
        """
        study, saved = self._asked()
        with locked(self._store.folder):
            self._use(self._reopened())
            self._contents.require_whole()
            examples, digest = self._read(data, ids)
            if not self._contents.holds(digest):
                self._add(appended_recorder(self._store, study.fitted, saved), examples, digest, progress)
            self._appended[digest] = examples
        return self

    def delete(self, ids: Any) -> Index:
        """Take examples out of every later answer, by id; their rows stay on disk and their names become free.

        Raises:
            IndexOutOfRange: an id that the index does not hold. ConfigError: no id, or booleans.
        """
        wanted = index_array([ids] if isinstance(ids, str) or np.ndim(ids) == 0 else list(ids))
        if not len(wanted):
            raise ConfigError("delete found no id. Expected at least one; name what to take out.")
        if wanted.dtype == bool:
            raise ConfigError("delete found booleans. Expected ids; use ids[mask].")
        with locked(self._store.folder):
            self._use(self._reopened())
            rows = sorted(set(self._contents.rows_of(wanted)))
            if rows:
                self._store.note("delete", {"rows": rows})
            self._use(self._store)
        return self

    def info(self) -> IndexInfo:
        """What the index holds, how it was compressed and how well, and what it was made of."""
        return IndexInfo.of(self._store, self._contents, committed(self._store))

    def verify(self) -> IndexInfo:
        """Read every file whole and compare it with its checksum.

        Raises:
            CorruptStore: naming every file that is missing or damaged, and its rows.
        """
        self._use(self._reopened())
        self._store.verify()
        return self.info()

    def __repr__(self) -> str:
        return str(self.info())

    def _use(self, store: Store) -> None:
        self._store, self._contents = store, Contents(store)

    def _reopened(self) -> Store:
        return Store.open(self._store.folder, FORMAT, VERSION)

    def _asked(self) -> tuple[Study, Saved]:
        if self.study is None or self._saved is None:
            raise ConfigError(
                f"{self._store.folder} was opened without its study. Expected one to ask with: uw.Index.open(path, study)."
            )
        return self.study, self._saved

    def _read(self, data: Any, ids: Any) -> tuple[Examples, str]:
        """New examples and their fingerprint; numbers follow on where they come without names and the others are numbers."""
        codec = self._asked()[0].fitted.adapted.codec
        examples = codec.read(data, "appended data", ids)
        count = len(examples)
        plain = ids is None and examples.ids.dtype.kind in "iu" and np.array_equal(examples.ids, np.arange(count))
        digest = data_fingerprint(examples, named=not plain)
        if plain and self._contents.names.dtype.kind in "iu":
            start = self._contents.count
            examples = codec.read(data, "appended data", np.arange(start, start + count))
        return examples, digest

    def _add(self, recorder: Recorder, examples: Examples, digest: str, progress: bool | None) -> None:
        """Write the shards of an append, after a line that says what is coming."""
        self._contents.require_free(examples.ids)
        one = Append(self._contents.count, len(examples), digest)
        if one not in self._contents.begun:
            self._store.note("append", asdict(one))
        done = {(shard.start, shard.stop) for shard in self._contents.added(one)}
        rows = self._store.manifest["rows_per_shard"]
        with bar(len(examples), progress) as shown:
            for start, stop in stretches(one.start, one.count, rows):
                part = Chosen(examples, np.arange(start - one.start, stop - one.start))
                if (start, stop) not in done:
                    arrays = recorder.arrays(part) | encoded_names(part.ids)
                    self._store.commit("added", start, stop, arrays, {"data": digest, "at": one.start})
                shown.update(stop - start)
        self._use(self._store)


def _check_rows(rows_per_shard: int | None) -> None:
    if rows_per_shard is not None and (not isinstance(rows_per_shard, int) or rows_per_shard < 1):
        raise ConfigError(
            f"rows_per_shard={rows_per_shard!r}. Expected a whole number above zero; leave it out for files of about 64 MB."
        )
