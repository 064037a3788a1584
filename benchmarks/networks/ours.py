"""upweight on the networks: EK-FAC with fresh sampled labels, or the exact expectation over labels; pairs written out as the truth."""

from __future__ import annotations

import sys
import warnings

from measured import Row
from networks.problem import BATCHES, load, plain_epoch

import upweight as uw

TRACKED = {"mlp": "*", "cnn": ["1.*", "5.*", "9.*", "14.*"]}
"""Convolutions and linear layers, as kronfluence tracks them."""


def main(name: str) -> None:
    """The study, its factors and its first-order drop."""
    warnings.simplefilter("ignore")
    kind, _, what = name.split("-")
    row = Row(name)
    model, X, y, Xt, yt = load(kind)
    row.measure_epoch(plain_epoch(model, X, y, BATCHES[kind]))
    row.forget_peak()
    fisher = "exact" if what == "exact" else "sampled"
    with row.phase("study"):
        study = uw.Study(
            model,
            (X, y),
            loss="cross_entropy",
            parameters=TRACKED[kind],
            curvature="ekfac",
            fisher=fisher,
            protocol="fixed_total",
            products="written" if what == "written" else "auto",
        )
    with row.phase("fit"):
        study.fitted.blocked.inverse  # noqa: B018 - computes the factors
    with row.phase("score"):
        effects = study.drop((Xt, yt), order="first")
    if what == "self":
        with row.phase("self-influence"):
            study.self_influence()
    row.notes = effects.verdict
    row.finish(effects.values)


if __name__ == "__main__":
    main(sys.argv[1])
