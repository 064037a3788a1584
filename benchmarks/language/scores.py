"""Scores of the language model's 50 queries against its 2,048 training sequences, by every library, for its LDS.

python language/scores.py language-upweight        EK-FAC, factors from every fourth sequence, uncompressed; then indexes of the same study in LoGra's bytes and parts of them
python language/scores.py language-kronfluence     in benchmarks/.peers; its own damping, a tenth of the mean eigenvalue
python language/scores.py language-bergson         in benchmarks/.bergson; its own settings

LoGra keeps 64 × 64 numbers of each of the 24 layers in float16, 196,608 bytes a sequence; the index 12,284 in int8 and a scale, or eight times
as many signs.
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
KEPT = {"compression": "eigenbasis", "size": LOGRA_BYTES // 16 - 4, "dtype": "int8"}
INDEXES = {
    "index": KEPT,
    "sketch": {"compression": "sketch", "size": 8 * (LOGRA_BYTES // 16 - 4), "dtype": "bit"},
    "sketch-4": {"compression": "sketch", "size": 8 * (LOGRA_BYTES // 4 - 4), "dtype": "bit"},
    "sketch-1": {"compression": "sketch", "size": 8 * (LOGRA_BYTES - 4), "dtype": "bit"},
    "logra": {"compression": "logra", "size": 64, "dtype": "float16"},
}
"""What is kept by each index: a sixteenth of LoGra's bytes, a quarter, and as many."""
BATCH = 32
SHARE = 0.25
"""Of the sequences, evenly spaced, that our factors are estimated from."""


def ours(row: Row, data) -> np.ndarray:
    """Scores without compression; those of the index are kept beside them."""
    import upweight as uw

    model, X, y, Xt, yt = data
    settings = {"loss": "token_cross_entropy", "parameters": TRACKED, "curvature": "ekfac", "protocol": "fixed_total"}
    with row.phase("study"):
        study = uw.Study(model, (X, y), damping=uw.Relative(0.1), factor_share=SHARE, **settings)
    with row.phase("fit"):
        study.fitted.blocked.inverse  # noqa: B018 - computes the factors
    with row.phase("score"):
        effects = study.drop((Xt, yt), order="first")
    np.save(DATA / "scores" / f"{row.name}.npy", effects.values)
    with row.phase("one query, recomputed"):
        study.drop((Xt[:1], yt[:1]), order="first")
    accuracies = [f"{name}: {_index(row, study, name, (Xt, yt))}" for name in INDEXES]
    row.notes = f"{effects.verdict}. {'; '.join(accuracies)}"
    return effects.values


def _index(row: Row, study, name: str, query) -> str:
    """Build one index and ask it; its scores are kept, and its accuracy told."""
    import upweight as uw

    folder = DATA / f"language-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    with row.phase(name):
        index = uw.Index.build(study, folder, **INDEXES[name])
    for phase, count in ((f"{name}, one query", 1), *[(f"{name}, one query", 1)] * 5, (f"{name}, 50 queries", None)):
        before = row.seconds.get(phase, float("inf"))
        with row.phase(phase):
            index.query(tuple(part[:count] for part in query), k=20)
        row.seconds[phase] = min(row.seconds[phase], before)  # the fastest of five, as of T_epoch
    n = study.objective.count
    found = index.query(query, k=n)
    scores = np.zeros((len(query[0]), n))
    np.put_along_axis(scores, found.top_ids, found.top, 1)
    np.save(DATA / "scores" / f"language-{name}.npy", scores)
    shutil.rmtree(folder)
    return f"{index.info().row_bytes:,.0f} bytes, {index.info().accuracy}"


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
    (DATA / "scores").mkdir(parents=True, exist_ok=True)
    row.finish(ours(row, data) if kind == "upweight" else peer(row, kind, data))


if __name__ == "__main__":
    main(sys.argv[1])
