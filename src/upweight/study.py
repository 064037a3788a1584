"""Study: a fitted model and its data, and every question about what would change if the data changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from upweight._typing import Index, Tensor
from upweight.adapters import Adapted
from upweight.adapters.sklearn import adapt_sklearn
from upweight.adapters.torch import Form, adapt_module
from upweight.errors import ApproximationWarning
from upweight.fitted import Fitted, Settings, prepare
from upweight.influence.effects import Effects
from upweight.influence.newton import NewtonStep
from upweight.objective import Objective, Penalty
from upweight.questions import points, sets
from upweight.questions.ask import Ask
from upweight.questions.perturbation import InputGradient, perturb
from upweight.questions.trust import Trust, trust

if TYPE_CHECKING:
    import pandas as pd

    from upweight.evaluate.calibration import Calibration

MeasureName = str | Callable[[Tensor, Tensor], Tensor]


class Study:
    """Ask a fitted model what its training data did to it. The model is never modified.

    Args:
        model: any ``nn.Module``; it is scored in eval mode and handed back as found.
        data: the training set in a fixed order: (X, y), a map-style dataset, a loader that does not
            shuffle, or a dict of arrays (with ``forward``).
        loss: 'cross_entropy', 'binary_cross_entropy' (on logits), 'squared_error' (½(f−y)², summed over
            outputs), 'poisson', ``uw.smooth_hinge(temperature)``, an ``nn`` loss module, or a callable
            (outputs, targets) → (b,).
        forward: (model, batch) → (outputs, targets), where batches are not (inputs, targets).
        parameters: names or patterns of the tracked parameters; the rest are held fixed.
        weights: wᵢ of the objective Σwᵢℓᵢ + r; 1/n each by default.
        penalty: r(θ), e.g. ``uw.L2(1e-2)`` for (λ/2)‖θ‖², PyTorch's weight_decay.
        protocol: what a refit does to the penalty: 'fixed_mean', 'fixed_total', or 'as_refit' (the adapter's).
        ids: a name for every training point; the pandas index or the position by default.
        curvature: 'hessian' (exact, the default) or 'ggn'.
        solver: 'auto', 'cholesky' or 'block_cg'.
        damping: λ added to the curvature; 'auto' adds none to an exact Hessian.
        batch_size: examples read at a time; no result depends on it.
        memory: bytes the exact path may take; half of the machine's by default.
        device: where the model is expected to be.

    Raises:
        InputError, ModelError, ConfigError, NumericalError: see ``upweight.errors``; each message says
            what was found, what was expected and what to do next.

    Example:
        >>> import torch, upweight as uw
        >>> X = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64); y = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
        >>> line = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64).eval()
        >>> _ = line.weight.data.fill_(float((X[:, 0] @ y) / (X[:, 0] @ X[:, 0])))
        >>> study = uw.Study(line, (X, y.unsqueeze(1)), loss="squared_error")
        >>> effects = study.drop(([[3.0]], [[5.0]]), measure="prediction")  # y(3) without each point
        >>> effects.values.round(4).tolist()
        [[0.1429, 0.6723, -2.8571]]
    """

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
        protocol: str = "as_refit",
        ids: Sequence[Any] | None = None,
        curvature: str = "auto",
        solver: str = "auto",
        damping: float | str | None = "auto",
        batch_size: int | str = "auto",
        memory: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        settings = Settings(protocol, curvature, solver, damping, memory)
        form = Form(loss, forward, parameters, weights, penalty, batch_size, device)
        self.fitted = prepare(adapt_module(model, data, form, ids), settings)

    @classmethod
    def of(cls, adapted: Adapted, settings: Settings | None = None) -> Study:
        """A study of what an adapter returned."""
        study = cls.__new__(cls)
        study.fitted = prepare(adapted, settings or Settings())
        return study

    @property
    def objective(self) -> Objective:
        """The objective Q(θ; w) the parameters minimise."""
        return self.fitted.objective

    @property
    def protocol(self) -> str:
        """'fixed_mean' or 'fixed_total', resolved."""
        return self.fitted.protocol

    def __repr__(self) -> str:
        o = self.objective
        kind = type(self.fitted.engine).__name__.removesuffix("Engine").lower()
        return f"Study of {o.count:,} training points and {o.space.size:,} parameters, loss {o.loss.name}, protocol {self.protocol}, {kind} gradients; {self.fitted.stationarity}."

    def drop(
        self,
        query: Any = None,
        *,
        which: Index | None = None,
        measure: MeasureName = "loss",
        order: str = "auto",
        aggregate: str | None = None,
        estimand: str = "response",
    ) -> Effects:
        """Predicted change of each query's measurement if a training point is left out and the model refitted.

            δᵢ = wᵢH⁻¹Jᵢᵀ(I − wᵢΛᵢAᵢ)⁻¹∇_ηℓᵢ,  Aᵢ = JᵢH⁻¹Jᵢᵀ;   effect = φ(η_q + J_qδᵢ) − φ(η_q)

        For a loss, positive means the loss would rise: the point is helpful.

        Args:
            query: data in the form of the training data; None with measure='parameters'.
            which: training points to leave out, by id or position; all by default.
            measure: 'loss', 'logit', 'margin', 'probability', 'prediction', 'parameters', 'accuracy',
                'auc', or a callable.
            order: 'newton' (leverage-corrected), 'first' (−TH⁻¹Cᵀ), or 'auto', the best affordable.
            aggregate: None, 'mean' or 'sum' over queries; 'set' for a callable over the whole set.
            estimand: 'response', the change of the proximal response (gᵢ), or 'newton', of the Newton
                iterate (gᵢ − Hᵢs); they agree at a minimum.

        Returns:
            Effects (m, k), in the unit of the measurement.

        Error and cost:
            Exact for OLS and ridge. 'newton' errs O(1/n²), where 'first' misses a factor 1/(1 − leverage).
            One dense factorisation, p³/3; then n·p a query, and n·p²/o for the leverages.
        """
        return points.drop(Ask(self.fitted, query, measure, order, aggregate, estimand), which)

    def upweight(
        self,
        query: Any = None,
        *,
        which: Index | None = None,
        measure: MeasureName = "loss",
        aggregate: str | None = None,
        estimand: str = "response",
    ) -> Effects:
        """I_up,loss: the derivative of each measurement with respect to a training point's weight.

            −∇φᵀH⁻¹∇ℓᵢ    [KL17 eq. 2]

        The paper's sign: negative means more of the point lowers the loss. Per unit of weight, so a
        drop is −wᵢ times this, to first order. Under 'fixed_mean' L includes its share of the penalty.
        """
        return points.upweight(Ask(self.fitted, query, measure, "first", aggregate, estimand), which)

    def parameters(self, which: Index | None = None, *, estimand: str = "response") -> Effects:
        """I_up,params: the derivative of the parameters with respect to training points' weights.

            −H⁻¹∇ℓᵢ    [KL17 A8-A10]

        Returns:
            Effects (k, p): one row a training point, columns named by parameter. For the parameters
            after a point is left out ask ``drop(measure='parameters')``.
        """
        return points.parameters(Ask(self.fitted, None, "parameters", "first", None, estimand), which)

    def drop_group(
        self,
        groups: Sequence[Any] | np.ndarray,
        query: Any = None,
        *,
        measure: MeasureName = "loss",
        order: str = "auto",
        aggregate: str | None = None,
    ) -> Effects:
        """Predicted change if a whole group is left out: the Newton step on what remains.

            δ_S = (H − H_S)⁻¹ g_S

        Args:
            groups: a list of lists of training points, or one label a training point.

        Error and cost:
            With 20 % of the data removed the first order may be off by two thirds, this by a tenth.
            One p³/3 factorisation a group, or (|S|o)² p where the group is small.
        """
        return sets.drop_group(Ask(self.fitted, query, measure, order, aggregate), groups)

    def reweight(
        self,
        weights: Any,
        query: Any = None,
        *,
        measure: MeasureName = "loss",
        order: str = "auto",
        aggregate: str | None = None,
    ) -> Effects:
        """Predicted change if the training weights become these: rows (k, n) in the unit of the study's weights."""
        return sets.reweight(Ask(self.fitted, query, measure, order, aggregate), weights)

    def change_penalty(
        self,
        penalty: Penalty,
        query: Any = None,
        *,
        measure: MeasureName = "loss",
        order: str = "auto",
        aggregate: str | None = None,
    ) -> Effects:
        """Predicted change if the model were refitted with another penalty: a λ, ``uw.L2``, or a list of them."""
        return sets.change_penalty(Ask(self.fitted, query, measure, order, aggregate), penalty)

    def relabel(
        self,
        labels: Mapping[Any, Any],
        query: Any = None,
        *,
        measure: MeasureName = "loss",
        order: str = "auto",
        aggregate: str | None = None,
    ) -> Effects:
        """Predicted change if a training point had another label: {point: new label}, one change a point.

        change row wᵢ(gᵢ′ − gᵢ)
        """
        return points.relabel(Ask(self.fitted, query, measure, order, aggregate), labels)

    def replace(
        self,
        which: Index,
        data: Any,
        query: Any = None,
        *,
        measure: MeasureName = "loss",
        order: str = "auto",
        aggregate: str | None = None,
    ) -> Effects:
        """Predicted change if training points were replaced by new examples, one for one."""
        return points.replace_points(Ask(self.fitted, query, measure, order, aggregate), which, data)

    def add(
        self,
        data: Any,
        query: Any = None,
        *,
        measure: MeasureName = "loss",
        order: str = "auto",
        aggregate: str | None = None,
    ) -> Effects:
        """Predicted change if a new example were added to the training set with weight Σw/n, one change an example."""
        return points.add(Ask(self.fitted, query, measure, order, aggregate), data)

    def perturb(
        self, which: Index, query: Any, *, measure: MeasureName = "loss", aggregate: str | None = None
    ) -> InputGradient:
        """I_pert,loss: the gradient of each measurement with respect to training inputs.

            −∇φᵀH⁻¹ wᵢ∂∇ℓᵢ/∂xᵢ    [KL17 eq. 5]

        Returns:
            InputGradient (m, k, *input): the measurement's change per unit change of an input.
        """
        return perturb(Ask(self.fitted, query, measure, "first", aggregate), which)

    def self_influence(self) -> np.ndarray:
        """wᵢ gᵢᵀH⁻¹gᵢ ≥ 0, (n,): by how much its own loss would rise, to first order, were a point left out."""
        return points.self_influence(self.fitted)

    def leverage(self) -> np.ndarray:
        """wᵢ tr(ΛᵢJᵢH⁻¹Jᵢᵀ), (n,): the hat value of least squares, the share of its fit a point owns."""
        return points.leverage(self.fitted)

    def newton_step(self, which: Index, epsilon: float) -> NewtonStep:
        """The undropped Newton step after adding ε of a training point, and its split in two.

            −[H + ε∇²L]⁻¹[g + ε∇L] ≈ −H⁻¹g + ε·I_up,params(z)    [KL17 A7, A11]

        Args:
            epsilon: weight added to the point, in the unit of the weights; −wᵢ leaves it out.

        Returns:
            NewtonStep with .step (exact), .constant, .contribution and .remainder, each (k, p).
        """
        return sets.newton_step(self.fitted, which, epsilon)

    def trust(self) -> Trust:
        """How far answers can be believed: stationarity, curvature, solver residual, leverage, in words and numbers."""
        return trust(self.fitted)

    def check(
        self,
        query: Any,
        *,
        refits: int = 30,
        measure: MeasureName = "loss",
        order: str = "auto",
        seed: int = 0,
        train: Callable[..., Any] | None = None,
        progress: bool = False,
    ) -> Calibration:
        """Leave points out for real, refit, and compare with the prediction: slope, Pearson, Spearman, plot.

        Args:
            refits: how many points are left out, half at random and half the most influential.
            train: (weights, seed) → state dict, to refit your own way; Newton from θ̂ otherwise.
        """
        from upweight.evaluate.calibration import check

        return check(
            self.fitted,
            self.drop(query, measure=measure, order=order),
            Ask(self.fitted, query, measure, order),
            refits,
            seed,
            train,
            progress,
        )

    def mislabeled(self, k: int = 100) -> pd.DataFrame:
        """The k training points most likely mislabelled, by self-influence, with loss and confidence beside it."""
        from upweight.evaluate.mislabel import mislabeled

        return mislabeled(self.fitted, k)

    def report(self, path: str, *, query: Any, images: Any = None, truth: Any = None, refits: int = 30) -> str:
        """Write one self-contained HTML page: suspects, and predicted against refitted changes."""
        from upweight.report.page import write_report

        return write_report(self, path, query=query, images=images, truth=truth, refits=refits)


def from_sklearn(
    fitted: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    ids: Sequence[Any] | None = None,
    protocol: str = "as_refit",
    solver: str = "auto",
    damping: float | str | None = "auto",
    memory: int | None = None,
) -> Study:
    """A study of a fitted LinearRegression, Ridge or LogisticRegression, or of a Pipeline that ends in one.

    Args:
        fitted: the fitted estimator.
        X, y: what it was fitted on, transformed by nothing; sparse X is read a batch at a time.
        sample_weight: as given to fit.

    Returns:
        A Study of the objective the estimator minimised, on the scale Σwᵢ = 1; queries and labels are in
        the user's terms. Refitting keeps the total penalty (C, alpha): protocol 'fixed_total'.

    Raises:
        ModelError: the estimator is unfitted or not supported.
        InputError: X has other columns than the fit, or y an unknown class.
    """
    return Study.of(
        adapt_sklearn(fitted, (X, y), sample_weight, ids),
        Settings(protocol, solver=solver, damping=damping, memory=memory),
    )


__all__ = ["ApproximationWarning", "Fitted", "Study", "from_sklearn", "warnings"]
