"""Scores of the language model's 50 queries against its 2,048 training sequences, by every library, for its LDS.

python language/scores.py language-upweight        EK-FAC, uncompressed
python language/scores.py language-logra           an index of LoGra 64 × 64 numbers a layer in float16: 196,608 bytes a sequence
python language/scores.py language-eigenbasis      an index of a sixteenth of that: 12,284 numbers in int8 and a scale
python language/scores.py language-kronfluence     in benchmarks/.peers; its own damping, a tenth of the mean eigenvalue
python language/scores.py language-bergson         in benchmarks/.bergson; its own settings
"""

from __future__ import annotations

import shutil
import sys
import warnings

import numpy as np
from language.problem import DATA, TRACKED, tracked_layers, tuned
from measured import Row
from transformer.problem import plain_epoch, sequence_loss

warnings.simplefilter("ignore")
LOGRA_BYTES = 24 * 64 * 64 * 2
KEPT = {
    "logra": {"compression": "logra", "size": 64, "dtype": "float16"},
    "eigenbasis": {"compression": "eigenbasis", "size": LOGRA_BYTES // 16 - 4, "dtype": "int8"},
}
BATCH = 32


def ours(row: Row, kind: str, data) -> np.ndarray:
    """Scores without compression, or of an index."""
    import upweight as uw

    model, X, y, Xt, yt = data
    settings = {"loss": "token_cross_entropy", "parameters": TRACKED, "curvature": "ekfac", "protocol": "fixed_total"}
    with row.phase("study"):
        study = uw.Study(model, (X, y), damping=uw.Relative(0.1), **settings)
    with row.phase("fit"):
        study.fitted.blocked.inverse  # noqa: B018 - computes the factors
    if kind == "upweight":
        with row.phase("score"):
            effects = study.drop((Xt, yt), order="first")
        row.notes = effects.verdict
        return effects.values
    folder = DATA / f"language-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    with row.phase("build"):
        index = uw.Index.build(study, folder, **KEPT[kind])
    index.query((Xt[:1], yt[:1]))
    with row.phase("50 queries"):
        found = index.query((Xt, yt), k=len(X))
    with row.phase("one query, both ends of 20"):
        index.query((Xt[:1], yt[:1]), k=20)
    row.notes = str(index.info())
    scores = np.zeros((len(Xt), len(X)))
    np.put_along_axis(scores, found.top_ids, found.top, 1)
    return scores


def peer(row: Row, kind: str, data) -> np.ndarray:
    """kronfluence's or bergson's."""
    model, X, y, Xt, yt = data
    if kind == "bergson":
        from transformer.peers import bergson

        return bergson(row, model, X, Xt)
    from kron import ekfac_scores

    return ekfac_scores(row, model, X, y, Xt, yt, None, sequence_loss, BATCH, tracked_layers(model), masked=True)


def main(name: str) -> None:
    """One row of the table."""
    row, data, kind = Row(name), tuned(), name.removeprefix("language-")
    model, X, y, *_ = data
    row.measure_epoch(plain_epoch(model, X, y), repeats=1)
    row.forget_peak()
    row.finish((peer if kind in ("kronfluence", "bergson") else ours)(row, kind, data))


if __name__ == "__main__":
    main(sys.argv[1])
