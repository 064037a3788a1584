"""Bytes on disk, safely; knows no mathematics."""

from upweight.store.arrays import read_arrays, write_arrays
from upweight.store.files import write_whole
from upweight.store.store import Store, locked

__all__ = ["Store", "locked", "read_arrays", "write_arrays", "write_whole"]
