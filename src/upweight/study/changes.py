"""The questions a study answers: what would change if points, groups, labels, weights or the penalty changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from upweight._typing import Index
from upweight.fitted import Fitted
from upweight.influence.effects import Effects
from upweight.influence.newton import NewtonStep
from upweight.influence.parameters import ParameterInfluence
from upweight.objective import Penalty
from upweight.questions import points, whole
from upweight.questions.perturbation import InputGradient, perturb
from upweight.questions.question import How, MeasureLike, Question
from upweight.questions.tokens import TokenEffects, token_effects


class ChangeQuestions:
    """Whatever holds a fitted model can be asked; ``Study`` says what the questions have in common."""

    fitted: Fitted

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
            tenth. A step is p³/3 a group, or (|S|o)²p for a small one; the second also one pass over the data. With
            structured curvature or an iterative solver nothing of size p × p is formed: conjugate gradients on
            what remains, |S|·o·p a step, to a relative residual of 1e-7; a group that leaves nothing positive
            definite stays at first order, which is said.
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

    def perturb(
        self, which: Index, query: Any, *, measure: MeasureLike = "loss", aggregate: str | None = None
    ) -> InputGradient:
        """I_pert,loss: the gradient of each measurement with respect to training inputs.

            −∇φᵀH⁻¹ wᵢ∂∇ℓᵢ/∂xᵢ    [KL17 eq. 5]

        Returns:
            InputGradient (m, k, *input): the measurement's change per unit change of an input, wᵢ included. For a
            Pipeline the inputs are those its last step is given.

        Raises:
            ConfigError: inputs that are not one floating-point tensor, or a measure without derivative.
        """
        return perturb(Question(self.fitted, query, measure, "first", aggregate), which)

    def token_effects(
        self, query: Any, which: Index | None = None, *, of: str = "train", measure: MeasureLike = "loss"
    ) -> TokenEffects:
        """The first-order effect of leaving training sequences out, cut along the tokens of one side.

            Σ_t −t_qᵀH⁻¹(−wᵢ∇ℓ_{i,t})  over the labels of a training sequence;  Σ_t −t_{q,t}ᵀH⁻¹cᵢ  over those of a query

        Args:
            which: training sequences, by id or position: a few, since each costs a pass.
            of: 'train' or 'query': whose tokens.

        Returns:
            TokenEffects: .values (m, k, t), which sum over t (with .rest, the penalty's share) to ``drop(query, order='first')``;
            positive means that without that label the measurement would rise. Position t is that of the outputs: of a causal
            language model it predicts token t + 1.

        Raises:
            ConfigError: another loss than 'token_cross_entropy', or a measure of several numbers a query.

        Error and cost:
            Exact given the curvature. One forward-mode pass for every query and tile of training sequences ('train'), or
            for every training sequence and tile of queries; m·p numbers.
        """
        return token_effects(self.fitted, query, which, of, measure)

    def self_influence(self) -> np.ndarray:
        """wᵢ gᵢᵀH⁻¹gᵢ ≥ 0, (n,): its own loss's rise, to first order, were a point left out and the penalty kept."""
        return points.self_influence(self.fitted)

    def leverage(self) -> np.ndarray:
        """wᵢ tr(ΛᵢJᵢH⁻¹Jᵢᵀ), (n,): the hat value of least squares, the share of its fit a point owns.

        With structured curvature and more than 32 outputs it is the estimate from one sampled label, whose mean that is.
        """
        return points.leverage(self.fitted)

    def newton_step(self, which: Index, epsilon: float) -> NewtonStep:
        """The undropped Newton step after adding ε of a training point, and its split in two.

            −[H + ε∇²L]⁻¹[g + ε∇L] ≈ −H⁻¹g + ε·I_up,params(z)    [KL17 A7, A11]

        Where the study is damped, H stands for H + λI.

        Args:
            epsilon: weight added to the point, in the unit of the weights; −wᵢ leaves it out.

        Returns:
            NewtonStep with .step (exact), .constant, .contribution and .remainder, each (k, p).

        Raises:
            ConfigError: the study's curvature is not the exact Hessian.
        """
        return points.newton_step(self.fitted, which, epsilon)
