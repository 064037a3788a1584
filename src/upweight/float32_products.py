"""Matrix products of float32 on a CPU, by the faster of the two libraries PyTorch has for them.

PyTorch multiplies float32 matrices with MKL, which leaves half the width of some processors unused, and reaches
oneDNN's kernels only under a switch that allows bfloat16 rounding. Processors without matrix units round nothing
under it. Whether this one does is measured once; only where rounding is float32's is the switch ever touched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

ALLOWING = "bf16"
"""The setting of ``torch.backends.mkldnn.matmul.fp32_precision`` under which float32 products reach oneDNN."""

INHERITED = "none"
"""The setting that takes what its parents say."""

PROBE_SIZES = ((256, 256, 256), (64, 1024, 64), (1024, 96, 96), (33, 257, 129))
"""Products whose rounding is measured: each takes its own kernel in oneDNN."""

PROBE_ERROR = 4e-6
"""The largest relative error of a probe that float32 could have made; bfloat16 makes a thousand times that."""

_lock = threading.RLock()
_held: dict[str, Any] = {"count": 0, "before": None}
_kept: list[bool] = []


@contextmanager
def fast_float32() -> Iterator[None]:
    """Within, and as a decorator, float32 products on the CPU take the faster kernels. Nests; the switch is put back.

    No code of a model's own runs inside: ``torch.get_float32_matmul_precision`` refuses to answer there.

    Error and cost:
        Results differ from those outside by the order of summation. A few microseconds.
    """
    with without_autocast(), _switched():
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """An autocast around whoever asks is not for derivatives: within, precision is the tensors' own."""
    with ExitStack() as left:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                left.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def _switched() -> Iterator[None]:
    switch = _switch()
    if switch is None or not _keeps_float32(switch):
        yield
        return
    with _lock:  # whoever is last puts back what the first one found
        if not _held["count"]:
            _held["before"] = switch.fp32_precision
            switch.fp32_precision = ALLOWING
        _held["count"] += 1
    try:
        yield
    finally:
        with _lock:
            _held["count"] -= 1
            if not _held["count"]:
                _put_back(switch, _held["before"])


def _put_back(switch: Any, before: str) -> None:
    """The switch as found: what is read may have been inherited, so it is only written where inheriting gives something else."""
    switch.fp32_precision = INHERITED
    if switch.fp32_precision != before:
        switch.fp32_precision = before


def _keeps_float32(switch: Any) -> bool:
    """Whether products under the switch are rounded as float32: measured against float64, once a process."""
    with _lock:
        if not _kept:
            _kept.append(_measured(switch))
        return _kept[0]


def _measured(switch: Any) -> bool:
    before, generator = switch.fp32_precision, torch.Generator().manual_seed(0)
    try:
        switch.fp32_precision = ALLOWING
        return all(_error(*sizes, generator) <= PROBE_ERROR for sizes in PROBE_SIZES)
    except RuntimeError:
        return False
    finally:
        _put_back(switch, before)


def _switch() -> Any:
    """PyTorch's switch, None where this PyTorch has none, or has oneDNN turned off just now."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    usable = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return matmul if usable and hasattr(matmul, "fp32_precision") else None


def _error(rows: int, inner: int, columns: int, generator: torch.Generator) -> float:
    left = torch.randn(rows, inner, generator=generator, dtype=torch.float64).float()
    right = torch.randn(inner, columns, generator=generator, dtype=torch.float64).float()
    truth = left.double() @ right.double()
    plain = float((left @ right - truth).norm() / truth.norm())
    turned = float(((right.T @ left.T).T - truth).norm() / truth.norm())
    return max(plain, turned)
