"""Study: a fitted model and its data, and every question about what would change if the data changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import nn

from upweight.adapters import Adapted
from upweight.adapters.torch import Form, adapt_module
from upweight.fitted import Fitted, Settings, StudySettings, prepare, read_settings, spelled_out
from upweight.gradients.coverage import coverage_of
from upweight.objective import Objective, Penalty
from upweight.parallel import Fold
from upweight.questions.question import MeasureLike, Question
from upweight.questions.trust import Trust, trust
from upweight.study.changes import ChangeQuestions
from upweight.study.inference import InferenceQuestions

if TYPE_CHECKING:
    import pandas as pd

    from upweight.evaluate.calibration import Calibration
    from upweight.evaluate.tune import Tuning
    from upweight.planning import Plan
    from upweight.review import WhatIf
    from upweight.show import Shown


class Study(ChangeQuestions, InferenceQuestions):
    """Ask a fitted model, which is never modified, what its training data did to it.

    Questions share their arguments: ``query`` is data in the form of the training data; ``measure`` is 'loss',
    'logit', 'margin', 'probability', 'prediction', 'mean' (E[y]), 'parameters' (no query), a callable (outputs, targets) → (m,), or
    over the whole query set 'accuracy', 'auc' or a callable; ``order`` is 'auto', 'newton' (leverage-corrected)
    or 'first'; ``aggregate`` is None, 'mean', 'sum' or 'set'. They answer with Effects (m, k), m measurements by k changes,
    in the measurement's own unit; positive means that the change raises it. They warn where an answer is less than it seems.

    Args:
        model: any ``nn.Module``; it is scored in eval mode and handed back as found.
        data: the training set in a fixed order: (X, y), a map-style dataset, an unshuffled loader, a dict of arrays.
        loss: 'cross_entropy', 'binary_cross_entropy' (on logits), 'squared_error' (½(f−y)², summed over outputs),
            'poisson', 'token_cross_entropy', ``uw.smooth_hinge(temperature)``, an ``nn`` loss module, or a callable (outputs, targets) → (b,).
        forward: (model, batch) → (outputs, targets), where batches are not (inputs, targets); ``uw.Randomised`` for one
            with chance in it, such as kept dropout or diffusion noise.
        parameters, weights: names or patterns of the tracked parameters; wᵢ of the objective Σwᵢℓᵢ + r (1/n each).
        penalty: r(θ), e.g. ``uw.L2(1e-2)`` for (λ/2)‖θ‖², PyTorch's weight_decay.
        protocol: what a refit does to the penalty: 'fixed_mean' (λ a point), 'fixed_total', or 'as_refit' (the adapter's).
        ids: a name for every training point; its pandas index or position by default.
        curvature: 'hessian' or 'ggn' (exact); 'ekfac', 'kfac', 'kfac_reduce' (positions averaged first), 'block_diagonal',
            'diagonal' or 'identity'; 'auto' is
            the Hessian of linear models and, where it is positive definite, of networks up to 4,096 parameters; of other
            such networks, or with an iterative solver, the Gauss-Newton matrix; else EK-FAC.
        solver: 'auto', 'cholesky', 'block_cg'; for networks also 'lissa', 'astra', 'lanczos', 'nystrom', 'woodbury';
            ``uw.Solver('lissa', steps=2000)`` for one with options.
        damping: λ, or ``uw.Relative(0.1)`` of each block's mean eigenvalue; 'auto': none for an exact matrix that is
            written out, else Relative(0.1); so too where Gauss-Newton stands in for a Hessian; for iterative solvers ten times EK-FAC's mean;
            for structured curvature also a filter, ``uw.Ridge``, ``uw.Segment`` or ``uw.Mixture``: see ``tune``.
        fisher, seed: labels of structured curvature: 'exact', 'sampled', 'empirical', or 'auto'.
        factor_share: of the training set, evenly spaced, that structured curvature is estimated from.
        products: how queries meet examples: 'written' or 'ghost' (exact), 'separable' or 'low_rank' (error measured), each
            where a layer allows it, or 'auto', the cheapest.
        batch_size: examples read at a time.
        precision: 'bfloat16' runs a float32 network's passes for structured curvature under autocast; sums stay float32.
        strict: refuse tracked parameters that no layer rule covers: see ``coverage``.
        ranks: ``uw.ranks()`` under torchrun: each rank takes a part of every pass, and all get the whole answer.
        memory, device: bytes a question may take beside model and data, or '4GB' (half of the machine's); where the model should be.

    Raises:
        InputError, ModelError, ConfigError, NumericalError: see ``upweight.errors``.

    Example:
        >>> import torch, upweight as uw
        >>> X = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64); y = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
        >>> line = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64).eval()
        >>> _ = line.weight.data.fill_(float((X[:, 0] @ y) / (X[:, 0] @ X[:, 0])))
        >>> study = uw.Study(line, (X, y.unsqueeze(1)), loss="squared_error")
        >>> study.drop(([[3.0]], [[5.0]]), measure="prediction").values.round(4).tolist()  # y(3) without each point
        [[0.1429, 0.6723, -2.8571]]
    """

    @spelled_out(StudySettings, Settings)
    def __init__(
        self,
        model: nn.Module,
        data: Any,
        *,
        loss: Any,
        forward: Callable[..., Any] | None = None,
        parameters: str | Sequence[str] = "*",
        weights: Any = None,
        penalty: Penalty = None,
        ids: Any = None,
        batch_size: int | str = "auto",
        device: str | torch.device | None = None,
        precision: str | None = None,
        ranks: Fold | None = None,
        **settings: Unpack[StudySettings],
    ) -> None:
        found = read_settings(settings, StudySettings, Study, precision=precision)
        form = Form(loss, forward, parameters, weights, penalty, batch_size, device, precision, ranks)
        self.fitted = prepare(adapt_module(model, data, form, ids), found)

    @classmethod
    def of(cls, adapted: Adapted, settings: Settings | None = None) -> Study:
        """A study of what an adapter returned."""
        return cls.around(prepare(adapted, settings or Settings()))

    @classmethod
    def around(cls, fitted: Fitted) -> Study:
        """A study of what has been made ready already."""
        study = cls.__new__(cls)
        study.fitted = fitted
        return study

    @property
    def objective(self) -> Objective:
        """The objective Q(θ; w) the parameters minimise."""
        return self.fitted.objective

    @property
    def protocol(self) -> str:
        """'fixed_mean' or 'fixed_total', resolved."""
        return self.fitted.protocol

    @property
    def coverage(self) -> dict[str, str]:
        """How the gradient of every tracked parameter is found: the layer type whose rule gives it from one pass, 'linear model', or,
        where no rule was confirmed, 'vmap' or 'one by one', which are slower and as exact."""
        return coverage_of(self.fitted.engine)

    def __repr__(self) -> str:
        o = self.objective
        kind = type(self.fitted.engine).__name__.removesuffix("Engine").lower()
        mode = "; left in train mode, scored in eval mode" if self.fitted.adapted.was_training else ""
        return f"Study of {o.count:,} training points and {o.space.size:,} parameters, loss {o.loss.name}, protocol {self.protocol}, {kind} gradients; {self.fitted.stationarity}{mode}."

    def _repr_html_(self) -> str:
        """What a notebook shows: the study in a sentence, and what to ask next; data are escaped."""
        asks = "drop(query), mislabeled(), check(query), trust(), report(path, query=query)"
        return f"<div><p>{escape(repr(self))}</p><p>Ask: <code>{asks}</code></p></div>"

    def trust(self) -> Trust:
        """How far answers can be believed: stationarity, curvature, solver residual, leverage, in words and numbers."""
        return trust(self.fitted)

    def plan(self, query: Any = 1, *, memory: int | float | str | None = None) -> Plan:
        """What every method would take for this query, before anything runs: FLOPs, time, factors, store, peak memory.

        Args:
            query: data in the form of the training data, or how many queries.
            memory: bytes it must fit in, as for ``Study``; the study's own by default.

        Returns:
            Plan: printed, a table with one row a method; .rows(), .to_pandas(), plan["ekfac"].peak in bytes.

        Raises:
            ConfigError: fewer than one query, or memory that is no number of bytes.

        Error and cost:
            Counted from the layers' shapes; time from rates measured on this machine and model, which takes a second. What
            depends on the data (ranks of truncations, steps of a solver) counts at its usual value.
        """
        from upweight.questions.planned import plan_of

        return plan_of(self.fitted, query, memory)

    def check(
        self,
        query: Any,
        *,
        refits: int = 30,
        measure: MeasureLike = "loss",
        order: str = "auto",
        seed: int = 0,
        seeds: int = 1,
        train: Callable[..., Any] | None = None,
        truth: str = "auto",
        progress: bool | None = None,
    ) -> Calibration:
        """Leave points out for real, refit, and compare with the prediction: slope, Pearson, Spearman, plot, and one sentence.

        Args:
            refits: how many points are left out: half spread over the logarithm of their rank by predicted size, half over the rank;
                all of them where there are fewer, which is said.
            seed, seeds: of the choice of points, and of the first retraining; how many retrainings of each, with ``train``.
            train: (weights, seed) → state dict, a ``uw.evaluate.Training``, or a ``uw.evaluate.Retraining`` that keeps what is
                finished: to refit your own way. Weights (n,) are 0 for the point left out; a mean loss ('fixed_mean') has them sum
                to the study's total (1 by default), else the rest stay as they were. Newton from θ̂ otherwise.
            truth: 'refit', 'pbrf' (the proximal Bregman response, of networks not at a minimum: it tells the error of solver and
                linearisation, and nothing about λ), or 'auto', the first where it can be had.
            progress: show a progress bar; None shows one on a terminal.

        Returns:
            Calibration: predicted and refitted changes (m, refits), slope and correlations with intervals, .sentence,
            .plot(), and with several seeds .noise, how many retrainings it would take to see each effect.

        Raises:
            NotConverged: a refit did not reach a minimum; pass ``train``.
        """
        from upweight.evaluate.calibration import check

        effects = self.drop(query, measure=measure, order=order)
        return check(self, effects, query, measure, refits, seed, seeds, train, truth, progress)

    def tune(
        self,
        query: Any,
        *,
        train: Callable[..., Any] | None = None,
        refits: int = 10,
        measure: MeasureLike = "loss",
        fishers: Sequence[str] | None = None,
        dampings: Sequence[float] | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Tuning:
        """Choose the Fisher estimator and the damping by retraining on random halves of the training set.

            Δφ ≈ −T f(F) Σᵢ(w′ᵢ − wᵢ)gᵢ   for ridges, one-segment SOURCE, and mixtures Σβ_k/(F + λ_k), β ≥ 0

        For structured curvature (EK-FAC, K-FAC, block-diagonal, diagonal). A retraining is predicted from one sum of
        gradients, so that a setting costs next to nothing; the cost is the retrainings and one fit a Fisher estimator.

        Args:
            query: at least two queries, unlike those that will be asked about: half choose, half judge.
            train: (weights, seed) → state dict, weights (n,) 2/n on the points kept and 0 elsewhere; retrain as you
                did, in a model of your own. Newton from θ̂ otherwise, where the model is small enough.
            refits: how many halves, at least 4.
            fishers: of 'exact', 'sampled', 'empirical'; all that the number of outputs allows by default.
            dampings: λ, and 1/rate, in mean eigenvalues; 0.001 to 100 by default.

        Returns:
            Tuning: .best, .score (on retrainings and queries that had no part in the choice), .regret, .table, and
            .study, which answers with the choice.

        Raises:
            ConfigError: exact curvature, too few refits or queries, or a state dict of another model.
            BudgetError: no ``train``, and a model too large to refit by Newton's method.
        """
        from upweight.evaluate.tune import tune

        question = Question(self.fitted, query, measure, "first")
        return tune(question, self.around, train, refits, fishers, dampings, seed, progress)

    def mislabeled(self, k: int = 100) -> pd.DataFrame:
        """The k training points most likely mislabelled, by self-influence [KL17 5.4].

        Returns:
            A frame with columns train, rank, label, predicted, self_influence, loss, loss_rank and confidence
            (label, predicted and confidence for classifiers): what self-influence must beat stands beside it.
        """
        from upweight.evaluate.mislabel import mislabeled

        return mislabeled(self.fitted, k)

    def what_if(self, decisions: Any, query: Any, *, refit: bool | None = None, order: str = "auto") -> WhatIf:
        """What following review decisions would do to the mean loss of a validation set.

            δ = −(H + ΔH)⁻¹ Σᵢ (w′ᵢ − wᵢ)gᵢ,  over the points and a copy, under its new label, of each relabelled one

        Args:
            decisions: what a report exported as CSV or JSON, or a frame or list of dicts: train, decision, label.
            query: the validation set.
            refit: also minimise the changed objective for real; None does so where the model is small enough.
            order: of the prediction, as in ``reweight``.

        Returns:
            WhatIf: .predicted and .refitted changes of the mean loss; negative means that the loss falls.

        Raises:
            DecisionError: decisions about other data, or that cannot be followed.
            LabelError: an unknown label.

        Error and cost:
            As ``reweight``: two Newton steps for linear models. A refit is a few factorisations, p³/3 each.
        """
        from upweight.review import what_if

        return what_if(self.fitted, decisions, query, refit, order)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        query: Any = None,
        display: Shown | str | None = None,
        groups: Sequence[Any] | None = None,
        truth: Sequence[Any] | None = None,
        refits: int = 30,
        calibration: Calibration | None = None,
        train: Callable[..., Any] | None = None,
        title: str | None = None,
        commands: Sequence[str] = (),
    ) -> str:
        """Write one self-contained HTML page: how far to trust the study, which labels look wrong, what helped and hurt.

        The page opens from disk and loads nothing. Suspects are decided about in it; what it exports is read by ``what_if``.

        Args:
            query: what is asked about, with targets; without it the page has suspects only, and no refits.
            display: how points look: 'images', 'table' or 'series' of the study's own inputs, or an object of
                ``uw.show``; a table of them by default where an input is at most 12 numbers.
            groups: one label a training point, whose whole groups are left out.
            truth: training points known to be mislabelled, marked on the page.
            refits: how many points are really left out; 0 for none. A large network is refitted with ``train`` only.
            calibration: what ``check`` has returned, in place of making refits.
            train: to refit your own way, as for ``check``.
            title, commands: the page's headline; how the study can be made again, for its last section.

        Returns:
            The path written.

        Raises:
            ShapeError: looks that do not match the points.
            ConfigError: an unknown display, or groups without a query.
            StoreError: the page cannot be written.

        Error and cost:
            One pass for self-influence, one a batch of queries, up to 1,000 relabellings, and the refits.
            Below 10 MB up to 100,000 points: looks fill what room is left, the first suspects first.
        """
        from upweight.report.gathered import Wanted
        from upweight.report.page import write_report

        wanted = Wanted(query, display, groups, truth, refits, calibration, train, title, tuple(commands))
        return write_report(self.fitted, Path(path), wanted)
