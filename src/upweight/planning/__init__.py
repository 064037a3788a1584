"""What a method takes in FLOPs, bytes and hours, before it runs."""

from upweight.planning.counts import Task, Work, method_work
from upweight.planning.plan import Plan, plan
from upweight.planning.rates import Rates
from upweight.planning.shapes import LayerShape, ModelShape, shape_of

__all__ = ["LayerShape", "ModelShape", "Plan", "Rates", "Task", "Work", "method_work", "plan", "shape_of"]
