"""Bytes on disk, safely; knows no mathematics."""

from upweight.store.arrays import read_arrays, write_arrays

__all__ = ["read_arrays", "write_arrays"]
