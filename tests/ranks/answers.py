"""Run by every rank of the tests, and by one process alone: answers of small studies, written by rank 0.

python answers.py FILE CASE...
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch
from torch import nn

import upweight as uw

N, WIDTH, CLASSES = 23, 5, 3


class Net(nn.Module):
    """Two linear maps, one of them used twice, and a norm."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(WIDTH, 7), nn.Linear(7, 7, bias=False)
        self.norm, self.head = nn.LayerNorm(7), nn.Linear(7, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        return self.head(self.norm(torch.tanh(self.again(self.again(x)))))


def data(n: int = N, classes: int = CLASSES):
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((n + 4, WIDTH)), rng.standard_normal((WIDTH, classes))
    y = (X @ W).argmax(1)
    return (X[:n], y[:n]), (X[n:], y[n:])


def network(classes: int = CLASSES) -> Net:
    torch.manual_seed(0)
    return Net(classes).double().eval()


def of_network(model=None, n: int = N, classes: int = CLASSES, **how):
    train, query = data(n, classes)
    model = network(classes) if model is None else model
    how = {"curvature": "ekfac", "loss": "cross_entropy", "penalty": uw.L2(0.01)} | how
    return uw.Study(model, train, **how), query


def all_of(study, query) -> dict[str, np.ndarray]:
    return {
        "drop": study.drop(query).values,
        "some": study.drop(query, which=[1, 17, 5], measure="margin").values,
        "set": study.drop(query, aggregate="set", measure="accuracy").values,
        "upweight": study.upweight(query, aggregate="mean").values,
        "self": study.self_influence(),
        "leverage": study.leverage(),
        "stationarity": np.asarray([study.fitted.stationarity.ratio]),
    }


def ekfac(ranks):
    return all_of(*of_network(ranks=ranks))


def kfac(ranks):
    return all_of(*of_network(ranks=ranks, curvature="kfac"))


def sampled(ranks):
    """Labels drawn belong to examples, not to batches or ranks."""
    return all_of(*of_network(ranks=ranks, fisher="sampled"))


def share(ranks):
    return all_of(*of_network(ranks=ranks, factor_share=0.5))


def diagonal(ranks):
    return all_of(*of_network(ranks=ranks, curvature="diagonal"))


def blocks(ranks):
    return all_of(*of_network(ranks=ranks, curvature="block_diagonal"))


def ggn(ranks):
    study, query = of_network(ranks=ranks, curvature="ggn", damping=0.1)
    add = study.add(query, query).values
    return all_of(study, query) | {"newton": study.drop(query, order="newton").values, "add": add}


def solver(ranks):
    study, query = of_network(ranks=ranks, curvature="ggn", solver="block_cg", damping=0.1)
    return {"drop": study.drop(query).values}


def hessian(ranks):
    study, query = of_network(ranks=ranks, curvature="hessian", damping=20.0)
    group = study.drop_group([[0, 3, 22], [5]], query).values
    return all_of(study, query) | {"group": group, "parameters": study.parameters([2, 21]).values}


def linear(ranks):
    train, query = data()
    model = nn.Linear(WIDTH, CLASSES).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.arange(15).view(3, 5) / 10)
        model.bias.zero_()
    study = uw.Study(model, train, loss="cross_entropy", penalty=uw.L2(0.1), ranks=ranks)
    return all_of(study, query) | {"group": study.drop_group([[0, 3, 22], [5]], query).values}


def few(ranks):
    """Fewer examples than ranks."""
    study, query = of_network(ranks=ranks, n=2, damping=0.1)
    return {"drop": study.drop(query).values, "self": study.self_influence()}


def uneven(_):
    """The last rank has nothing, the first twice as much as the others."""
    size = uw.ranks().size
    return ekfac(uw.ranks(timeout=60, shares=[2.0, *[1.0] * (size - 2), 0.0] if size > 1 else None))


def ddp(ranks):
    model = network()
    return ekfac_of(ranks, nn.parallel.DistributedDataParallel(model) if ranks.size > 1 else model)


def fsdp(ranks):
    model = network()
    if ranks.size > 1:
        from torch.distributed.fsdp import fully_shard

        for part in (model.first, model.again, model):
            fully_shard(part)
    found = ekfac_of(ranks, model)
    if ranks.size > 1:
        assert all(hasattr(p, "full_tensor") for p in model.parameters())  # still sharded
    return found


def ekfac_of(ranks, model):
    return all_of(*of_network(model, ranks=ranks))


def indexed(ranks, folder):
    study, query = of_network(ranks=ranks)
    index = uw.Index.build(
        study, folder, compression="eigenbasis", size=40, dtype="float64", rows_per_shard=4, progress=False
    )
    found = index.query(query, k=5)
    return {"top": found.top, "bottom": found.bottom, "ids": found.top_ids, "rows": np.asarray([index.info().rows])}


def main(path: str, cases: list[str]) -> None:
    warnings.simplefilter("ignore")
    ranks = uw.ranks(timeout=60)
    found = {}
    for case in cases:
        extra = (f"{path}.{case}",) if case == "indexed" else ()
        found |= {f"{case}.{name}": value for name, value in globals()[case](ranks, *extra).items()}
    np.savez(f"{path}.{ranks.rank}.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
