"""kronfluence and pyDVL on the networks: EK-FAC, a tenth of the mean eigenvalue as damping."""

from __future__ import annotations

import sys
import tempfile
import warnings

import torch
from measured import Row
from networks.problem import BATCHES, load, plain_epoch
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")


def kronfluence(row: Row, model, X, y, Xt, yt):
    """Its own heuristic damping, sampled labels in both passes."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Digits(Task):
        def compute_train_loss(self, batch, model, sample=False):
            outputs = model(batch[0])
            with torch.no_grad():
                targets = torch.multinomial(outputs.softmax(1), 1).squeeze(1) if sample else batch[1]
            return torch.nn.functional.cross_entropy(outputs, targets, reduction="sum")

        def compute_measurement(self, batch, model):
            return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    task = Digits()
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("digits", prepare_model(model, task), task, cpu=True, output_dir=folder, disable_tqdm=True)
        with row.phase("fit"):
            analyzer.fit_all_factors(
                "ekfac", TensorDataset(X, y), per_device_batch_size=1000, factor_args=FactorArguments("ekfac")
            )
        with row.phase("score"):
            analyzer.compute_pairwise_scores(
                "scores",
                "ekfac",
                TensorDataset(Xt, yt),
                TensorDataset(X, y),
                per_device_query_batch_size=200,
                per_device_train_batch_size=1000,
                score_args=ScoreArguments(damping_factor=None),
            )
            return analyzer.load_pairwise_scores("scores")["all_modules"].numpy() / len(X)


def pydvl(row: Row, model, X, y, Xt, yt):
    """EK-FAC with the diagonal updated; its regularisation is an absolute number."""
    from pydvl.influence.torch import EkfacInfluence

    with row.phase("fit"):
        inverse = EkfacInfluence(model, update_diagonal=True, hessian_regularization=1e-4)
        inverse = inverse.fit(DataLoader(TensorDataset(X, y), batch_size=1000))
    with row.phase("score"):
        return inverse.influences(Xt, yt, X, y).detach().numpy() / len(X)


def main(name: str) -> None:
    """One peer on one network."""
    kind, peer = name.split("-")[:2]
    row = Row(name)
    model, X, y, Xt, yt = load(kind)
    row.measure_epoch(plain_epoch(model, X, y, BATCHES[kind]))
    row.forget_peak()
    row.finish({"kronfluence": kronfluence, "pydvl": pydvl}[peer](row, model, X, y, Xt, yt))


if __name__ == "__main__":
    main(sys.argv[1])
