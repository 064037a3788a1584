"""Curvature matrices of an objective, each one a LinearOperator."""

from upweight.curvature.diagonal import block_diagonal, diagonal
from upweight.curvature.ekfac import ekfac
from upweight.curvature.gauge import shift_gauge
from upweight.curvature.ggn import ggn
from upweight.curvature.hessian import hessian
from upweight.curvature.kfac import kfac

__all__ = ["block_diagonal", "diagonal", "ekfac", "ggn", "hessian", "kfac", "shift_gauge"]
