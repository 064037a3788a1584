"""Bytes on disk, safely; knows no mathematics."""

from upweight.store.arrays import read_arrays, write_arrays
from upweight.store.npz import read_npz, write_npz

__all__ = ["read_arrays", "read_npz", "write_arrays", "write_npz"]
