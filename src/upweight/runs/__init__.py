"""Runs of the command line: a study made from a file or a factory, its answers on disk, resumable."""

from upweight.runs.decided import write_decided
from upweight.runs.opened import Opened, open_source
from upweight.runs.run import Run
from upweight.runs.source import Source

__all__ = ["Opened", "Run", "Source", "open_source", "write_decided"]
