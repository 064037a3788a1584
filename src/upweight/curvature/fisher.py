"""Fisher estimators: which output gradients u stand for the labels, so that E[uuᵀ] = Λ or what is taken for it.

exact      every label with its probability: the columns of S, SSᵀ = Λ; as many backward passes as columns
sampled    one label an example, drawn from the model
empirical  the training label itself; another matrix, and not an estimate of Λ
"""

from __future__ import annotations

from upweight._typing import Float, Tensor
from upweight.errors import BudgetError, ConfigError
from upweight.objective import Loss
from upweight.objective.draws import Draws

FISHERS = ("auto", "exact", "sampled", "empirical")

MOST_LABELS = 32
"""Labels up to which the exact expectation is taken: that many backward passes a batch."""


def read_fisher(fisher: str, outputs: int) -> str:
    """'exact', 'sampled' or 'empirical'; 'auto' is exact where the labels are few.

    Raises:
        ConfigError: an unknown name.
        BudgetError: more labels than an exact expectation is taken over.
    """
    if fisher not in FISHERS:
        raise ConfigError(f"fisher={fisher!r} is unknown. Expected one of {', '.join(FISHERS)}.")
    if fisher == "auto":
        return "exact" if outputs <= MOST_LABELS else "sampled"
    if fisher == "exact" and outputs > MOST_LABELS:
        raise BudgetError(
            f"fisher='exact' found {outputs:,} outputs an example, one backward pass each. Expected at most {MOST_LABELS}; use fisher='sampled'."
        )
    return fisher


def labels_of(fisher: str, outputs: int) -> int:
    """k: how many backward passes stand for an example's labels."""
    exact = fisher == "exact" or (fisher == "auto" and outputs <= MOST_LABELS)
    return outputs if exact else 1


def label_slopes(
    loss: Loss, outputs: Float[Tensor, "b o"], targets: Tensor, fisher: str, draws: Draws
) -> list[Float[Tensor, "b o"]]:
    """The output gradients whose outer products are summed."""
    if fisher == "empirical":
        return [loss.gradient(outputs, targets)]
    if fisher == "sampled":
        return [loss.sampled(outputs, targets, draws)]
    return list(loss.root(outputs, targets).unbind(2))
