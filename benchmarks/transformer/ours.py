"""upweight on the transformer: EK-FAC with fresh sampled labels, a tenth of the mean eigenvalue as damping.

python transformer/ours.py transformer-upweight        the full size
python transformer/ours.py transformer-upweight 32     fewer training sequences, and queries as few
"""

from __future__ import annotations

import sys
import warnings

from measured import Row
from transformer.problem import QUERIES, TRACKED, TRAIN, load, plain_epoch

import upweight as uw

SHARE = 0.5
"""Of the sequences, that rows called half or bfloat16 estimate their factors from."""


def main(name: str, count: str = str(TRAIN)) -> None:
    """The study, its factors and its first-order drop."""
    warnings.simplefilter("ignore")
    row, n = Row(name), int(count)
    model, tokens, targets, asked, wanted = load(n, min(n, QUERIES))
    row.measure_epoch(plain_epoch(model, tokens, targets), repeats=1)
    row.forget_peak()
    with row.phase("study"):
        study = uw.Study(
            model,
            (tokens, targets),
            loss="token_cross_entropy",
            parameters=TRACKED,
            curvature="ekfac",
            fisher="sampled",
            damping=uw.Relative(0.1),
            protocol="fixed_total",
            factor_share=SHARE if "half" in name or "bfloat16" in name else 1.0,
            precision="bfloat16" if "bfloat16" in name else None,
        )
    with row.phase("fit"):
        study.fitted.blocked.inverse  # noqa: B018 - computes the factors
    with row.phase("score"):
        effects = study.drop((asked, wanted), order="first")
    if "self" in name:
        with row.phase("self-influence"):
            study.self_influence()
    row.notes = effects.verdict
    row.finish(effects.values)


if __name__ == "__main__":
    main(*sys.argv[1:])
