"""Scores of the other libraries on the same models: at a damping of ours and at their defaults, their faults left in and taken out.

.peers/bin/python benchmarks/quality/peers.py concrete 3        a setting, and for how many models
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from functools import partial

import numpy as np
import torch
from quality.kept import Kept
from quality.problem import PROBLEMS, Problem, each_loss
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

BATCH = 512
CG_STEPS = 10
"""dattri's default."""


def kronfluence(kept: Kept, problem: Problem, k: int, strategy: str, empirical: bool, dampings: dict) -> None:
    """One fit, its seconds counted with each damping's scores; None is kronfluence's own tenth of the mean eigenvalue."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    if all(kept.path(name, str(k)).exists() for name in dampings):
        return
    started, task, n = time.process_time(), kronfluence_task(), len(problem.train[1])
    train, query = TensorDataset(*problem.train), TensorDataset(*problem.query)
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(problem.models(k + 1)[k], task)
        analyzer = Analyzer("network", model, task, cpu=True, output_dir=folder, disable_tqdm=True)
        factors = FactorArguments(strategy, use_empirical_fisher=empirical)
        torch.manual_seed(k)
        analyzer.fit_all_factors(strategy, train, per_device_batch_size=BATCH, factor_args=factors)
        fitted = time.process_time() - started
        for name, damping in dampings.items():
            started = time.process_time()
            analyzer.compute_pairwise_scores(
                name,
                strategy,
                query,
                train,
                per_device_query_batch_size=len(query),
                per_device_train_batch_size=BATCH,
                score_args=ScoreArguments(damping_factor=damping),
            )
            scores = analyzer.load_pairwise_scores(name)["all_modules"].numpy() / n
            kept.add(name, str(k), scores, fitted + time.process_time() - started)


def kronfluence_task():
    """Labels drawn from the model: its distribution over classes, or a normal one of variance one about its output."""
    from kronfluence.task import Task

    class Network(Task):
        def compute_train_loss(self, batch, model, sample=False):
            outputs, targets = model(batch[0]), batch[1]
            if sample:
                with torch.no_grad():
                    one = outputs.shape[1] == 1
                    targets = torch.normal(outputs, 1.0) if one else outputs.softmax(1).multinomial(1).squeeze(1)
            return each_loss(outputs, targets).sum()

        def compute_measurement(self, batch, model):
            return each_loss(model(batch[0]), batch[1]).sum()

    return Network()


def pydvl_ekfac(problem: Problem, k: int, **settings) -> np.ndarray:
    """Its EK-FAC, of cross-entropy only."""
    from pydvl.influence.torch import EkfacInfluence

    inverse = EkfacInfluence(problem.models(k + 1)[k], **settings)
    inverse = inverse.fit(DataLoader(TensorDataset(*problem.train), batch_size=BATCH))
    return pydvl_scores(inverse, problem)


def pydvl_solver(problem: Problem, k: int, kind: str, **settings) -> np.ndarray:
    """One of its solvers on the Hessian."""
    import pydvl.influence.torch as library

    inverse = getattr(library, kind)(problem.models(k + 1)[k], mean_loss, **settings)
    return pydvl_scores(
        inverse.fit(DataLoader(TensorDataset(*problem.train), batch_size=len(problem.train[1]))), problem
    )


def pydvl_scores(inverse, problem: Problem) -> np.ndarray:
    """Influences a part of the training set at a time, which would not fit whole."""
    parts = zip(*(one.split(BATCH) for one in problem.train), strict=True)
    return torch.cat([inverse.influences(*problem.query, *part).detach() for part in parts], 1).numpy()


def mean_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean over the batch."""
    return each_loss(outputs, targets).mean()


def dattri_task(problem: Problem, states, model):
    """Its task: the mean loss of a batch, which it also takes one example at a time."""
    from dattri.task import AttributionTask

    def loss(params, data):
        inputs, targets = data
        one = inputs.ndim == 1
        outputs = functional_call(model, params, (inputs.unsqueeze(0) if one else inputs,))
        return each_loss(outputs, targets.unsqueeze(0) if one else targets).mean()

    return AttributionTask(loss_func=loss, model=model, checkpoints=states)


def dattri(problem: Problem, k: int, kind: str, corrected: bool = False, **settings) -> np.ndarray:
    """Conjugate gradients, Arnoldi or EK-FAC; the whole training set is one batch, for it sums inverses of batches."""
    from dattri.algorithm import influence_function
    from quality.dattri_corrected import corrected_ekfac

    model = problem.models(k + 1)[k]
    task = dattri_task(problem, model.state_dict(), model)
    made = corrected_ekfac() if corrected else getattr(influence_function, kind)
    attributor, whole = made(task=task, **settings), DataLoader(TensorDataset(*problem.train), len(problem.train[1]))
    attributor.cache(whole)
    with torch.no_grad():
        return attributor.attribute(whole, DataLoader(TensorDataset(*problem.query), len(problem.query[1]))).T.numpy()


def dattri_tracin(problem: Problem) -> np.ndarray:
    """TracIn over the checkpoints of the first model, at equal rates."""
    from dattri.algorithm.tracin import TracInAttributor

    model = problem.build()
    count = len(np.load(problem.folder / "checkpoints.npz").files) // len(model.state_dict())
    states = problem.states("checkpoints", count)
    task = dattri_task(problem, states, model)
    attributor = TracInAttributor(task, weight_list=torch.ones(count), normalized_grad=False)
    loaders = (DataLoader(TensorDataset(*data), BATCH) for data in (problem.train, problem.query))
    with torch.no_grad():
        return attributor.attribute(*loaders).T.numpy()


def trak(problem: Problem, count: int, width: int) -> np.ndarray:
    """traker over the first models."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    models = problem.models(count)
    size = sum(p.numel() for p in models[0].parameters())
    loaders = [
        [tuple(parts) for parts in zip(*(one.split(BATCH) for one in data), strict=True)]
        for data in (problem.train, problem.query)
    ]
    with tempfile.TemporaryDirectory() as folder:
        projector = BasicProjector(
            size, width, seed=0, proj_type=ProjectionType.rademacher, device="cpu", block_size=64, dtype=torch.float32
        )
        traker = TRAKer(
            model=models[0],
            task="image_classification",
            train_set_size=len(problem.train[1]),
            save_dir=folder,
            device="cpu",
            projector=projector,
            proj_dim=width,
            use_half_precision=False,
            logging_level=40,
        )
        for place, model in enumerate(models):
            traker.load_checkpoint(model.state_dict(), model_id=place)
            for batch in loaders[0]:
                traker.featurize(batch=batch, num_samples=len(batch[0]))
        traker.finalize_features()
        for place, model in enumerate(models):
            traker.start_scoring_checkpoint("queries", model.state_dict(), place, num_targets=len(problem.query[1]))
            for batch in loaders[1]:
                traker.score(batch=batch, num_samples=len(batch[0]))
        return np.asarray(traker.finalize_scores("queries")).T


def main(name: str, models: int) -> None:
    """Everything that is not kept yet."""
    warnings.simplefilter("ignore")
    problem = PROBLEMS[name]()
    kept, λ = Kept(problem.folder), problem.damping
    classes = problem.loss == "cross_entropy"
    for k in range(min(models, problem.count)):
        dampings = {"kronfluence": 1e-8, "kronfluence-tenth": None, "kronfluence-λ": λ}
        kronfluence(kept, problem, k, "ekfac", False, dampings)
    kronfluence(kept, problem, 0, "ekfac", True, {"kronfluence-empirical": None})
    kronfluence(kept, problem, 0, "kfac", False, {"kronfluence-kfac": None})
    kronfluence(kept, problem, 0, "identity", False, {"kronfluence-identity": None})
    if classes:
        kept.put("pydvl-ekfac", "0", partial(pydvl_ekfac, problem, 0))
        for k in range(min(models, 3)):
            equal = partial(pydvl_ekfac, problem, k, update_diagonal=True, hessian_regularization=λ)
            kept.put("pydvl-ekfac-λ", str(k), equal)
    if classes:
        for count in (1, 3):
            kept.put("traker", "0" if count == 1 else f"0-{count - 1}", partial(trak, problem, count, 512))
    for kind in ("ArnoldiInfluence", "NystroemSketchInfluence"):
        short = f"pydvl-{kind.removesuffix('Influence').lower()}"
        rank = {"rank": 10}  # ArnoldiInfluence's default; the other has none
        kept.put(short, "0", partial(pydvl_solver, problem, 0, kind, regularization=λ, **rank))
    kept.put("dattri-ekfac", "0", partial(dattri, problem, 0, "IFAttributorEKFAC"))
    kept.put("dattri-ekfac-λ", "0", partial(dattri, problem, 0, "IFAttributorEKFAC", damping=λ))
    for k in range(min(models, 3)):
        corrected = partial(dattri, problem, k, "IFAttributorEKFAC", corrected=True, damping=λ)
        kept.put("dattri-ekfac-corrected-λ", str(k), corrected)
    kept.put("dattri-arnoldi", "0", partial(dattri, problem, 0, "IFAttributorArnoldi"))
    kept.put("dattri-tracin", "0", partial(dattri_tracin, problem))
    put_dattri_cg(kept, problem)


def put_dattri_cg(kept: Kept, problem: Problem) -> None:
    """At its defaults, then at the setting's λ and as many steps as block conjugate gradients need."""
    kept.put("dattri-cg", "0", partial(dattri, problem, 0, "IFAttributorCG"))
    settings = {"regularization": problem.damping, "max_iter": 4 * CG_STEPS}
    kept.put("dattri-cg-λ", "0", partial(dattri, problem, 0, "IFAttributorCG", **settings))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
