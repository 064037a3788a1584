"""Our EK-FAC against kronfluence's with nothing left to chance: training labels, the same damping, float64.

The rule between the two has no free number. A drop is wᵢ g_qᵀ(F + λI)⁻¹gᵢ with wᵢ = 1/n; kronfluence's score has no wᵢ,
and in both F's Λ is the mean over examples and "0.1 of the mean" is of each layer's own Λ. So drop = score / n.

python benchmarks/kron_factors.py            every network, after `make bench` has built benchmarks/.peers
python benchmarks/kron_factors.py mlp        one of them

run.PEERS reads their scores in an environment of its own: python benchmarks/kron_factors.py theirs mlp scores.npz
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from measured import Row

POINTS, QUESTIONS = 500, 20
"""Few enough that every pair is exact: more of them and ours would replace 1/(Λ + λ) by a few products."""

TOLERANCE = 1e-9
DAMPINGS = {"λ = 1e-3": 1e-3, "a tenth of the mean": None}
KINDS = ("mlp", "cnn", "rows", "transformer")
SEQUENCES, ASKED = 24, 6
"""Points and queries of the transformer, whose every point has 128 positions."""


def problem(kind: str):
    """(model in float64, X, y, Xt, yt, loss, tracked layers, batch)."""
    if kind == "transformer":
        from transformer.problem import load, sequence_loss, tracked_layers

        model, *data = load(SEQUENCES, ASKED)
        return model.double(), *data, sequence_loss, tracked_layers(model), 8
    from kron import class_loss
    from networks.problem import load

    model, X, y, Xt, yt = load(kind)
    X, y, Xt, yt = X[:POINTS].double(), y[:POINTS], Xt[:QUESTIONS].double(), yt[:QUESTIONS]
    layers = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    return model.double(), X, y, Xt, yt, class_loss, layers, 250


def theirs(kind: str, path: str) -> None:
    """kronfluence's scores of a drop at both dampings, and its factors, into one file."""
    from kron import ekfac_scores

    kept: dict[str, np.ndarray] = {}

    def keep(factors) -> None:
        for what, layers in factors.items():
            kept.update({f"{what}/{name}": value.numpy() for name, value in layers.items()})

    for damping, value in DAMPINGS.items():
        model, X, y, Xt, yt, loss, layers, batch = problem(kind)
        scores = ekfac_scores(
            Row(kind), model, X, y, Xt, yt, value, loss, batch, layers, True, keep, kind == "transformer"
        )
        kept[damping] = scores
    np.savez(path, **kept)


def ours(kind: str) -> dict[str, np.ndarray]:
    """First-order drops at both dampings."""
    import upweight as uw

    found = {}
    for damping, value in DAMPINGS.items():
        model, X, y, Xt, yt, _, layers, _ = problem(kind)
        study = uw.Study(
            model,
            (X, y),
            loss="token_cross_entropy" if kind == "transformer" else "cross_entropy",
            parameters=[f"{name}.*" for name in layers],
            curvature="ekfac",
            fisher="empirical",
            damping=uw.Relative(0.1) if value is None else value,
            protocol="fixed_total",
        )
        found[damping] = study.drop((Xt, yt), order="first").values
    return found


def compare(kind: str) -> None:
    """Print the relative error of ours against theirs, and of what a free factor would make of it."""
    from run import HERE, PEERS

    own = ours(kind)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "theirs.npz")
        subprocess.run(
            [str(PEERS), __file__, "theirs", kind, path],
            env=os.environ | {"PYTHONPATH": str(HERE)},
            check=True,
            capture_output=True,
        )
        scores = np.load(path)
        for damping, a in own.items():
            b = scores[damping]
            error, slope = np.linalg.norm(a - b) / np.linalg.norm(b), (a * b).sum() / (a * a).sum()
            if error > TOLERANCE:
                raise SystemExit(f"{kind}, {damping}: relative error {error:.1e}. Expected at most {TOLERANCE}.")
            print(f"{kind:12} {damping:20} relative error {error:.1e}, slope of theirs on ours {slope:.9f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["theirs"]:
        theirs(*sys.argv[2:])
    else:
        for one in sys.argv[1:] or KINDS:
            compare(one)
