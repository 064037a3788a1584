"""statsmodels on the same models: Logit's deletion diagnostics at full size, least squares' dfbetas at n = 1,000."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import statsmodels.api as sm
from lines.problem import load
from measured import Row

warnings.simplefilter("ignore")
SMALL = 1000
"""statsmodels refits n times for dfbetas."""


def main(name: str) -> None:
    """One diagnostic; the fit is not counted."""
    row = Row(name)
    if name == "logit-statsmodels":
        line = load("logit")
        influence = sm.Logit(line.y, np.column_stack([line.X, np.ones(len(line.X))])).fit(disp=0).get_influence()
        with row.phase("drop"):
            influence.d_params  # noqa: B018 - the property computes
    else:
        line = load("ols", SMALL)
        influence = sm.OLS(line.y, np.column_stack([line.X, np.ones(SMALL)])).fit().get_influence()
        row.notes = f"n = {SMALL:,} only"
        with row.phase("drop"):
            influence.dfbetas  # noqa: B018 - the property computes
    row.finish()


if __name__ == "__main__":
    main(sys.argv[1])
