"""The faster kernels round as float32 does, and the switch that reaches them is put back."""

import threading

import pytest
import torch

from upweight import kernels
from upweight.kernels import fast_float32

SWITCH = getattr(torch.backends.mkldnn, "matmul", None)
needs_switch = pytest.mark.skipif(not hasattr(SWITCH, "fp32_precision"), reason="this PyTorch has no such switch")


@pytest.mark.parametrize("shape", [(3, 5, 7), (64, 64, 64), (257, 785, 129), (1024, 31, 300), (16, 4096, 16)])
def test_products_inside_are_rounded_as_float32(shape):
    b, k, m = shape
    left, right = (torch.randn(s, generator=torch.Generator().manual_seed(1)) for s in ((b, k), (k, m)))
    truth = left.double() @ right.double()
    with fast_float32():
        for found in (left @ right, (right.T @ left.T).T, torch.bmm(left[None], right[None])[0]):
            assert float((found - truth).norm() / truth.norm()) < 2e-6
    half = (left.bfloat16() @ right.bfloat16()).double()
    assert float((half - truth).norm() / truth.norm()) > 1e-3  # what it must not be


@needs_switch
def test_the_switch_is_put_back_after_nesting_and_after_an_error():
    before = SWITCH.fp32_precision
    with fast_float32():
        inside = SWITCH.fp32_precision
        with fast_float32():
            assert SWITCH.fp32_precision == inside
        assert SWITCH.fp32_precision == inside
    assert SWITCH.fp32_precision == before
    with pytest.raises(ZeroDivisionError), fast_float32():
        1 / 0  # noqa: B018
    assert SWITCH.fp32_precision == before
    assert inside == (kernels.ALLOWING if kernels._keeps_float32() else before)


@needs_switch
def test_threads_that_overlap_leave_the_switch_as_found():
    before, entered, leave = SWITCH.fp32_precision, threading.Event(), threading.Event()

    def first():
        with fast_float32():
            entered.set()
            leave.wait(5)

    worker = threading.Thread(target=first)
    worker.start()
    entered.wait(5)
    with fast_float32():
        leave.set()
        worker.join()
    assert SWITCH.fp32_precision == before


@needs_switch
def test_a_processor_that_rounds_is_left_alone(monkeypatch):
    before = SWITCH.fp32_precision
    kernels._keeps_float32.cache_clear()
    monkeypatch.setattr(kernels, "_error", lambda *sizes: 3e-3)  # bfloat16's
    try:
        assert not kernels._keeps_float32() and SWITCH.fp32_precision == before
        with fast_float32():
            assert SWITCH.fp32_precision == before
    finally:
        kernels._keeps_float32.cache_clear()


def test_a_pytorch_without_the_switch_multiplies_as_before(monkeypatch):
    kernels._keeps_float32.cache_clear()
    monkeypatch.setattr(kernels, "_switch", lambda: None)
    try:
        with fast_float32():
            assert float((torch.ones(2, 3) @ torch.ones(3, 2)).sum()) == 12
    finally:
        kernels._keeps_float32.cache_clear()
