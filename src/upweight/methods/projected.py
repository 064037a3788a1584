"""Influence between projected gradients: LoGra, TrackStar and TRAK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from upweight._typing import Float, Tensor
from upweight.curvature import Relative, damped, identity
from upweight.curvature.second_moments import second_moments
from upweight.errors import ConfigError
from upweight.gradients import rows
from upweight.influence.formula import effect
from upweight.linop import Diagonal, Gaussian, two_sided
from upweight.methods.checkpoints import cosines
from upweight.methods.tail_patch import values
from upweight.objective import Objective
from upweight.solve import Filter, filtered, inverse

DAMPING = Relative(0.1)
"""Of projected curvature, where nothing better is known."""


def logra(
    objective: Objective,
    query: Any,
    sides: tuple[int, int] = (64, 64),
    damping: float | Relative = DAMPING,
    seed: int = 0,
) -> Float[Tensor, "m n"]:
    """(C∇ℓ_q)ᵀ(⊕_ℓ E[ĝĝᵀ] + λI)⁻¹ C∇ℓᵢ, C random on both sides of every layer: LoGra (Choe et al. 2024).

    Args:
        sides: numbers kept of a layer's outputs and inputs.
        damping: λ, or a share of each layer's mean eigenvalue.
    """
    C = two_sided(identity(objective), *sides, seed=seed)
    T, G = rows(objective, query) @ C, rows(objective) @ C
    F = second_moments(G, objective.weights / objective.total_weight, C.columns())
    return -effect(T.double(), inverse(damped(F, damping)), G.double())


def trackstar(
    objective: Objective,
    query: Any,
    sides: tuple[int, int] = (64, 64),
    squares: Float[Tensor, "p"] | None = None,
    mix: float = 0.0,
    damping: float | Relative = DAMPING,
    seed: int = 0,
) -> Float[Tensor, "m n"]:
    """cos of R^{-1/2}C(∇ℓ/√V) of query and training point: TrackStar (Chang, Rajagopal, Bolukbasi, Dixon & Tenney 2024).

    Args:
        squares: V, the optimiser's second-moment estimate, (p,); ones by default.
        mix: R is the second moment of projected training gradients, this share of it that of the queries'.
        damping: added to R; the paper adds none.

    Raises:
        ConfigError: a share outside [0, 1].
    """
    if not 0 <= mix <= 1:
        raise ConfigError(f"trackstar found mix={mix}. Expected a share from 0 to 1.")
    C = two_sided(identity(objective), *sides, seed=seed)
    scale = Diagonal((torch.ones_like(objective.theta) if squares is None else squares.to(objective.theta)).rsqrt())
    T, G = ((rows(objective, data) @ scale @ C).double() for data in (query, None))
    count = [torch.full((len(part),), 1 / len(part), dtype=torch.float64) for part in (T, G)]
    both = torch.cat([mix**0.5 * T * count[0].sqrt()[:, None], (1 - mix) ** 0.5 * G * count[1].sqrt()[:, None]])
    R = second_moments(both, torch.ones(len(both), dtype=torch.float64), C.columns())
    white = filtered(damped(R, damping), InverseRoot())
    return cosines(T @ white, G @ white)


def trak(
    objectives: Sequence[Objective], query: Any, width: int = 512, damping: float = 0.0, seed: int = 0
) -> Float[Tensor, "m n"]:
    """mean_c[φ_qᵀ(ΦᵀΦ + λI)⁻¹φᵢ] · mean_c[1 − pᵢ], φ = C∇margin: TRAK (Park, Georgiev, Ilyas, Leclerc & Madry 2023).

    Args:
        objectives: one a model of the ensemble, or a checkpoint; at least one, of a classifier.
        width: numbers kept of a gradient; fewer than training points, or ΦᵀΦ is singular without damping.

    Raises:
        ConfigError: no objective.
        IndefiniteCurvature: ΦᵀΦ is singular.
    """
    if not objectives:
        raise ConfigError("trak found no objective. Expected at least one, such as study.objective.")
    scores, doubts = [], []
    for place, one in enumerate(objectives):
        C = Gaussian(one.space.size, width, seed + place)
        T, F = (rows(one, data, "margin") @ C for data in (query, None))
        gram = second_moments(F, torch.ones(len(F), dtype=torch.float64))
        scores.append(-effect(T.double(), inverse(gram.damped(damping)), F.double()))
        doubts.append(1 - values(one, None, "probability").double())
    return torch.stack(scores).mean(0) * torch.stack(doubts).mean(0)


@dataclass(frozen=True)
class InverseRoot(Filter):
    """f(Λ) = 1/√Λ: rows through it have the identity for second moment."""

    relative: bool = False

    @property
    def name(self) -> str:
        return "inverse square root"

    def of(self, values: Float[Tensor, "..."], unit: float) -> Float[Tensor, "..."]:
        return values.clamp_min(torch.finfo(values.dtype).tiny).rsqrt()
