"""What the automatic choice of a solver does where the cheap one does not converge."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

import upweight as uw


@pytest.fixture
def spiky():
    """A hinge smoothed over next to nothing: a few points at the corner hold all of the curvature."""
    X, y = load_digits(return_X_y=True)
    kept = (y == 1) | (y == 8)
    X, y = X[kept][:310] / 16, y[kept][:310]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of liblinear's steps, and of the smoothed loss at the hinge's own weights
        svm = LinearSVC(loss="hinge", C=1 / 3, fit_intercept=False, tol=1e-8, max_iter=100_000).fit(X[:300], y[:300])
        yield lambda solver: uw.from_sklearn(svm, X[:300], y[:300], solver=solver, smoothing=1e-9).upweight(
            (X[300:301], y[300:301])
        )


def test_conjugate_gradients_that_stop_short_give_way_to_cholesky(spiky):
    with pytest.raises(uw.errors.NotConverged, match="solver='cholesky'"):
        spiky("block_cg")
    found, exact = spiky("auto"), spiky("cholesky")
    np.testing.assert_allclose(found.values, exact.values, rtol=1e-9)
    assert "Cholesky" in found.verdict
