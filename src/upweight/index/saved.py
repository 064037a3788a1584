"""An index's basis and the study's factors, as one file beside the rows: what a query needs, so that nothing is fitted again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from upweight.fitted import Fitted
from upweight.index import factors
from upweight.index.basis import Basis
from upweight.index.rounding import Rounding
from upweight.linop import BlockDiagonal


@dataclass(frozen=True)
class Saved:
    """What is kept beside the rows.

    Attributes:
        known: the study's own blocks, or EK-FAC's that stand in for an exact curvature; None where there are none.
    """

    basis: Basis
    rounding: Rounding
    known: BlockDiagonal | None

    @classmethod
    def of(cls, fitted: Fitted, basis: Basis, rounding: Rounding) -> Saved:
        """Of a study and the basis chosen for it; the identity is known without being kept."""
        known = basis.curvature if basis.own else None
        if fitted.structured and fitted.kind != "identity":
            known = fitted.blocked.curvature
        return cls(basis, rounding, known)

    def fitted(self, fitted: Fitted) -> Fitted:
        """The study with its blocks as they were, so that they are not formed again."""
        return fitted if self.known is None else replace(fitted, known=self.known)

    def written(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays, and what they are."""
        basis = self.basis
        arrays, said = factors.written(basis.projection, "kept")
        described: dict[str, Any] = {"kind": basis.kind, "own": basis.own, "projection": said, "curvature": None}
        arrays["typical"] = self.rounding.typical.cpu().numpy()
        if basis.chosen is not None:
            arrays |= {f"chosen{place}": places.numpy() for place, places in enumerate(basis.chosen)}
        for name, blocks in (("known", self.known), ("curvature", None if basis.own else basis.curvature)):
            found, said = ({}, None) if blocks is None else factors.written(blocks, name)
            arrays |= found
            described[name] = said
        return arrays, described


def read(arrays: dict[str, np.ndarray], described: dict[str, Any], size: int, dtype: str) -> Saved:
    """What ``Saved.written`` wrote."""

    def blocks(name: str) -> BlockDiagonal | None:
        said = described[name]
        return None if said is None else factors.blocks(arrays, said, name, size)

    known = blocks("known")
    projection = factors.projection(arrays, described["projection"], "kept", size)
    names = [f"chosen{place}" for place in range(len(projection.parts))]
    chosen = tuple(torch.from_numpy(arrays[name]) for name in names) if "chosen0" in arrays else None
    curvature = known if described["own"] else blocks("curvature")
    basis = Basis(described["kind"], projection, chosen, curvature, described["own"])
    return Saved(basis, Rounding(dtype, torch.from_numpy(arrays["typical"])), known)
