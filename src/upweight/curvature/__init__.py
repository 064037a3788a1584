"""Curvature matrices of an objective, each one a LinearOperator."""

from upweight.curvature.damping import Relative, damped, mean_eigenvalue
from upweight.curvature.diagonal import block_diagonal, diagonal, identity
from upweight.curvature.ekfac import ekfac
from upweight.curvature.gauge import shift_gauge
from upweight.curvature.ggn import ggn
from upweight.curvature.hessian import hessian
from upweight.curvature.kfac import kfac
from upweight.curvature.second_moments import second_moments

__all__ = [
    "Relative",
    "block_diagonal",
    "damped",
    "diagonal",
    "ekfac",
    "ggn",
    "hessian",
    "identity",
    "kfac",
    "mean_eigenvalue",
    "second_moments",
    "shift_gauge",
]
