"""kronfluence and pyDVL on the networks: EK-FAC, a tenth of the mean eigenvalue as damping."""

from __future__ import annotations

import sys
import warnings

import torch
from kron import ekfac_scores
from measured import Row
from networks.problem import BATCHES, load, plain_epoch
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
CHUNK = 1000


def pydvl(row: Row, model, X, y, Xt, yt):
    """EK-FAC with the diagonal updated; its regularisation is an absolute number."""
    from pydvl.influence.torch import EkfacInfluence

    with row.phase("fit"):
        inverse = EkfacInfluence(model, update_diagonal=True, hessian_regularization=1e-4)
        inverse = inverse.fit(DataLoader(TensorDataset(X, y), batch_size=1000))
    with row.phase("score"):
        parts = zip(X.split(CHUNK), y.split(CHUNK), strict=True)  # all of X at once does not fit 24 GB
        return torch.cat([inverse.influences(Xt, yt, *part).detach() for part in parts], 1).numpy() / len(X)


def main(name: str) -> None:
    """One peer on one network."""
    kind, peer = name.split("-")[:2]
    row = Row(name)
    model, X, y, Xt, yt = load(kind)
    row.measure_epoch(plain_epoch(model, X, y, BATCHES[kind]))
    row.forget_peak()
    row.finish(
        ekfac_scores(row, model, X, y, Xt, yt, None) if peer == "kronfluence" else pydvl(row, model, X, y, Xt, yt)
    )


if __name__ == "__main__":
    main(sys.argv[1])
