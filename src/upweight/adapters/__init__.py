"""A fitted thing ↦ an objective: one adapter a library."""

from upweight.adapters.adapted import Adapted, Codec, Inference

__all__ = ["Adapted", "Codec", "Inference"]
