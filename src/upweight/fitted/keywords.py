"""Settings as keyword arguments: what functions that make a study may be told, written down once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from inspect import Parameter, signature
from typing import Any, TypedDict, TypeVar

from upweight.curvature import Relative
from upweight.errors import ConfigError, names_like
from upweight.fitted.settings import Settings
from upweight.fitted.solvers import Solver
from upweight.solve import Filter

SETTINGS = frozenset(field.name for field in fields(Settings))

Function = TypeVar("Function", bound=Callable[..., Any])


class SolverSettings(TypedDict, total=False):
    """What any study may be told: see ``Study``."""

    protocol: str
    solver: str | Solver
    damping: float | str | Relative | Filter | None
    memory: int | float | str | None


class StudySettings(SolverSettings, total=False):
    """What a study whose curvature can be chosen may be told besides: see ``Study``."""

    curvature: str
    fisher: str
    factor_share: float
    products: str
    seed: int
    strict: bool


def read_settings(given: Mapping[str, object], known: type, function: Callable[..., Any], **beside: Any) -> Settings:
    """Settings from keyword arguments.

    Args:
        known: the TypedDict that lists what may be given.
        function: what they were given to, for the message: its other arguments may have been meant.
        beside: settings the function has read itself.

    Raises:
        ConfigError: a setting that is not listed, or a value it cannot have.
    """
    unknown = [name for name in given if name not in known.__annotations__]
    if unknown:
        names = [one.name for one in signature(function).parameters.values() if one.kind is Parameter.KEYWORD_ONLY]
        raise ConfigError(
            f"found the setting {unknown[0]!r}. Expected {names_like(unknown[0], names)}; uw.Study says what each is."
        )
    taken: dict[str, Any] = {name: value for name, value in given.items() if name in SETTINGS}
    return Settings(**taken, **beside)


def spelled_out(known: type, *holders: type) -> Callable[[Function], Function]:
    """Let ``help()`` and completion show ``**settings`` one by one, with the defaults of the dataclasses that hold them."""
    defaults = {
        field.name: field.default for holder in holders for field in fields(holder) if field.default is not MISSING
    }

    def listed(function: Function) -> Function:
        found = signature(function)
        plain = [one for one in found.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        more = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=defaults[name], annotation=_written(kind))
            for name, kind in known.__annotations__.items()
        ]
        function.__signature__ = found.replace(parameters=[*plain, *more])  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return listed


def _written(kind: Any) -> Any:
    """An annotation as it stands in the source."""
    return getattr(kind, "__forward_arg__", kind)
