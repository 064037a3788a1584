"""The peers on the softmax problem, each by its own documented road to an exact answer; kronfluence's EK-FAC beside them."""

from __future__ import annotations

import sys
import tempfile
import warnings

import torch
from kron import ekfac_scores
from measured import Row
from softmax.problem import PENALTY, plain_epoch, torch_problem
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")


def pydvl(row: Row, model, X, y, Xt, yt, together: bool):
    """Conjugate gradients, all queries at once or one at a time."""
    from pydvl.influence.torch import CgInfluence

    with row.phase("fit"):
        loss = torch.nn.functional.cross_entropy
        inverse = CgInfluence(
            model, loss, regularization=PENALTY, rtol=1e-7, maxiter=200, solve_simultaneously=together
        )
        inverse = inverse.fit(DataLoader(TensorDataset(X, y), batch_size=len(X)))
    with row.phase("score"):
        return inverse.influences(Xt, yt, X, y).detach().numpy() / len(X)


def captum(row: Row, model, X, y, Xt, yt):
    """The naive inverse at full rank; its Hessian is of the summed loss, so is its regularisation."""
    from captum.influence import NaiveInfluenceFunction

    with tempfile.NamedTemporaryFile(suffix=".pt") as file, row.phase("fit"):
        torch.save(model.state_dict(), file.name)
        naive = NaiveInfluenceFunction(
            model,
            TensorDataset(X, y),
            file.name,
            loss_fn=torch.nn.CrossEntropyLoss(reduction="none"),
            batch_size=1000,
            projection_dim=sum(p.numel() for p in model.parameters()),
            hessian_reg=len(X) * PENALTY,
        )
    with row.phase("score"):
        return naive.influence((Xt, yt)).detach().numpy()


def dattri(row: Row, model, X, y, Xt, yt, kind: str):
    """Explicit inverse or conjugate gradients, the whole training set in one batch (it sums inverses of batches)."""
    from dattri.algorithm import influence_function
    from dattri.task import AttributionTask

    def loss(params, data):
        inputs, targets = data
        outputs = torch.func.functional_call(model, params, inputs.unsqueeze(0) if inputs.ndim == 1 else inputs)
        return torch.nn.functional.cross_entropy(outputs, targets.reshape(-1).long())

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    with row.phase("fit"):
        settings = {"max_iter": 100, "tol": 1e-7} if kind == "IFAttributorCG" else {}
        attributor = getattr(influence_function, kind)(task=task, regularization=PENALTY, **settings)
        train = DataLoader(TensorDataset(X, y), batch_size=len(X))
        attributor.cache(train)
    with row.phase("score"), torch.no_grad():
        return attributor.attribute(train, DataLoader(TensorDataset(Xt, yt), batch_size=len(Xt))).T.numpy() / len(X)


def kronfluence(row: Row, model, X, y, Xt, yt):
    """EK-FAC, an approximation: not a road to the exact answer."""
    return ekfac_scores(row, torch.nn.Sequential(model), X, y, Xt, yt, PENALTY)


ROWS = {
    "softmax-pydvl-block-cg": lambda *args: pydvl(*args, together=True),
    "softmax-pydvl-cg": lambda *args: pydvl(*args, together=False),
    "softmax-captum-naive": captum,
    "softmax-dattri-cg": lambda *args: dattri(*args, kind="IFAttributorCG"),
    "softmax-dattri-explicit": lambda *args: dattri(*args, kind="IFAttributorExplicit"),
    "softmax-kronfluence-ekfac": kronfluence,
}


def main(name: str) -> None:
    """One peer, in single precision, its users' default."""
    row = Row(name)
    model, X, y, Xt, yt = torch_problem(torch.float32)
    row.measure_epoch(plain_epoch(model, X, y))
    row.finish(ROWS[name](row, model, X, y, Xt, yt))


if __name__ == "__main__":
    main(sys.argv[1])
