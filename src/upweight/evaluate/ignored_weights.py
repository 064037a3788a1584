"""Whether a training function heeds its weights and its seed: those that do not return the same parameters twice."""

from __future__ import annotations

import numpy as np

from upweight.errors import ConfigError
from upweight.evaluate.states import State
from upweight.store.fingerprints import digest_bytes

FAR = 0.5
"""Share of the weight in which two weightings must differ before equal parameters prove that nobody looked at them; a single
point without a gradient may leave without a trace."""


class IgnoredWeights:
    """Parameters as they come in, compared by their bytes."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[np.ndarray, int]] = {}
        self.proven = False

    def see(self, weights: np.ndarray, seed: int, state: State) -> np.ndarray | None:
        """One more retraining; weights that would prove the case, where parameters are suspiciously equal.

        Raises:
            ConfigError: two seeds, or two quite different weightings, gave the same parameters.
        """
        digest = _digest(state)
        if digest not in self.seen:
            self.seen[digest] = weights, seed
            return None
        suspicious = self._compare(*self.seen[digest], weights, seed) and not self.proven
        self.proven = self.proven or suspicious
        return weights * (np.arange(len(weights)) % 2) if suspicious else None

    def _compare(self, before: np.ndarray, seed_before: int, weights: np.ndarray, seed: int) -> bool:
        same = np.array_equal(before, weights)
        if same and seed != seed_before:
            raise ConfigError(
                f"train= returned the same parameters for the seeds {seed_before} and {seed}. Expected it to use its seed, for its initial parameters or its order of the data; or ask for one seed, if training has no chance in it."
            )
        apart = float(np.abs(before - weights).sum()) / max(float(np.abs(weights).sum()), np.finfo(float).tiny)
        if not same and apart > FAR:
            raise ConfigError(
                f"train= returned the same parameters for two weightings that differ in {apart:.0%} of their weight. Expected it to use its weights: multiply each example's loss by its weight."
            )
        return not same


def _digest(state: State) -> str:
    named = [(name, value) for name, value in sorted(state.items()) if value.is_floating_point()]
    return digest_bytes(name.encode() + value.double().contiguous().numpy().tobytes() for name, value in named)
