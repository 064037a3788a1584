"""How commands talk: errors as exit codes, warnings as notes, data as JSON or words."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from upweight.errors import (
    ConfigError,
    DistributedError,
    InputError,
    MissingExtraError,
    ModelError,
    NumericalError,
    ResourceError,
    StoreError,
    UpweightError,
    UpweightWarning,
)

EXIT_CODES: list[tuple[type[UpweightError], int]] = [
    (ConfigError, 2),
    (InputError, 3),
    (ModelError, 3),
    (NumericalError, 4),
    (StoreError, 5),
    (ResourceError, 6),
    (DistributedError, 6),
    (MissingExtraError, 6),
    (DistributedError, 6),
]
"""2 usage, 3 input refused, 4 numerical, 5 store, 6 resource; 130 is an interrupted, resumable run."""

INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def exit_code(error: UpweightError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 2)


def talk() -> Console:
    """Where everything goes that is not the answer."""
    return Console(stderr=True, highlight=False)


def say(words: str) -> None:
    """One line of talk, taken as it is."""
    talk().print(escape(words), soft_wrap=True)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose refusals are one line and an exit code, whose warnings are notes, and which can be interrupted."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UpweightWarning)
            warnings.showwarning = _note
            try:
                command(*args, **kwargs)
            except UpweightError as error:
                talk().print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
                raise typer.Exit(exit_code(error)) from None
            except KeyboardInterrupt:
                say("Interrupted. What was finished is kept: the same command goes on from there.")
                raise typer.Exit(INTERRUPTED) from None
            except MemoryError:
                talk().print("[bold red]MemoryError[/]: out of memory. Expected more, or fewer rows and queries.")
                raise typer.Exit(6) from None
            except BrokenPipeError:  # the reader of our output has had enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(0) from None

    return run


def answer(found: Any, as_json: bool, words: Callable[[], Any]) -> None:
    """Print the answer on stdout: as JSON, or as words or a table for people."""
    if as_json:
        typer.echo(json.dumps(finite(found), ensure_ascii=False))
        return
    said = words()
    if isinstance(said, str):
        typer.echo(said)
    else:
        Console(highlight=False).print(said)


def finite(found: Any) -> Any:
    """The same with NaN and infinities as null, which JSON has."""
    if isinstance(found, dict):
        return {str(key): finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [finite(value) for value in found]
    found = found.item() if hasattr(found, "item") else found
    return None if isinstance(found, float) and not math.isfinite(found) else found


def _note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    talk().print(f"[yellow]{category.__name__}[/]: {escape(str(message))}", soft_wrap=True)
