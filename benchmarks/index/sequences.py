"""Bytes an example against agreement with the uncompressed scores, on the transformer: 24 linear layers, 3,145,728 parameters.

python index/sequences.py index-logra             LoGra, 64 × 64 numbers a layer in float16: 196,608 bytes a sequence
python index/sequences.py index-eigenbasis        a sixteenth of those bytes: 12,284 numbers in int8 with a scale
python index/sequences.py index-eigenbasis 4      a quarter
python index/sequences.py index-truth             no compression, the scores all others are held against
"""

from __future__ import annotations

import shutil
import sys
import warnings

import numpy as np
from measured import DATA, Row
from transformer.problem import TRACKED, load

import upweight as uw

LOGRA_BYTES = 24 * 64 * 64 * 2
COUNT = 1024


def settings(kind: str, share: int) -> dict:
    """What each row keeps."""
    if kind == "logra":
        return {"compression": "logra", "size": 64, "dtype": "float16"}
    if kind == "half":
        return {"compression": "eigenbasis", "size": (LOGRA_BYTES // share - 4) // 2, "dtype": "float16"}
    return {"compression": "eigenbasis", "size": LOGRA_BYTES // share - 4, "dtype": "int8"}


def main(name: str, share: int = 16) -> None:
    """One row: the study's factors are computed once and kept by every index."""
    warnings.simplefilter("ignore")
    row = Row(name)
    model, X, y, Xt, yt = load(COUNT)
    with row.phase("study"):
        study = uw.Study(
            model,
            (X, y),
            loss="token_cross_entropy",
            parameters=TRACKED,
            curvature="ekfac",
            factor_share=0.5,
            protocol="fixed_total",
        )
    kind = name.removeprefix("index-")
    if kind == "truth":
        with row.phase("fit and score"):
            scores = study.drop((Xt, yt), order="first").values
        return row.finish(scores)
    folder = DATA / name
    shutil.rmtree(folder, ignore_errors=True)
    with row.phase("fit and build"):
        index = uw.Index.build(study, folder, **settings(kind, share))
    index.query((Xt[:1], yt[:1]))
    with row.phase("query"):
        found = index.query((Xt, yt), k=COUNT)
    scores = np.zeros((len(Xt), COUNT))
    np.put_along_axis(scores, found.top_ids, found.top, 1)
    row.notes = str(index.info())
    row.finish(scores)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
