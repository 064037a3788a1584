"""How each library is asked for scores (queries, training points) of leaving a point out, as its documentation shows it."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from problem import PENALTY, TRAIN, Problem
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def loader(given: Problem) -> DataLoader:
    """The training set as it is read."""
    return DataLoader(TensorDataset(given.X, given.y), batch_size=given.batch, shuffle=given.shuffle)


def upweight(given: Problem) -> Any:
    import upweight as uw

    study = uw.Study(given.model, loader(given), loss="cross_entropy", penalty=uw.L2(PENALTY), protocol="fixed_total")
    return study.drop((given.Xt, given.yt), order="first").values


def dattri(given: Problem) -> Any:
    from dattri.algorithm.influence_function import IFAttributorExplicit
    from dattri.task import AttributionTask

    def loss(params, data):
        inputs, targets = data
        outputs = torch.func.functional_call(given.model, params, inputs.unsqueeze(0) if inputs.ndim == 1 else inputs)
        return F.cross_entropy(outputs, targets.reshape(-1).long())

    task = AttributionTask(loss_func=loss, model=given.model, checkpoints=given.model.state_dict())
    attributor, train = IFAttributorExplicit(task=task, regularization=PENALTY), loader(given)
    attributor.cache(train)
    with torch.no_grad():
        return attributor.attribute(train, DataLoader(TensorDataset(given.Xt, given.yt), batch_size=5)).T / TRAIN


def captum(given: Problem) -> Any:
    from captum.influence import NaiveInfluenceFunction

    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(given.model.state_dict(), file.name)
        naive = NaiveInfluenceFunction(
            given.model,
            loader(given),
            file.name,
            loss_fn=torch.nn.CrossEntropyLoss(reduction="none"),
            hessian_reg=TRAIN * PENALTY,
        )
        return naive.influence((given.Xt, given.yt))


def pydvl(given: Problem) -> Any:
    from pydvl.influence.torch import DirectInfluence

    direct = DirectInfluence(given.model, F.cross_entropy, regularization=PENALTY).fit(loader(given))
    return direct.influences(given.Xt, given.yt, given.X, given.y) / TRAIN


def kronfluence(given: Problem) -> Any:
    from kron import ekfac_scores

    return ekfac_scores(
        Silent(), given.model, given.X, given.y, given.Xt, given.yt, PENALTY, batch=given.batch, empirical=True
    )


class Silent:
    """A row whose phases are not timed."""

    def phase(self, name: str) -> Any:
        from contextlib import nullcontext

        return nullcontext()


LIBRARIES = {
    "upweight": (upweight, "upweight"),
    "dattri": (dattri, "dattri"),
    "captum": (captum, "captum"),
    "pyDVL": (pydvl, "pyDVL"),
    "kronfluence": (kronfluence, "kronfluence"),
}
"""Library: how it is asked, and its name on the registry."""
