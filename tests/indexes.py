"""Studies to index, the index of one, and everything it answers."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

import upweight as uw
from cases import classification, fitted_mlp
from networks import trained


def network(name: str = "mlp", **how):
    t = trained(name)
    how = {"loss": "cross_entropy", "curvature": "ekfac", "penalty": uw.L2(1e-3)} | how
    return uw.Study(t.model, t.data, **how), t.query


def built(study, folder, **how):
    return uw.Index.build(study, folder / "index", **({"progress": False, "rows_per_shard": 40} | how))


def every(index, query, **how) -> np.ndarray:
    """All effects an index gives, (m, n)."""
    found = index.query(query, k=10**6, **how)
    assert set(found.top_ids[0]) == set(found.bottom_ids[0])
    values = np.zeros_like(found.top)
    rows = np.searchsorted(np.sort(found.top_ids[0]), found.top_ids)
    np.put_along_axis(values, rows, found.top, 1)
    return values


def sklearn_study():
    problem = classification(60, 4, 5, 3)
    model = LogisticRegression(tol=1e-10, max_iter=3000).fit(problem.X, problem.y)
    return uw.from_sklearn(model, problem.X, problem.y), problem.query


def weighted_study():
    _, problem, study = fitted_mlp(40)
    weights = np.linspace(0.5, 1.5, 40) / 40
    return uw.Study(study.objective.model, (problem.X, problem.y), loss="cross_entropy", weights=weights, penalty=uw.L2(0.05), curvature="ekfac"), problem.query  # fmt: skip


def more(count: int, seed: int = 9):
    """New examples to append."""
    t = trained("mlp")
    return t.X[:count] + 0.1 * seed, t.y[:count]
