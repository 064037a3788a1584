"""The rows of the tables: what each method is, and which are held against which. Nothing is computed here."""

from __future__ import annotations

from dataclasses import dataclass

COUNTS = (1, 3, 10, 30)
"""Models whose scores are averaged."""


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        label: in the table.
        group: 'baseline', 'ours' or 'peer'.
    """

    label: str
    group: str


ROWS = {
    "random": Row("random", "baseline"),
    "loss": Row("the training point's loss", "baseline"),
    "similarity": Row("representation similarity", "baseline"),
    "bm25": Row("BM25", "baseline"),
    "identity": Row("identity (gradient product)", "ours"),
    "tracin": Row("TracIn, 6 checkpoints", "ours"),
    "trak": Row("TRAK, 512 numbers", "ours"),
    "kfac": Row("K-FAC, a tenth of the mean eigenvalue", "ours"),
    "kfac-λ": Row("K-FAC, λ", "ours"),
    "ekfac": Row("**EK-FAC, the default**: exact Fisher, a tenth", "ours"),
    "ekfac-sampled": Row("EK-FAC, sampled labels, a tenth", "ours"),
    "ekfac-empirical": Row("EK-FAC, training labels, a tenth", "ours"),
    "ekfac-λ": Row("EK-FAC, λ", "ours"),
    "ekfac-sampled-bare": Row("EK-FAC, sampled labels, a tenth, told of no penalty", "ours"),
    "ekfac-empirical-bare": Row("EK-FAC, training labels, a tenth, told of no penalty", "ours"),
    "ekfac-λ-bare": Row("EK-FAC, λ, told of no penalty", "ours"),
    "ggn": Row("damped Gauss-Newton by block CG, its default: ten times EK-FAC's mean eigenvalue", "ours"),
    "ggn-λ": Row("damped Gauss-Newton by block CG, λ", "ours"),
    **{
        f"{kind}-{times}λ": Row(f"{label}, {times} λ", "ours")
        for times in (10, 100)
        for kind, label in (("ekfac", "EK-FAC"), ("ggn", "damped Gauss-Newton by block CG"))
    },
    "source": Row("SOURCE, 6 segments", "ours"),
    "tuned": Row("**`study.tune`**, ten retrainings", "ours"),
    "kronfluence": Row("kronfluence EK-FAC, its default damping 1e-8", "peer"),
    "kronfluence-tenth": Row("kronfluence EK-FAC, a tenth", "peer"),
    "kronfluence-λ": Row("kronfluence EK-FAC, λ", "peer"),
    "kronfluence-empirical": Row("kronfluence EK-FAC, training labels, a tenth", "peer"),
    "kronfluence-kfac": Row("kronfluence K-FAC, a tenth", "peer"),
    "kronfluence-identity": Row("kronfluence identity", "peer"),
    "pydvl-ekfac": Row("pyDVL EK-FAC, its defaults", "peer"),
    "pydvl-ekfac-λ": Row("pyDVL EK-FAC, diagonal updated, λ", "peer"),
    "pydvl-arnoldi": Row("pyDVL Arnoldi, rank 10, λ", "peer"),
    "pydvl-nystroemsketch": Row("pyDVL Nyström, rank 10, λ", "peer"),
    "dattri-ekfac": Row("dattri EK-FAC, its defaults", "peer"),
    "dattri-ekfac-λ": Row("dattri EK-FAC, λ", "peer"),
    "dattri-ekfac-corrected-λ": Row("dattri EK-FAC with two faults corrected, λ", "peer"),
    "dattri-cg": Row("dattri CG, its defaults, one batch", "peer"),
    "dattri-cg-λ": Row("dattri CG, 40 steps, λ, one batch", "peer"),
    "dattri-arnoldi": Row("dattri Arnoldi, its defaults, one batch", "peer"),
    "dattri-tracin": Row("dattri TracIn, 6 checkpoints", "peer"),
    "traker": Row("traker TRAK, 512 numbers", "peer"),
}

EQUAL = "equal damping, Fisher and models"
DEFAULT = "the tuned filter against its default"
OWN = "default against default"

PAIRS = (
    ("ekfac-sampled-bare", "kronfluence-tenth", EQUAL),
    ("ekfac-empirical-bare", "kronfluence-empirical", EQUAL),
    ("ekfac-λ-bare", "kronfluence-λ", EQUAL + " (labels: exact, and sampled)"),
    ("identity", "kronfluence-identity", EQUAL),
    ("ekfac-λ-bare", "pydvl-ekfac-λ", "equal λ and models (labels: exact, and its own stand-in)"),
    ("ggn-λ", "dattri-cg-λ", "equal λ (its Hessian, our Gauss-Newton matrix)"),
    ("tracin", "dattri-tracin", "equal checkpoints"),
    ("trak", "traker", "equal width and models"),
    *(
        ("ekfac", theirs, OWN)
        for theirs in ("kronfluence", "pydvl-ekfac", "dattri-ekfac", "dattri-cg", "dattri-arnoldi")
    ),
    *(
        ("tuned", theirs, DEFAULT)
        for theirs in (
            "kronfluence",
            "kronfluence-tenth",
            "pydvl-ekfac",
            "pydvl-arnoldi",
            "pydvl-nystroemsketch",
            "dattri-ekfac",
            "dattri-cg",
            "dattri-arnoldi",
            "dattri-tracin",
            "traker",
        )
    ),
    ("ggn", "ekfac", "order"),
    ("ggn-λ", "ekfac-λ", "order"),
    ("ggn-10λ", "ekfac-10λ", "order"),
    ("ggn-100λ", "ekfac-100λ", "order"),
    ("ekfac-λ", "kfac-λ", "order"),
    ("kfac-λ", "identity", "order"),
    ("tuned", "ekfac", "order"),
)
"""Ours, theirs, and what makes the comparison fair; 'order' compares ours with ours."""
