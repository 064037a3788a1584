"""The faster kernels round as float32 does, and the switch that reaches them is put back."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from upweight import float32_products
from upweight.float32_products import fast_float32
from upweight.gradients.guard import torch_only

pytestmark = [
    pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning"),  # PyTorch's own, at any change of its flags
]
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
    assert inside == (float32_products.ALLOWING if float32_products._keeps_float32(SWITCH) else before)


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
    monkeypatch.setattr(float32_products, "_kept", [])
    monkeypatch.setattr(float32_products, "_error", lambda *sizes: 3e-3)  # bfloat16's
    with fast_float32():
        assert SWITCH.fp32_precision == before
    assert float32_products._kept == [False]


def test_a_pytorch_without_the_switch_multiplies_as_before(monkeypatch):
    monkeypatch.setattr(float32_products, "_switch", lambda: None)
    with fast_float32():
        assert float((torch.ones(2, 3) @ torch.ones(3, 2)).sum()) == 12


@needs_switch
def test_what_was_inherited_is_inherited_again():
    with torch.backends.mkldnn.flags(enabled=True, fp32_precision="bf16"):
        with fast_float32():
            pass
        assert SWITCH.fp32_precision == "bf16"
    assert SWITCH.fp32_precision == "none"


def test_onednn_turned_off_is_not_touched():
    with fast_float32():
        pass
    with torch.backends.mkldnn.flags(enabled=False), fast_float32():
        assert torch.ones(2, 2).sum() == 4


def test_a_fresh_process_with_many_threads_ends_as_it_began():
    """The first use measures the processor; nobody may take what it sets for what was found."""
    script = """
import threading, torch
from upweight.float32_products import fast_float32
switch, barrier = getattr(torch.backends.mkldnn, "matmul", None), threading.Barrier(6)
def work():
    barrier.wait()
    for _ in range(20):
        with fast_float32():
            torch.ones(8, 8) @ torch.ones(8, 8)
threads = [threading.Thread(target=work) for _ in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
print(getattr(switch, "fp32_precision", "none"))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "none"


def test_an_autocast_around_the_question_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    X, y = torch.randn(30, 5), torch.arange(30) % 3

    def scores():
        study = uw.Study(model, (X, y), loss="cross_entropy", curvature="ekfac")
        return study.drop((X[:4], y[:4])).values, study.self_influence(), study.coverage

    plain = scores()
    with torch.autocast("cpu"):
        inside = scores()
    np.testing.assert_array_equal(inside[0], plain[0])
    np.testing.assert_array_equal(inside[1], plain[1])
    assert inside[2].equals(plain[2]) if hasattr(plain[2], "equals") else inside[2] == plain[2]


def test_inference_mode_is_refused_by_name():
    model, X = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval(), torch.randn(9, 3)
    with torch.inference_mode(), pytest.raises(uw.errors.ConfigError, match=r"inference_mode.*Expected"):
        uw.Study(model, (X, torch.arange(9) % 2), loss="cross_entropy")


class Asking(nn.Module):
    """Asks PyTorch how precise products are, as some attention layers do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        assert torch.get_float32_matmul_precision() == "highest"
        return torch.tanh(self.layer(x))


def test_a_model_may_ask_for_the_precision_of_products():
    X = torch.randn(9, 3)
    study = uw.Study(Asking().eval(), (X, torch.arange(9) % 2), loss="cross_entropy", curvature="ekfac")
    assert np.isfinite(study.drop((X, torch.arange(9) % 2)).values).all()


def test_only_models_of_torch_s_own_modules_are_called_with_the_faster_kernels():
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert torch_only(plain) and not torch_only(nn.Sequential(Asking()))
    plain[0].register_forward_hook(lambda *given: None)
    assert not torch_only(plain)
