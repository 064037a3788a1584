"""Study: a fitted model and its data, and every question about what would change if the data changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from torch import nn

from upweight._typing import Index
from upweight.adapters import Adapted
from upweight.adapters.torch import Form, adapt_module
from upweight.curvature import Relative
from upweight.fitted import Settings, prepare
from upweight.influence.effects import Effects
from upweight.influence.newton import NewtonStep
from upweight.influence.parameters import ParameterInfluence
from upweight.objective import Objective, Penalty
from upweight.questions import points, whole
from upweight.questions.perturbation import InputGradient, perturb
from upweight.questions.question import How, MeasureLike, Question
from upweight.questions.trust import Trust, trust

if TYPE_CHECKING:
    import pandas as pd

    from upweight.evaluate.calibration import Calibration


class Study:
    """Ask a fitted model, which is never modified, what its training data did to it.

    Questions share their arguments: ``query`` is data in the form of the training data; ``measure`` is 'loss',
    'logit', 'margin', 'probability', 'prediction', 'parameters' (no query), a callable (outputs, targets) → (m,), or
    over the whole query set 'accuracy', 'auc' or a callable; ``order`` is 'auto', 'newton' (leverage-corrected)
    or 'first'; ``aggregate`` is None, 'mean', 'sum' or 'set'. They answer with Effects (m, k), m measurements by k changes,
    in the measurement's own unit; positive means that the change raises it. They warn where an answer is less than it seems.

    Args:
        model: any ``nn.Module``; it is scored in eval mode and handed back as found.
        data: the training set in a fixed order: (X, y), a map-style dataset, an unshuffled loader, a dict of arrays.
        loss: 'cross_entropy', 'binary_cross_entropy' (on logits), 'squared_error' (½(f−y)², summed over outputs),
            'poisson', ``uw.smooth_hinge(temperature)``, an ``nn`` loss module, or a callable (outputs, targets) → (b,).
        forward: (model, batch) → (outputs, targets), where batches are not (inputs, targets).
        parameters, weights: names or patterns of the tracked parameters; wᵢ of the objective Σwᵢℓᵢ + r (1/n each).
        penalty: r(θ), e.g. ``uw.L2(1e-2)`` for (λ/2)‖θ‖², PyTorch's weight_decay.
        protocol: what a refit does to the penalty: 'fixed_mean' (λ a point), 'fixed_total', or 'as_refit' (the adapter's).
        ids: a name for every training point; its pandas index or position by default.
        curvature: 'hessian' or 'ggn' (exact); 'ekfac', 'kfac', 'block_diagonal', 'diagonal' or 'identity'; 'auto' is
            the Hessian where it fits, else EK-FAC.
        solver: 'auto', 'cholesky' or 'block_cg'.
        damping: λ, or ``uw.Relative(0.1)`` of each block's mean eigenvalue; 'auto': none if exact, else Relative(0.1).
        fisher, seed: labels of structured curvature: 'exact', 'sampled', 'empirical', or 'auto'.
        batch_size: examples read at a time.
        memory, device: bytes the exact road may take (half of the machine's); where the model should be.

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
        ids: Any = None,
        curvature: str = "auto",
        solver: str = "auto",
        damping: float | str | Relative | None = "auto",
        fisher: str = "auto",
        seed: int = 0,
        batch_size: int | str = "auto",
        memory: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        settings = Settings(protocol, curvature, solver, damping, memory, fisher, seed)
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
        measure: MeasureLike = "loss",
        order: str = "auto",
        aggregate: str | None = None,
        estimand: str = "response",
    ) -> Effects:
        """Predicted change of each query's measurement if a training point is left out and the model refitted.

            δᵢ = wᵢH⁻¹Jᵢᵀ(I − wᵢΛᵢAᵢ)⁻¹∇_ηℓᵢ,  Aᵢ = JᵢH⁻¹Jᵢᵀ;   effect = φ(η_q + J_qδᵢ) − φ(η_q)

        For a loss, positive means the loss would rise: the point is helpful.

        Args:
            which: training points to leave out, by id or position; all by default.
            estimand: 'response' (gᵢ), or 'newton' (gᵢ − Hᵢs), of the Newton iterate; they agree at a minimum.

        Raises:
            IndexOutOfRange: a point that does not exist.
            IndefiniteCurvature, BudgetError: H is not positive definite, or does not fit.

        Error and cost:
            Exact for OLS and ridge. 'newton' errs O(1/n²), where 'first' misses a factor 1/(1 − leverage).
            One dense factorisation, p³/3; then n·p a query, and n·p²/o for the leverages.
        """
        return points.drop(Question(self.fitted, query, measure, order, aggregate, estimand), which)

    def upweight(
        self,
        query: Any = None,
        *,
        which: Index | None = None,
        measure: MeasureLike = "loss",
        aggregate: str | None = None,
        estimand: str = "response",
    ) -> Effects:
        """I_up,loss: the derivative of each measurement with respect to a training point's weight.

            −∇φᵀH⁻¹∇ℓᵢ    [KL17 eq. 2]

        The paper's sign: negative means more of the point lowers the loss. Per unit of weight, so a drop is −wᵢ
        times this, to first order. Under 'fixed_mean' L includes its share of the penalty.

        Raises:
            ConfigError: a measure over a set, which has no derivative.

        Error and cost:
            The exact derivative. m solves, then n·p a query; a linear model with many parameters is solved
            for by block conjugate gradients, to a relative residual of 1e-7.
        """
        return points.upweight(Question(self.fitted, query, measure, "first", aggregate, estimand), which)

    def parameters(self, which: Index | None = None, *, estimand: str = "response") -> ParameterInfluence:
        """I_up,params: the derivative of the parameters with respect to training points' weights.

            −H⁻¹∇ℓᵢ    [KL17 A8-A10]

        Returns:
            ParameterInfluence (k, p): one row a training point, columns named by parameter; positive means
            that more weight raises the parameter. For the parameters after a point is left out ask
            ``drop(measure='parameters')``, which is (p, k).
        """
        return points.parameters(Question(self.fitted, None, "parameters", "first", None, estimand), which)

    def drop_group(self, groups: Sequence[Any] | np.ndarray, query: Any = None, **how: Unpack[How]) -> Effects:
        """Predicted change if a whole group is left out: the Newton step on what remains.

            δ_S = (H − H_S)⁻¹ g_S

        Args:
            groups: a list of lists of training points, or one label a training point.
            order: 'newton' is the step above; 'auto' takes a second one from where it lands where the model
                is linear in its parameters, and says 'two_newton'; 'first' sums first-order effects.

        Raises:
            ConfigError: an empty group, or labels of the wrong number.
            IndefiniteCurvature: what remains does not determine the parameters.

        Error and cost:
            With 20 % of the data removed first order may be off by two thirds, one step by a third, two by a
            tenth. A step is p³/3 a group, or (|S|o)²p for a small one; the second also one pass over the data.
        """
        return whole.drop_group(Question(self.fitted, query, **how), groups)

    def reweight(self, weights: Any, query: Any = None, **how: Unpack[How]) -> Effects:
        """Predicted change if the training weights become others: the Newton step on the objective they make.

            δ = −(H + ΔH)⁻¹ Σᵢ (w′ᵢ − wᵢ)gᵢ

        Args:
            weights: (k, n), a whole weighting a row, in the unit of the study's weights (1/n each by default).
            order: as for ``drop_group``.

        Raises:
            ShapeError, NonFiniteInput: weights that do not fit the training set, or are not finite.
        """
        return whole.reweight(Question(self.fitted, query, **how), weights)

    def change_penalty(self, penalty: Penalty, query: Any = None, **how: Unpack[How]) -> Effects:
        """Predicted change if the model were refitted with another penalty.

            δ = −(H + ∇²r′ − ∇²r)⁻¹ (∇r′ − ∇r)

        Args:
            penalty: the new one, or a list of alternatives, one column each: ``uw.L2``, or a bare λ, which acts
                on the coordinates penalised now. On the scale of the study's objective: a mean loss unless
                weights say otherwise, so C of LogisticRegression is λ = 1/(nC), alpha of Ridge λ = alpha/n.
            order: as for ``drop_group``.
        """
        return whole.change_penalty(Question(self.fitted, query, **how), penalty)

    def relabel(self, labels: Mapping[Any, Any], query: Any = None, **how: Unpack[How]) -> Effects:
        """Predicted change if a training point had another label, one change a point.

            change row wᵢ(gᵢ′ − gᵢ), and wᵢ(Hᵢ′ − Hᵢ) for 'newton'

        Args:
            labels: {training point: new label}, labels in the user's own terms.

        Raises:
            LabelError: an unknown class, or a label out of range.
        """
        return points.relabel(Question(self.fitted, query, **how), labels)

    def replace(self, which: Index, data: Any, query: Any = None, **how: Unpack[How]) -> Effects:
        """Predicted change if training points were replaced by new examples, one for one.

            change row wᵢ(gᵢ′ − gᵢ), g′ the new example's

        Args:
            data: as many examples as ``which`` names points, in the form of the training data.

        Raises:
            ShapeError: not one example a point.
        """
        return points.replace_points(Question(self.fitted, query, **how), which, data)

    def add(self, data: Any, query: Any = None, **how: Unpack[How]) -> Effects:
        """Predicted change if a new example were added to the training set, one change an example.

            change row w·g(z), w = Σwᵢ/n

        Args:
            data: the new examples, in the form of the training data.

        Raises:
            InputError: examples that cannot be scored.
        """
        return points.add(Question(self.fitted, query, **how), data)

    def perturb(self, which: Index, query: Any, **how: Unpack[How]) -> InputGradient:
        """I_pert,loss: the gradient of each measurement with respect to training inputs.

            −∇φᵀH⁻¹ wᵢ∂∇ℓᵢ/∂xᵢ    [KL17 eq. 5]

        Returns:
            InputGradient (m, k, *input): the measurement's change per unit change of an input, wᵢ included. For a
            Pipeline the inputs are those its last step is given.

        Raises:
            ConfigError: inputs that are not one floating-point tensor, or a measure without derivative.
        """
        return perturb(Question(self.fitted, query, **how), which)

    def self_influence(self) -> np.ndarray:
        """wᵢ gᵢᵀH⁻¹gᵢ ≥ 0, (n,): its own loss's rise, to first order, were a point left out and the penalty kept."""
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

        Raises:
            ConfigError: the study's curvature is not the exact, undamped Hessian.
        """
        return points.newton_step(self.fitted, which, epsilon)

    def trust(self) -> Trust:
        """How far answers can be believed: stationarity, curvature, solver residual, leverage, in words and numbers."""
        return trust(self.fitted)

    def check(
        self,
        query: Any,
        *,
        refits: int = 30,
        measure: MeasureLike = "loss",
        order: str = "auto",
        seed: int = 0,
        train: Callable[..., Any] | None = None,
        progress: bool | None = None,
    ) -> Calibration:
        """Leave points out for real, refit, and compare with the prediction: slope, Pearson, Spearman, plot.

        Args:
            refits: how many points are left out, half at random and half the most influential.
            train: (weights, seed) → state dict, to refit your own way; Newton from θ̂ otherwise.
            progress: show a progress bar; None shows one on a terminal.

        Returns:
            Calibration: predicted and refitted changes (m, refits), with slope, correlations and a plot.

        Raises:
            NotConverged: a refit did not reach a minimum; pass ``train``.
        """
        from upweight.evaluate.calibration import check

        return check(
            self.fitted,
            self.drop(query, measure=measure, order=order),
            Question(self.fitted, query, measure, order),
            refits,
            seed,
            train,
            progress,
        )

    def mislabeled(self, k: int = 100) -> pd.DataFrame:
        """The k training points most likely mislabelled, by self-influence [KL17 5.4].

        Returns:
            A frame with columns train, rank, label, predicted, self_influence, loss, loss_rank and confidence
            (label, predicted and confidence for classifiers): what self-influence must beat stands beside it.
        """
        from upweight.evaluate.mislabel import mislabeled

        return mislabeled(self.fitted, k)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        query: Any = None,
        images: Any = None,
        truth: Sequence[Any] | None = None,
        refits: int = 30,
        calibration: Calibration | None = None,
    ) -> str:
        """Write one self-contained HTML page: suspects, predicted against refitted changes, and how far to trust them.

        Args:
            query: what to refit for; not needed with a ``calibration`` that ``check`` has returned.
            images: a grey image a training point, (n, height, width), shown as thumbnails.
            truth: training points known to be mislabelled, outlined where they are found.
            refits: how many points are really left out.

        Returns:
            The path written.

        Raises:
            ShapeError: images that do not match the training points.
            MissingExtraError: matplotlib, or pillow for images, is not installed.
        """
        from upweight.report.page import Page, images_by_id

        pictures = images_by_id(images, self.objective.examples.ids)
        page = Page(
            suspects=self.mislabeled(),
            calibration=calibration or self.check(query, refits=refits),
            trust=self.trust(),
            sentence=repr(self),
            images=pictures,
            truth=None if truth is None else set(truth),
        )
        Path(path).write_text(page.render(), "utf-8")
        return str(path)
