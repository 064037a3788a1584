"""dattri's EK-FAC with two faults taken out, so that its road is scored on what it means to compute.

dattri 0.3.0 turns with eigenvectors as rows (``eigh`` gives columns), and lays [W | b] out as W's entries followed by b's, cut
anew into rows of one more number; here the eigenvectors are transposed once, and each row of W is followed by its own bias.
"""

from __future__ import annotations

from unittest.mock import patch

import torch
from dattri.algorithm.influence_function import IFAttributorEKFAC
from dattri.func import fisher


def corrected_ekfac() -> type:
    """The class with both corrections."""
    return Corrected


class Corrected(IFAttributorEKFAC):
    """Factors, labels and damping are dattri's own."""

    def cache(self, *args, **kwargs) -> None:
        own = fisher.estimate_eigenvector

        def columns(covariances):
            return {name: (q_a.T, q_s.T) for name, (q_a, q_s) in own(covariances).items()}

        with patch.object(fisher, "estimate_eigenvector", columns):
            super().cache(*args, **kwargs)

    def transform_test_rep(self, ckpt_idx: int, test_rep: torch.Tensor) -> torch.Tensor:
        found, start = [], 0
        for name in self.module_name:
            layer = self.name_to_module[name]
            o, i = layer.weight.shape
            W = test_rep[:, start : start + o * i].reshape(-1, o, i)
            b = test_rep[:, start + o * i : start + o * i + o].unsqueeze(2)
            start += o * i + o
            q_a, q_s = self.cached_q[name]
            turned = q_s @ torch.cat([W, b], 2) @ q_a.T / (self.cached_lambdas[name] + self.damping)
            solved = q_s.T @ turned @ q_a
            found += [solved[:, :, :i].flatten(1), solved[:, :, i]]
        return torch.cat(found, 1)
