"""Section 3: the inverse-Hessian-vector product by conjugate gradients, against Cholesky's."""

from pathlib import Path

import numpy as np
from experiment import Result, report
from pictures import DECAY, softmax

import upweight as uw
from upweight.solve import BlockCG

SIZES = {"small": ("digits", 1_400), "full": ("mnist", 9_000)}


def run(size: str, folder: Path) -> Result:
    """Conjugate gradients against the exact inverse (Koh & Liang 2017, section 3)."""
    name, count = SIZES[size]
    problem = softmax(name, count, folder)
    study = problem.study()
    H = uw.curvature.hessian(study.objective)
    T = uw.rows(study.objective, problem.query).dense()  # the gradient of the test loss, (1, p)
    exact = T @ uw.inverse(H)
    iterated = BlockCG(H, H, lambda rows: rows, steps=2_000, tolerance=1e-8).solve(T)
    result = Result(
        "Section 3: conjugate gradients",
        "Conjugate gradients solve for H⁻¹∇L(z_test) exactly, in O(np) an iteration; Figure 2 (left) was made with them.",
        f"{name}, n = {count:,}, p = {H.size:,}, float64, tolerance 1e-8 without preconditioner",
    )
    error = float((iterated.rows - exact).norm() / exact.norm())
    result.add("relative error of H⁻¹∇L(z_test)", error, "exact", most=1e-6)
    result.add("iterations", iterated.verdict.iterations or 0)
    C = uw.rows(study.objective).dense() + DECAY * study.objective.theta  # each point with its share of the decay
    scores, ours = -(exact @ C.T)[0].numpy(), problem.study("block_cg").upweight(problem.query).values[0]
    agreed = np.corrcoef(ours, scores)[0, 1]
    result.add(f"Pearson of the study's own CG scores with exact ones, all {count:,} points", agreed, "", 0.9999)
    result.add("largest difference in units of the largest score", np.abs(ours - scores).max() / np.abs(scores).max())
    result.why = (
        "The study's own conjugate gradients are preconditioned by a Kronecker product, take their steps in float32 and refine in "
        "float64 to a relative residual of 1e-7; the first two rows are plain ones in float64."
    )
    return result


if __name__ == "__main__":
    report("a2_conjugate_gradients", run)
