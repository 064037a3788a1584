"""kronfluence's EK-FAC as its documentation shows it, phase by phase; for every workload that compares with it."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from measured import Row
from torch.utils.data import TensorDataset


def class_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of one label an example, summed over the batch."""
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="sum")


def ekfac_scores(
    row: Row,
    model,
    X,
    y,
    Xt,
    yt,
    damping: float | None,
    loss=class_loss,
    batch: int = 1000,
    layers: list[str] | None = None,
    empirical: bool = False,
    keep=None,
    masked: bool = False,
) -> np.ndarray:
    """Scores (m, n) of a drop, whose factor 1/n is ours; in the model's precision.

    Args:
        damping: None is its own tenth of the mean eigenvalue.
        loss: (outputs, targets), summed over the batch; outputs may have positions.
        layers: names of the layers it is to follow; all that it can by default.
        empirical: the training labels instead of sampled ones.
        keep: called with the factors it fitted.
        masked: positions without a label take no part in its factors, as they take none in ours.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Network(Task):
        def compute_train_loss(self, batch, model, sample=False):
            outputs, targets = model(batch[0]), batch[1]
            if sample:
                with torch.no_grad():
                    drawn = torch.multinomial(outputs.flatten(0, -2).softmax(1), 1).view_as(targets)
                    targets = torch.where(targets < 0, targets, drawn)
            return loss(outputs, targets)

        def compute_measurement(self, batch, model):
            return loss(model(batch[0]), batch[1])

        def get_influence_tracked_modules(self):
            return layers

        def get_attention_mask(self, batch):
            return (batch[1] >= 0).to(batch[0].dtype) if masked else None

    dtype = next(model.parameters()).dtype
    fitted = ("activation_covariance_dtype", "gradient_covariance_dtype", "per_sample_gradient_dtype", "lambda_dtype")
    scored = ("per_sample_gradient_dtype", "precondition_dtype", "score_dtype")
    factor_args = FactorArguments("ekfac", use_empirical_fisher=empirical, **dict.fromkeys(fitted, dtype))
    score_args = ScoreArguments(damping_factor=damping, **dict.fromkeys(scored, dtype))
    task, train, query = Network(), TensorDataset(X, y), TensorDataset(Xt, yt)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("network", prepare_model(model, task), task, cpu=True, output_dir=folder, disable_tqdm=True)
        with row.phase("covariances"):
            analyzer.fit_covariance_matrices("ekfac", train, per_device_batch_size=batch, factor_args=factor_args)
        with row.phase("eigenvectors"):
            analyzer.perform_eigendecomposition("ekfac", factor_args)
        with row.phase("Λ"):
            analyzer.fit_lambda_matrices("ekfac", train, per_device_batch_size=batch, factor_args=factor_args)
        if keep is not None:
            keep(analyzer.load_all_factors("ekfac"))
        with row.phase("score"):
            analyzer.compute_pairwise_scores(
                "scores",
                "ekfac",
                query,
                train,
                per_device_query_batch_size=len(Xt),
                per_device_train_batch_size=batch,
                score_args=score_args,
            )
            return analyzer.load_pairwise_scores("scores")["all_modules"].numpy() / len(X)
