"""Effects of several models made one: sums over checkpoints of a run, means over independently trained models.

    (1/M) Σ_m E_m   (a mean over M models),   Σ_t η_t E_t   [Pruthi20 TracIn]   (η_t the learning rate times the steps at checkpoint t)

Both are linear in the effects, so they may be taken before or after sums over groups, queries or modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from upweight.errors import ConfigError, ShapeError, listing
from upweight.influence.effects import Effects

ALIKE = ("question", "estimand", "measure", "unit", "order", "protocol")
"""What effects must share to be added."""


def over_models(effects: Sequence[Any]) -> Effects:
    """The mean of independently trained models' effects on the same queries of the same changes, (m, k).

    Each model is one draw of what training might have given; the mean estimates the expected effect, and its notes say how far
    the models agree: Spearman between the rankings of two of them, averaged over pairs and queries.

    Args:
        effects: one answer a model, as that model's study gave it.

    Returns:
        Effects in the same unit, of the same sign; ``spread_over_models`` tells the standard errors.

    Raises:
        ConfigError: no effects, or answers to different questions. ShapeError: other queries or training points.
    """
    found = _alike(effects, "over_models")
    weights = np.full(len(found), 1 / len(found))
    note = f"Mean over {len(found)} models, whose rankings agree two by two at Spearman {_pairwise(found):.2f}"
    return _combined(found, weights, note if len(found) > 1 else "Of one model")


def spread_over_models(effects: Sequence[Any]) -> np.ndarray:
    """The standard error of ``over_models``, (m, k), in the same unit: the spread over models by √ of their number.

    Raises:
        ConfigError: fewer than two models, or answers to different questions.
    """
    found = _alike(effects, "spread_over_models")
    if len(found) < 2:
        raise ConfigError("spread_over_models found one model. Expected at least two, since one has no spread.")
    return np.stack([one.values for one in found]).std(0, ddof=1) / len(found) ** 0.5


def over_checkpoints(effects: Sequence[Any], rates: Sequence[float] | np.ndarray | None = None) -> Effects:
    """Effects at several checkpoints of one run added up, (m, k): TracIn's sum with ``rates``, their mean without.

        Σ_t η_t E_t

    With first-order effects of ``curvature="identity"`` and no penalty, E_t is wᵢ∇φᵀ∇ℓᵢ at checkpoint t, so that the sum is
    wᵢ times TracInCP, which ``uw.methods.tracin`` is on objectives.

    Args:
        effects: one answer a checkpoint, in order.
        rates: η_t > 0, learning rate times the steps between checkpoints; none means equal ones that sum to one.

    Raises:
        ConfigError: rates of the wrong number or not above zero, or answers to different questions.
    """
    found = _alike(effects, "over_checkpoints")
    if rates is None:
        return _combined(found, np.full(len(found), 1 / len(found)), f"Mean over {len(found)} checkpoints")
    weights = np.asarray(rates, dtype=float)
    if weights.shape != (len(found),) or not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ConfigError(
            f"over_checkpoints found rates {listing(weights.ravel().tolist())} for {len(found)} checkpoints. Expected one number above zero each: the learning rate times the steps taken there."
        )
    return _combined(found, weights, f"Sum over {len(found)} checkpoints, each times its rate")


def _combined(effects: Sequence[Effects], weights: np.ndarray, note: str) -> Effects:
    values = np.tensordot(weights, np.stack([one.values for one in effects]), 1)
    verdicts = list(dict.fromkeys(one.verdict for one in effects))
    verdict = verdicts[0] + ("" if len(verdicts) == 1 else f" (and {len(verdicts) - 1} others)")
    splits = [one.split for one in effects if one.split is not None]
    split = partial(_split, splits, weights) if len(splits) == len(effects) else None
    notes = tuple(dict.fromkeys(said for one in effects for said in one.notes))
    return replace(effects[0], values=values, verdict=verdict, notes=(*notes, note), split=split)


def _split(
    splits: Sequence[Callable[[], tuple[tuple[str, ...], np.ndarray]]], weights: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Every part's module split, combined as the parts are."""
    found = [split() for split in splits]
    if len({modules for modules, _ in found}) > 1:
        raise ConfigError(
            "by_module() found models made of different modules. Expected the same in all; ask each one's own effects."
        )
    return found[0][0], np.tensordot(weights, np.stack([values for _, values in found]), 1)


def _alike(effects: Sequence[Any], asked: str) -> list[Effects]:
    found = list(effects)
    if not found or not all(isinstance(one, Effects) for one in found):
        raise ConfigError(f"{asked} found {listing(type(one).__name__ for one in found) or 'nothing'}. Expected Effects, at least one.")  # fmt: skip
    for name in ALIKE:
        kinds = list(dict.fromkeys(getattr(one, name) for one in found))
        if len(kinds) > 1:
            raise ConfigError(
                f"{asked} found effects whose {name} is {' and '.join(map(repr, kinds))}. Expected answers to one question; ask every model the same."
            )
    for name in ("query_ids", "train_ids"):
        if any(getattr(one, name).tolist() != getattr(found[0], name).tolist() for one in found):
            raise ShapeError(
                f"{asked} found effects of different {name}. Expected the same queries and training points, in the same order."
            )
    return found


def _pairwise(effects: Sequence[Effects]) -> float:
    """Spearman over changes between two models, averaged over pairs and over queries that both rank."""
    ranks = [stats.rankdata(one.values, axis=1) for one in effects]
    about = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    found = []
    for a, b in combinations(about, 2):
        sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found.extend(((a * b).sum(1)[sizes > 0] / sizes[sizes > 0]).tolist())
    return float(np.mean(found)) if found else float("nan")
