"""Bytes on disk, safely; knows no mathematics."""

from upweight.store.arrays import read_arrays, write_arrays
from upweight.store.whole import write_whole

__all__ = ["read_arrays", "write_arrays", "write_whole"]
