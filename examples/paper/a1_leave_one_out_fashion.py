"""Figure 2, left, at the paper's n = 55,000: FashionMNIST in place of MNIST."""

from pathlib import Path

from a1_leave_one_out import leave_out
from experiment import Result, report

SIZES = {"small": ("digits", 1_400, 12), "full": ("fashion", 55_000, 50)}


def run(size: str, folder: Path) -> Result:
    """Leave-one-out retraining of logistic regression at n = 55,000 (Koh & Liang 2017, section 4.1)."""
    return leave_out(*SIZES[size], folder)


if __name__ == "__main__":
    report("a1_leave_one_out_fashion", run)
