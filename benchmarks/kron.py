"""kronfluence's EK-FAC on a classifier of digits, as its documentation shows; for both workloads that compare with it."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from measured import Row
from torch.utils.data import TensorDataset


def ekfac_scores(row: Row, model, X, y, Xt, yt, damping: float | None) -> np.ndarray:
    """Sampled labels in both passes; damping=None is its own tenth of the mean eigenvalue. Scores (m, n) of a drop."""
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

    task, train, query = Digits(), TensorDataset(X, y), TensorDataset(Xt, yt)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("digits", prepare_model(model, task), task, cpu=True, output_dir=folder, disable_tqdm=True)
        with row.phase("fit"):
            analyzer.fit_all_factors("ekfac", train, per_device_batch_size=1000, factor_args=FactorArguments("ekfac"))
        with row.phase("score"):
            analyzer.compute_pairwise_scores(
                "scores",
                "ekfac",
                query,
                train,
                per_device_query_batch_size=len(Xt),
                per_device_train_batch_size=1000,
                score_args=ScoreArguments(damping_factor=damping),
            )
            return analyzer.load_pairwise_scores("scores")["all_modules"].numpy() / len(X)
