"""IV2SLS: two-stage least squares as the saddle point of a sum over observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from upweight.adapters.adapted import Inference
from upweight.adapters.statsmodels.reading import Reading, asked_covariance, names, numbers, values
from upweight.objective.joint import TwoStageLeastSquares
from upweight.objective.predictors import columns


def two_stage(results: Any) -> Reading:
    """λ and β with Z′(y − Xβ) = Z′Zλ and X′Zλ = 0: both stages answer to every observation's weight."""
    model = results.model
    exog, instruments, endog = values(model.exog), values(model.instrument), values(model.endog)
    beta = values(results.params)
    gram = instruments.T @ instruments
    duals = np.linalg.solve(gram, instruments.T @ (endog - exog @ beta))
    called = getattr(model, "instrument_names", None) or [f"z{place}" for place in range(instruments.shape[1])]
    return Reading(
        loss=TwoStageLeastSquares(),
        theta=torch.as_tensor(np.concatenate([duals, beta])),
        labels=(*(f"instrument {name}" for name in called), *names(results)),
        cells=columns(instruments.shape[1], exog.shape[1]),
        inputs=np.column_stack([instruments, exog]),
        targets=numbers(endog),
        weights=np.ones(len(endog)),
        inference=Inference(
            float(len(endog)),
            dispersion="estimated",
            parameters=exog.shape[1],
            shown=slice(instruments.shape[1], None),
            **asked_covariance(results),
        ),
        arrange=lambda exog, offset: np.column_stack([np.zeros((len(exog), instruments.shape[1])), exog]),
        encode=numbers,
        saddle=True,
    )
