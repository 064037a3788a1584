"""Bytes on disk, safely; knows no mathematics."""

from upweight.store.arrays import read_arrays, write_arrays
from upweight.store.files import write_whole
from upweight.store.npz import read_npz, write_npz
from upweight.store.store import Store, locked

__all__ = ["Store", "locked", "read_arrays", "read_npz", "write_arrays", "write_npz", "write_whole"]
