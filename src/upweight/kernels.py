"""Matrix products of float32 on a CPU, by the faster of the two libraries PyTorch has for them.

PyTorch multiplies float32 matrices with MKL, which leaves half the width of some processors unused, and reaches
oneDNN's kernels only under a switch that allows bfloat16 rounding. Processors without matrix units round nothing
under it. Whether this one does is measured once; only where rounding is float32's is the switch ever touched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

ALLOWING = "bf16"
"""The setting of ``torch.backends.mkldnn.matmul.fp32_precision`` under which float32 products reach oneDNN."""

PROBE_SIZES = ((256, 256, 256), (64, 1024, 64), (1024, 96, 96), (33, 257, 129))
"""Products whose rounding is measured: each takes its own kernel in oneDNN."""

PROBE_ERROR = 4e-6
"""The largest relative error of a probe that float32 could have made; bfloat16 makes a thousand times that."""

_lock = threading.Lock()
_held: dict[str, Any] = {"count": 0, "before": None}


@contextmanager
def fast_float32() -> Iterator[None]:
    """Within, and as a decorator, float32 products on the CPU take the faster kernels. Nests; the switch is put back.

    Error and cost:
        Results differ from those outside by the order of summation. A few microseconds.
    """
    if not _keeps_float32():
        yield
        return
    switch = _switch()
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
                switch.fp32_precision = _held["before"]


@cache
def _keeps_float32() -> bool:
    """Whether products under the switch are rounded as float32: measured against float64."""
    switch = _switch()
    if switch is None:
        return False
    before, generator = switch.fp32_precision, torch.Generator().manual_seed(0)
    try:
        switch.fp32_precision = ALLOWING
        return all(_error(*sizes, generator) <= PROBE_ERROR for sizes in PROBE_SIZES)
    except RuntimeError:
        return False
    finally:
        switch.fp32_precision = before


def _switch() -> Any:
    """PyTorch's switch, None where this PyTorch has none."""
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
