"""Bytes on disk: what was committed is read back as it was, and every damage and refusal has a name."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from upweight.errors import CorruptStore, StaleStore, StoreDenied, StoreError, StoreFull, StoreLocked, StoreVersion
from upweight.store import Store, files, locked
from upweight.store.fingerprints import digest, require_same

KIND, VERSION = "test.store", 3
ARRAYS = {
    "rows": np.arange(24, dtype=np.float32).reshape(8, 3),
    "few": np.linspace(0, 1, 8).astype(np.float16),
    "none": np.zeros((8, 0), np.int8),
}


def begun(folder, shards: int = 3) -> Store:
    with locked(folder):
        store = Store.begin(folder, {"format": KIND, "version": VERSION, "made_of": {"model": "a", "data": "b"}})
        for k in range(shards):
            store.commit("rows", 8 * k, 8 * k + 8, {name: array + k for name, array in ARRAYS.items()})
    return store


def opened(folder) -> Store:
    return Store.open(folder, KIND, VERSION)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "sound"
    begun(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "copy")


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "LOCK"}


def test_what_was_committed_is_read_back(folder):
    store = opened(folder)
    for k, shard in enumerate(store.shards("rows")):
        read = store.read(shard)
        for name, array in ARRAYS.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array + k)
    assert len(store.verify()) == 3


def test_a_file_counts_only_once_it_is_journalled(folder):
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]))
    assert [shard.start for shard in opened(folder).shards("rows")] == [0, 8]
    with locked(folder):
        store = opened(folder)
        store.commit("rows", 16, 24, {name: array + 2 for name, array in ARRAYS.items()})
    assert journal.read_bytes() == b"".join(lines)


def test_a_last_line_that_is_cut_does_not_count_and_is_written_again(folder):
    journal = folder / "journal.jsonl"
    whole = journal.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for cut in range(last, len(whole), 4):
        journal.write_bytes(whole[:cut])
        store = opened(folder)
        assert len(store.shards("rows")) == 2
        store.commit("rows", 16, 24, {name: array + 2 for name, array in ARRAYS.items()})
        assert journal.read_bytes() == whole


def test_any_flipped_byte_of_the_journal_is_found(folder):
    journal = folder / "journal.jsonl"
    whole = journal.read_bytes()
    for place in range(0, len(whole) - 1, 7):  # the last byte ends the last line: without it the line is torn
        journal.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptStore, match=r"line \d"):
            opened(folder)


def test_lines_that_are_lost_swapped_or_from_another_store_are_found(folder, tmp_path):
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    other = tmp_path / "other"
    with locked(other):
        Store.begin(other, {"format": KIND, "version": VERSION, "other": 1}).commit("rows", 0, 8, ARRAYS)
    foreign = (other / "journal.jsonl").read_bytes()
    for wrong in (lines[1:], lines[:1] + lines[2:], [lines[1], lines[0]], [foreign, *lines[1:]], [*lines, lines[0]]):
        journal.write_bytes(b"".join(wrong))
        with pytest.raises(CorruptStore, match=r"belongs|comes here"):
            opened(folder)


def test_any_flipped_byte_of_a_shard_is_found_before_a_number_is_used(folder):
    shard = opened(folder).shards("rows")[1]
    whole = shard.path.read_bytes()
    for place in range(len(whole)):
        shard.path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(CorruptStore, match="rows 8 to 15"):
            opened(folder).read(shard)
    store = opened(folder)
    with pytest.raises(CorruptStore, match="checksum"):
        store.verify()


def test_a_shard_is_checked_again_when_it_has_changed(folder):
    store = opened(folder)
    shard = store.shards("rows")[0]
    store.read(shard)
    whole = bytearray(shard.path.read_bytes())
    whole[-1] ^= 1
    replaced = shard.path.with_suffix(".other")
    replaced.write_bytes(whole)
    replaced.replace(shard.path)
    with pytest.raises(CorruptStore, match="checksum"):
        store.read(shard)


@pytest.mark.parametrize("change", ["shorter", "longer", "empty", "missing", "swapped"])
def test_a_shard_of_another_size_or_place_is_found(folder, change):
    store = opened(folder)
    first, second, _ = store.shards("rows")
    whole = first.path.read_bytes()
    match change:
        case "shorter":
            first.path.write_bytes(whole[:-1])
        case "longer":
            first.path.write_bytes(whole + b"\0")
        case "empty":
            first.path.write_bytes(b"")
        case "missing":
            first.path.unlink()
        case "swapped":
            first.path.write_bytes(second.path.read_bytes())
    with pytest.raises(CorruptStore, match="rows 0 to 7"):
        store.read(first)
    with pytest.raises(CorruptStore, match="rows 0 to 7"):
        opened(folder).verify()


def test_a_journal_names_nothing_but_shards(folder):
    store = opened(folder)
    store.journal.append({"kind": "rows", "file": "../../etc/passwd", "start": 24, "stop": 32, "bytes": 1, "crc32": ""})
    with pytest.raises(CorruptStore, match="passwd"):
        opened(folder).shards("rows")


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", "3", '{"format": 1', "{" * 3000, '"' + "x" * 100, json.dumps({"format": KIND})]
)
def test_a_manifest_that_is_no_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(StoreError):
        opened(folder)


def test_a_changed_manifest_a_later_version_and_another_kind_are_told_apart(folder):
    path = folder / "manifest.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"made_of": {"model": "z", "data": "b"}}))
    with pytest.raises(CorruptStore, match="checksum"):
        opened(folder)
    path.write_text(json.dumps(written | {"version": VERSION + 1}))
    with pytest.raises(StoreVersion, match="newer"):
        opened(folder)
    path.write_text(json.dumps(written | {"format": "other"}))
    with pytest.raises(StoreError, match="'other'"):
        opened(folder)
    path.unlink()
    with pytest.raises(StoreError, match="manifest"):
        opened(folder)


def test_a_huge_manifest_is_not_read(folder):
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(StoreError, match="at most"):
        opened(folder)


def test_one_writer_at_a_time(folder):
    with locked(folder), pytest.raises(StoreLocked, match="only writer"), locked(folder):
        pass
    with locked(folder):
        pass


def test_a_writer_that_died_holds_nothing(folder):
    child = os.fork()
    if not child:
        with locked(folder):
            os._exit(0)
    os.waitpid(child, 0)
    with locked(folder):
        assert len(opened(folder).shards("rows")) == 3


def test_permission_that_is_lost_has_a_name(folder):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        found = "nothing"
        try:
            folder.chmod(0)
            if not os.getuid():
                os.setuid(65534)  # the superuser may read anything
            opened(folder)
        except BaseException as error:
            found = type(error).__name__
        os.write(writing, found.encode())
        os._exit(0)
    os.waitpid(child, 0)
    folder.chmod(0o700)
    assert os.read(reading, 100) == b"StoreDenied"
    os.close(reading), os.close(writing)
    assert len(opened(folder).verify()) == 3


def test_a_folder_with_other_things_in_it_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(StoreError, match=r"thesis\.tex"), locked(tmp_path):
        pass
    file = tmp_path / "thesis.tex"
    with pytest.raises(StoreError), locked(file):
        pass


@contextmanager
def limited(size: int):
    """Files of at most this size: what a full disk looks like to one file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_has_a_name_and_loses_nothing(folder):
    before = contents(folder)
    big = {"rows": np.zeros((8, 40_000), np.float32)}
    with locked(folder):
        store = opened(folder)
        with limited(100_000), pytest.raises(StoreFull, match="1,280,"):
            store.commit("rows", 24, 32, big)
        assert contents(folder) == before
        store.commit("rows", 24, 32, big)
    assert len(opened(folder).verify()) == 4


@pytest.mark.parametrize("operation", ["open", "write", "fsync", "replace", "ftruncate"])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.EIO, StoreError),
    ],
)
def test_whatever_the_system_refuses_at_whichever_call_is_named_and_mended_by_the_same_call(
    folder, monkeypatch, operation, number, error
):
    whole = {name: array + 2 for name, array in ARRAYS.items()}
    reference = contents(folder)
    for nth in range(4):
        journal = folder / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:2]))
        store, calls = opened(folder), iter(range(100))
        real = getattr(os, operation)

        def failing(*args, nth=nth, calls=calls, real=real):
            if next(calls) == nth:
                raise OSError(number, os.strerror(number))
            return real(*args)

        with monkeypatch.context() as patched:
            patched.setattr(files.os, operation, failing)
            try:
                store.commit("rows", 16, 24, whole)
                happened = False
            except error as found:
                happened = str(folder) in str(found)
        assert happened or next(calls) <= nth
        again = opened(folder)
        assert len(again.shards("rows")) >= 2
        if len(again.shards("rows")) == 2:
            again.commit("rows", 16, 24, whole)
        assert contents(folder) == reference


def test_a_shard_and_its_name_are_on_disk_before_its_line(folder, monkeypatch):
    trace, names = [], {}

    def traced(operation):
        real = getattr(os, operation)

        def call(first, *args):
            found = real(first, *args)
            if operation == "open":
                names[found] = str(first)
            elif operation == "replace":
                trace.append(("replace", str(args[0])))
            else:
                trace.append((operation, names.get(first, "")))
            return found

        return call

    for operation in ("open", "write", "fsync", "replace"):
        monkeypatch.setattr(files.os, operation, traced(operation))
    store = opened(folder)
    shard = store.commit("rows", 24, 32, ARRAYS)
    partial = str(folder / f".{shard.file}.{os.getpid()}.partial")
    journal = str(folder / "journal.jsonl")
    assert trace == [
        ("write", partial),
        ("fsync", partial),
        ("replace", str(shard.path)),
        ("fsync", str(folder)),
        ("write", journal),
        ("fsync", journal),
    ]


def test_rows_that_come_out_differently_are_refused(folder):
    with locked(folder):
        store = opened(folder)
        store.commit("rows", 0, 8, ARRAYS)  # the same bytes are no news
        assert len(store.journal.records) == 3
        with pytest.raises(CorruptStore, match="same bytes"):
            store.commit("rows", 0, 8, {name: array + 1 for name, array in ARRAYS.items()})


def test_fingerprints_see_names_shapes_types_and_bytes():
    a = np.arange(6.0)
    variants = [
        [("x", a)],
        [("y", a)],
        [("x", a.reshape(2, 3))],
        [("x", a.astype(np.float32))],
        [("x", np.nextafter(a, 9))],
        [("x", np.asarray(["1", "2"], dtype=object))],
        [("x", np.asarray(["1", "3"], dtype=object))],
        [("x", a), ("z", a)],
    ]
    assert len({digest(arrays) for arrays in variants}) == len(variants)
    assert digest([("x", a)]) == digest([("x", a.copy())])


def test_what_differs_is_named():
    written = {"model": "0" * 64, "settings.seed": 0}
    require_same(dict(written), written, Path("here"), written)
    with pytest.raises(StaleStore, match=r"another settings: settings\.seed is 1 and was 0"):
        require_same(written | {"settings.seed": 1}, written, Path("here"), written)
