"""What a statistician asks of a study: variances, held-out predictions, worst cases, and the path of the penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upweight.fitted import Fitted
from upweight.inference.penalty import penalty_derivative
from upweight.influence.effects import Effects
from upweight.questions.question import MeasureLike, Question

if TYPE_CHECKING:
    import pandas as pd

    from upweight.inference.cross_validation import CrossValidation
    from upweight.inference.worst_case import WorstCase


class InferenceQuestions:
    """Whatever holds a fitted model can be asked how sure it is, and of how few points."""

    fitted: Fitted

    def covariance(self, kind: str | None = "ij", *, groups: Any = None) -> pd.DataFrame:
        """The covariance matrix of the parameters, named: how far they would scatter over samples like this one.

            H⁻¹ M H⁻¹, M by kind: see ``upweight.inference.covariance``

        Args:
            kind: 'ij', the infinitesimal jackknife; 'hc0' to 'hc3', robust to unequal variances; 'cluster'; 'classical',
                the model's own; None is what the model was fitted with (``from_statsmodels``), else classical.
            groups: a cluster label for every training point.

        Returns:
            A frame (p, p) in squared units of the parameters, its kind in ``.attrs``.

        Raises:
            ConfigError: an unknown kind, one without meaning for this loss, or labels that do not fit.
            BudgetError: H does not fit.

        Error and cost:
            As statsmodels, to rounding; n·p² beside H. With a penalty this is the scatter about the penalised value.
        """
        from upweight.inference.covariance import covariance

        return covariance(self.fitted, kind, groups)

    def standard_errors(self, kind: str | None = "ij", *, groups: Any = None) -> pd.Series:
        """The square roots of the diagonal of ``covariance``, named, in the units of the parameters."""
        from upweight.inference.covariance import standard_errors

        return standard_errors(self.fitted, kind, groups)

    def cross_validation(self, groups: Any = None, *, order: str = "auto") -> CrossValidation:
        """Every training point predicted by a model that has not seen it, without a refit.

            η₋ᵢ = ηᵢ + Jᵢδᵢ, δᵢ the leverage-corrected step of ``drop``

        Args:
            groups: leave whole groups out instead, as cross-validation by folds or clusters does: one label a point.
            order: as for ``drop``.

        Returns:
            CrossValidation: .loss, .losses, .predictions, and .probabilities (n, K), which cleanlab takes as ``pred_probs``.

        Raises:
            ConfigError: groups that leave a point out or hold it twice.

        Error and cost:
            Exact for least squares and ridge, O(1/n²) elsewhere; n·p² in all, or one step of ``drop_group`` a group.
        """
        from upweight.inference.cross_validation import cross_validation

        return cross_validation(self.fitted, groups, order)

    def worst_case(
        self,
        claim: MeasureLike,
        of: str | None = None,
        *,
        query: Any = None,
        to: float | None = None,
        aggregate: str | None = None,
        kind: str | None = None,
        groups: Any = None,
        level: float = 0.05,
        most: int | float = 0.1,
        progress: bool | None = None,
    ) -> WorstCase:
        """The fewest training points found whose absence overturns a claim, confirmed by refitting without them.

        Two searches: adding up first-order effects (AMIP), and leaving out one after another, each by its exact
        one-step deletion and refitted, which also finds points that hide behind each other.

        Args:
            claim: 'sign', 'significance' or 'both' of a parameter, or a measure of ``query``.
            of: the parameter's name, for the first three.
            query, aggregate: for a measure: one query, or a set with aggregate='mean', 'sum' or 'set'.
            to: the value the measure must pass, 0 by default: margins and differences change their sign there.
            kind, groups: which standard errors, as for ``covariance``; by default as the model was fitted, else classical.
                How they depend on every point's weight is differentiated through.
            level: of significance.
            most: how many points may go, or which share of them.
            progress: show a progress bar; None shows one on a terminal.

        Returns:
            WorstCase: .ids, .before, .after (floats that know their standard error), .order, .additive, .greedy,
            .verdict (a paragraph), .to_pandas() and .plot(). Printed, it is its verdict.

        Raises:
            ConfigError: no such parameter, no one number, or a kind without meaning for this loss.
            BudgetError: the Hessian that refits need does not fit.

        Error and cost:
            Both sets are upper bounds: a smaller one may exist. Each greedy step is a refit from the last one, n·p².
        """
        from upweight.inference.worst_case import WorstCaseQuestion, worst_case

        asked = WorstCaseQuestion(claim, of, query, to, aggregate, kind, groups, level, most, progress)
        return worst_case(self.fitted, asked)

    def penalty_derivative(
        self, query: Any = None, *, measure: MeasureLike = "loss", aggregate: str | None = None
    ) -> Effects:
        """The derivative of each measurement in the strength λ of the penalty; of the parameters, dθ̂/dλ.

            −∇φᵀH⁻¹ ∂∇r/∂λ,   ∂∇r/∂λ = θ for (λ/2)‖θ‖², sign(θ) for λ‖θ‖₁

        Returns:
            Effects (m, 1 or 2), columns 'l2' and, for Lasso and ElasticNet, 'l1': per unit of λ on the scale of the study's
            objective (see ``change_penalty``), on the coordinates that are penalised, or all if none are. Positive means
            that more penalty raises the measurement. ``measure='parameters'`` needs no query.

        Error and cost:
            The exact derivative; one solve.
        """
        return penalty_derivative(Question(self.fitted, query, measure, "first", aggregate))
