"""Candidates for wrong labels: self-influence, with the baselines it must beat beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from upweight.errors import ConfigError
from upweight.fitted import Fitted
from upweight.objective import Measure, read_measure
from upweight.questions.points import self_influence

if TYPE_CHECKING:
    import pandas as pd


def mislabeled(fitted: Fitted, k: int = 100) -> pd.DataFrame:
    """Training points in order of self-influence [KL17 5.4], with each point's loss and confidence.

    Columns: train, rank, label, predicted (classifiers), self_influence, loss, confidence (p of the
    label; classifiers), loss_rank.
    """
    import pandas as pd

    if k < 1:
        raise ConfigError(f"mislabeled found k={k}. Expected at least 1: how many candidates to list.")
    owned = self_influence(fitted)
    outputs, targets = _everything(fitted)
    losses = fitted.objective.loss.values(outputs, targets).cpu().numpy()
    order = np.argsort(-owned, kind="stable")[:k]
    loss_rank = np.empty(len(losses), dtype=int)
    loss_rank[np.argsort(-losses, kind="stable")] = np.arange(1, len(losses) + 1)
    frame = pd.DataFrame(
        {
            "train": fitted.objective.examples.ids[order],
            "rank": np.arange(1, len(order) + 1),
            "self_influence": owned[order],
            "loss": losses[order],
            "loss_rank": loss_rank[order],
        }
    )
    kind = fitted.objective.loss.kind
    soft = kind == "binary" and bool(((targets != 0) & (targets != 1)).any())
    if kind not in ("class", "binary") or (kind == "binary" and outputs.shape[1] > 1) or soft:
        return frame
    confidence = read_measure("probability", fitted.objective.loss, fitted.objective.trailing)
    assert isinstance(confidence, Measure)
    frame.insert(2, "label", [_label(fitted, value) for value in _classes(targets)[order]])
    frame.insert(
        3,
        "predicted",
        [_label(fitted, value) for value in fitted.objective.loss.predicted(outputs).cpu().numpy()[order]],
    )
    frame["confidence"] = confidence.values(outputs, targets)[:, 0].cpu().numpy()[order]
    return frame


def _everything(fitted: Fitted) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [fitted.engine.outputs(batch) for _, batch in fitted.engine.batches()]
    return torch.cat([part[0] for part in parts]).double(), torch.cat([part[1] for part in parts])


def _classes(targets: torch.Tensor) -> np.ndarray:
    return targets.reshape(len(targets), -1)[:, 0].cpu().numpy()


def _label(fitted: Fitted, value: np.generic) -> object:
    return fitted.adapted.codec.label(int(value))
