"""What came back from a solve: how, how well, and whether to believe it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """How an inverse was obtained and how far it can be trusted.

    residual is ‖vA⁻¹A − v‖/‖v‖, measured; condition is ‖A‖₁‖A⁻¹‖₁ where it was estimated;
    gauge counts directions that cannot change any output and were projected out.
    """

    method: str
    residual: float
    iterations: int = 0
    converged: bool = True
    condition: float | None = None
    damping: float = 0.0
    gauge: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"solved by {self.method}", f"residual {self.residual:.1e}"]
        if self.iterations:
            parts.append(f"{self.iterations} iterations")
        if self.condition is not None:
            parts.append(f"condition number {self.condition:.1e}")
        if self.damping:
            parts.append(f"damping {self.damping:.3g}")
        if self.gauge:
            parts.append(f"{self.gauge} gauge direction{'s' * (self.gauge > 1)} projected out")
        return "; ".join([*parts, *self.notes, *([] if self.converged else ["NOT CONVERGED"])])
