"""The solvers a study can be asked for by name, and what each can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upweight.errors import ConfigError, names_like


@dataclass(frozen=True)
class Traits:
    """What is known of an iterative solver before it runs.

    Attributes:
        options: what it can be told.
        at_hand: its inverse is a matrix at hand, so that points' own questions are asked of it as well.
    """

    options: tuple[str, ...] = ()
    at_hand: bool = False


ITERATIVE = {
    "block_cg": Traits(("steps", "tolerance", "precondition")),
    "lissa": Traits(("scale", "steps", "repeats", "minibatch", "tolerance")),
    "astra": Traits(("scale", "steps", "repeats", "minibatch", "tolerance")),
    "lanczos": Traits(("rank", "steps"), at_hand=True),
    "nystrom": Traits(("rank",), at_hand=True),
    "woodbury": Traits((), at_hand=True),
}
"""One row a solver of exact curvature by its products; how it is built is its row in ``iterative.BUILT``."""

SOLVERS = ("auto", "cholesky", *ITERATIVE)
PRECONDITIONERS = ("curved", "ekfac", "kfac", "kfac_reduce", "block_diagonal", "diagonal", "nystrom", "none")
"""Of block conjugate gradients: rows of the curvature itself, its structured forms, a low rank of it, nothing."""


@dataclass(frozen=True)
class Solver:
    """A solver with options of its own, for ``Study(solver=...)``; a bare name takes all defaults.

    Args:
        name: 'block_cg', 'lissa', 'astra', 'lanczos', 'nystrom', 'woodbury' or 'cholesky'.
        steps: products at most (block_cg), of every series (lissa, astra), or of the Krylov space (lanczos).
        tolerance: relative residual that counts as converged.
        rank: eigenvalues kept.
        scale: σ of a Neumann series; measured on minibatches by default.
        repeats, minibatch: independent series, and examples of each of their steps.
        precondition: 'curved' (the examples that bend most, exactly), a structured curvature ('ekfac', 'kfac',
            'kfac_reduce', 'block_diagonal', 'diagonal'), 'nystrom' (a hundred eigenvalues) or 'none'; by default 'curved'
            where examples have few outputs.

    Raises:
        ConfigError: an unknown name, an option this solver has not, or one that is not above zero.
    """

    name: str
    steps: int | float | None = None
    tolerance: float | None = None
    rank: int | float | None = None
    scale: float | int | None = None
    repeats: int | float | None = None
    minibatch: int | float | None = None
    precondition: str | None = None

    def __post_init__(self) -> None:
        if self.name not in SOLVERS:
            raise ConfigError(f"solver={self.name!r} is unknown. Expected {names_like(self.name, SOLVERS)}.")
        allowed = ITERATIVE.get(self.name, Traits()).options
        for option in ("steps", "tolerance", "rank", "scale", "repeats", "minibatch", "precondition"):
            value: Any = getattr(self, option)
            if value is None:
                continue
            if option not in allowed:
                raise ConfigError(
                    f"Solver({self.name!r}) found {option}={value!r}, which it has no use for. Expected {' or '.join(allowed) or 'no option'}; leave it out."
                )
            whole = option in ("steps", "rank", "repeats", "minibatch")
            kinds = int if whole else (str if option == "precondition" else int | float)
            if option == "precondition" and value not in PRECONDITIONERS:
                raise ConfigError(f"precondition={value!r} is unknown. Expected one of {', '.join(PRECONDITIONERS)}.")
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ConfigError(
                    f"Solver({self.name!r}) found {option}={value!r}. Expected {'a whole number' if whole else 'a number'} above zero."
                )
            if not isinstance(value, str) and not 0 < value < float("inf"):
                raise ConfigError(f"Solver({self.name!r}) found {option}={value!r}. Expected a number above zero.")

    def given(self, *options: str) -> dict[str, Any]:
        """Those of the options that were given."""
        return {name: getattr(self, name) for name in options if getattr(self, name) is not None}
