"""Curvature matrices of an objective, each one a LinearOperator."""

from upweight.curvature.gauge import shift_gauge
from upweight.curvature.ggn import ggn
from upweight.curvature.hessian import hessian

__all__ = ["ggn", "hessian", "shift_gauge"]
