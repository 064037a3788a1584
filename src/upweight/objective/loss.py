"""What a per-example loss must tell: ℓ(η, y), its derivatives in the outputs η, and how labels are drawn from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from upweight._typing import Float, Int, Tensor
from upweight.objective.draws import Draws


class Loss(ABC):
    """ℓ(η, y), one number an example."""

    name: str
    unit: str
    kind: str
    """What the targets are: 'class', 'binary', 'proportion', 'real', 'count', 'sign', 'tokens' or 'free'."""

    @abstractmethod
    def values(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b"]:
        """ℓ."""

    @abstractmethod
    def gradient(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b o"]:
        """∇_η ℓ."""

    @abstractmethod
    def hessian(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b o o"]:
        """Λ = ∇²_η ℓ."""

    def hessian_times(
        self, outputs: Float[Tensor, "b o"], targets: Tensor, shifts: Float[Tensor, "b o k"]
    ) -> Float[Tensor, "b o k"]:
        """Λ times k shifts of the outputs."""
        return self.hessian(outputs, targets).to(shifts.dtype) @ shifts

    @abstractmethod
    def prepare(
        self, outputs: Tensor, targets: Tensor, names: Sequence[Any] | np.ndarray = ()
    ) -> tuple[Float[Tensor, "b o"], Tensor]:
        """Check that raw outputs and targets line up, and flatten the outputs; names are for messages.

        Raises:
            ShapeError: shapes that would broadcast or do not match.
            LabelError: targets of the wrong type or range.
        """

    def mean(self, outputs: Float[Tensor, "b o"]) -> Float[Tensor, "b c"] | None:
        """E[y | η], one column a class for classes; None where the loss is no likelihood."""
        return None

    def predicted(self, outputs: Float[Tensor, "b o ..."]) -> Int[Tensor, "b ..."]:
        """The class predicted of a classifier's outputs: the largest of several, or whether the one logit is above zero."""
        return outputs.argmax(1) if self.kind == "class" else (outputs[:, 0] > 0).long()

    def shown(self, outputs: Float[Tensor, "b o"]) -> Float[Tensor, "b c"]:
        """The outputs that are predictions, where others are a dispersion or an equation of their own."""
        return outputs

    def judged(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b"]:
        """How badly queries are predicted: ℓ, but for estimators whose ℓ is no measure of fit."""
        return self.values(outputs, targets)

    def squared_residual(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b"] | None:
        """(y − μ)²/V(μ), of which a dispersion is estimated; None where there is none to estimate."""
        return None

    def fisher(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b o o"]:
        """E[Λ] under the model, which standard errors of generalised linear models are made of; Λ itself elsewhere."""
        return self.hessian(outputs, targets)

    def bound(self, trailing: tuple[int, ...]) -> Loss:
        """The same loss, told the shape one example's outputs have before flattening."""
        return self

    def thin_hessian(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> ThinHessian | None:
        """Λ as a diagonal less a rank-one part, None where it has no such form."""
        return None

    def require_labels(self, targets: Tensor, names: Sequence[Any] | np.ndarray) -> None:
        """Refuse queries that measure nothing: of most losses there are none.

        Raises:
            LabelError: an example without any label.
        """
        return

    def root(self, outputs: Float[Tensor, "b o"], targets: Tensor) -> Float[Tensor, "b o r"]:
        """S with SSᵀ = Λ; what is negative in Λ is left out."""
        values, vectors = torch.linalg.eigh(self.hessian(outputs, targets))
        return vectors * values.clamp_min(0).sqrt().unsqueeze(1)

    def sampled(self, outputs: Float[Tensor, "b o"], targets: Tensor, draws: Draws) -> Float[Tensor, "b o"]:
        """∇_η ℓ at a label drawn from the model: mean zero, covariance Λ. Where the loss is no likelihood, Sε."""
        root = self.root(outputs, targets)
        return torch.einsum("bor,br->bo", root, draws.normal(root.shape[2]).to(root))


@dataclass(frozen=True)
class ThinHessian:
    """Λ = diag(c) − uuᵀ, held in O(o) numbers an example."""

    curve: Float[Tensor, "b o"]
    root: Float[Tensor, "b o"] | None = None
