"""Scores of every method of upweight on one setting.

python benchmarks/quality/ours.py concrete 30        a setting, and for how many models
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from quality.kept import Kept
from quality.problem import PROBLEMS, Problem
from quality.truth import training_of

import upweight as uw
from upweight.evaluate import Retraining
from upweight.evaluate.subsets import halves

TENTH = uw.Relative(0.1)
TUNING_SEED, REFITS = 500, 10
"""Of the retrainings that choose the filter: other halves, another seed and other queries than the truth's."""

SOLVER = uw.Solver("block_cg", tolerance=1e-4)
"""Of the Gauss-Newton answer: scores then carry an error of this size times the condition."""

GAUSS_NEWTON = 3
"""Models of the Gauss-Newton answer, which costs ten times the others."""

WIDTH = 512
"""Numbers that TRAK keeps of a gradient."""


def study(problem: Problem, k: int = 0, **settings: Any) -> uw.Study:
    """A study of the k-th model, with the weight decay it was trained with unless another penalty is given."""
    model = problem.models(k + 1)[k]
    return uw.Study(model, problem.train, loss=problem.loss, **{"penalty": uw.L2(problem.decay)} | settings)


def influence(problem: Problem, k: int, **settings: Any) -> np.ndarray:
    """First-order drop of every query's loss."""
    return study(problem, k, **settings).drop(problem.query, order="first").values


def checkpoints(problem: Problem) -> tuple[list[Any], list[float]]:
    """The objective at every checkpoint, and learning rate times steps since the one before; momentum .9 makes ten of one."""
    objective = study(problem, curvature="identity").objective
    count = len(np.load(problem.folder / "checkpoints.npz").files) // len(problem.build().state_dict())
    steps = problem.epochs * -(-len(problem.train[1]) // problem.batch)
    rates = [10 * problem.rate * steps / count] * count
    return [uw.methods.at(objective, state) for state in problem.states("checkpoints", count)], rates


def loss(problem: Problem, k: int) -> np.ndarray:
    """Each training point's own loss, whatever the query."""
    from upweight.methods.tail_patch import values

    own = values(study(problem, k, curvature="identity").objective).numpy()
    return np.tile(own, (len(problem.query[1]), 1))


def tuned(problem: Problem, retraining: Retraining) -> tuple[str, Any]:
    """The Fisher estimator and the filter that ``study.tune`` chooses; what it says of them is kept."""
    found = study(problem, curvature="ekfac").tune(
        problem.tuning, train=retraining, measure=problem.measure, refits=REFITS, seed=TUNING_SEED, progress=False
    )
    (problem.folder / "tuning.json").write_text(json.dumps({"words": found.words}), "utf-8")
    return found.best.fisher, found.best.filter


def by_checkpoints(method: Callable[..., torch.Tensor], problem: Problem) -> np.ndarray:
    """TracIn or SOURCE over the checkpoints of the first model."""
    steps, rates = checkpoints(problem)
    return method(steps, problem.query, rates).numpy()


STRUCTURED: dict[str, dict[str, Any]] = {
    "identity": {"curvature": "identity"},
    "ekfac": {"curvature": "ekfac"},
    "ekfac-sampled": {"curvature": "ekfac", "damping": TENTH, "fisher": "sampled"},
    "ekfac-empirical": {"curvature": "ekfac", "damping": TENTH, "fisher": "empirical"},
    "kfac": {"curvature": "kfac", "damping": TENTH},
    "kfac-λ": {"curvature": "kfac", "damping": None},
    "ekfac-λ": {"curvature": "ekfac", "damping": None},
    "ekfac-sampled-bare": {"curvature": "ekfac", "damping": TENTH, "fisher": "sampled", "penalty": None},
    "ekfac-empirical-bare": {"curvature": "ekfac", "damping": TENTH, "fisher": "empirical", "penalty": None},
    "ekfac-λ-bare": {"curvature": "ekfac", "damping": None, "penalty": None},
}
"""A damping of None stands for the λ of the setting."""

FEW = {"kfac": 1, "kfac-λ": 1} | {name: 3 for name in STRUCTURED if name.startswith("ekfac-")}
"""Models beyond which a method is not repeated."""


def main(name: str, models: int) -> None:
    """Everything that is not kept yet."""
    warnings.simplefilter("ignore")
    problem = PROBLEMS[name]()
    kept, λ, models = Kept(problem.folder), problem.damping, min(models, problem.count)
    rng = np.random.default_rng(0)
    kept.put("random", "0", lambda: rng.standard_normal((len(problem.query[1]), len(problem.train[1]))))
    kept.put("loss", "0", lambda: loss(problem, 0))
    last = str(2 * (len(problem.sizes) - 2))
    plain = partial(study, problem, curvature="identity")
    kept.put(
        "similarity",
        "0",
        lambda: uw.methods.representation_similarity(plain().objective, problem.query, last).numpy(),
    )
    if problem.texts:
        documents, queries = problem.texts
        kept.put("bm25", "0", lambda: uw.methods.bm25(documents, queries))
    for method, settings in STRUCTURED.items():
        wanted = settings | ({"damping": λ} if settings.get("damping", 0) is None else {})
        for k in range(min(models, FEW.get(method, models))):
            kept.put(method, str(k), partial(influence, problem, k, **wanted))
    kept.put("tracin", "0", partial(by_checkpoints, uw.methods.tracin, problem))
    kept.put("source", "0", partial(by_checkpoints, uw.methods.source, problem))
    put_tuned(kept, problem, models)
    put_trak(kept, problem, models)
    put_gauss_newton(kept, problem, models)


def put_tuned(kept: Kept, problem: Problem, models: int) -> None:
    """The filter chosen on the first model, for all of them; choosing is timed here, its retrainings are counted by the page."""
    found: list[Any] = []
    retraining = Retraining(training_of(problem), problem.folder / "tuning", road="one_by_one", jobs=1)

    def first() -> np.ndarray:
        found.append(tuned(problem, retraining))
        return influence(problem, 0, curvature="ekfac", fisher=found[0][0], damping=found[0][1])

    missing = [k for k in range(models) if not kept.path("tuned", str(k)).exists()]
    if not missing:
        return
    equal = torch.full((len(problem.train[1]),), 1 / len(problem.train[1]), dtype=torch.float64)
    retraining.all(halves(equal, REFITS, TUNING_SEED).numpy(), TUNING_SEED)
    kept.path("tuned", "0").unlink(missing_ok=True)
    kept.put("tuned", "0", first)
    for k in missing[1 if missing[0] == 0 else 0 :]:
        fisher, chosen = found[0]
        kept.put("tuned", str(k), partial(influence, problem, k, curvature="ekfac", fisher=fisher, damping=chosen))


def put_gauss_newton(kept: Kept, problem: Problem, models: int) -> None:
    """The damped Gauss-Newton answer by block conjugate gradients: at its own default λ, at the setting's, and at larger ones."""
    dampings: dict[str, float | str] = {"ggn-λ": problem.damping, "ggn": "auto"}
    for times in (10, 100):  # with EK-FAC's answer beside
        dampings[f"ggn-{times}λ"] = times * problem.damping
        own = partial(influence, problem, 0, curvature="ekfac", damping=times * problem.damping)
        kept.put(f"ekfac-{times}λ", "0", own)
    for method, damping in dampings.items():
        for k in range(min(models, GAUSS_NEWTON if method in ("ggn", "ggn-λ") else 1)):
            kept.put(
                method,
                str(k),
                partial(influence, problem, k, curvature="ggn", solver=SOLVER, damping=damping),
            )


def put_trak(kept: Kept, problem: Problem, models: int) -> None:
    """TRAK over the first models; of classifiers only."""
    if problem.loss == "squared_error":
        return
    for count in (1, 3, 10):
        if count <= models and problem.count >= count:
            objectives = [study(problem, k, curvature="identity").objective for k in range(count)]
            name = "0" if count == 1 else f"0-{count - 1}"
            kept.put("trak", name, lambda o=objectives: uw.methods.trak(o, problem.query, WIDTH).numpy())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
