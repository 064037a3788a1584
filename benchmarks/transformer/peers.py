"""kronfluence and bergson on the transformer: EK-FAC, sampled labels, a tenth of the mean eigenvalue as damping, every phase timed.

python transformer/peers.py transformer-kronfluence        the full size
python transformer/peers.py transformer-kronfluence 32     fewer training sequences, and queries as few
python transformer/peers.py transformer-bergson 32         in an environment of its own, benchmarks/bergson.txt

bergson's phases are the steps of its own pipeline; each loads the model anew. Its import is in no phase but in the notes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from kron import ekfac_scores
from measured import Row
from transformer.problem import BATCH, LENGTH, QUERIES, TRAIN, load, plain_epoch, sequence_loss, tracked_layers

warnings.simplefilter("ignore")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
"""Offline, bergson would ask the model hub again at every load."""

STEPS = {
    "query": "build_query",
    "fit": "approximate_hessians",
    "apply": "launch_distributed_run",
    "score": "score_dataset",
}
"""bergson's functions, by the phase they are."""


def bergson(row: Row, model, tokens, asked) -> np.ndarray:
    """Scores (m, n) of a drop, whose factor 1/n is ours."""
    started = time.perf_counter()
    from bergson.config import config
    from bergson.data import load_scores
    from bergson.hessians import pipeline
    from transformer.bergson_model import save, save_sequences

    row.notes = f"import of {time.perf_counter() - started:.1f} s not counted"
    for phase, name in STEPS.items():
        setattr(pipeline, name, _timed(row, phase, getattr(pipeline, name)))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        index = config.IndexConfig(
            run_path=str(place / "run"),
            model=save(model, place / "model"),
            data=config.DataConfig(dataset=save_sequences(tokens.numpy(), place / "train")),
            token_batch_size=BATCH * LENGTH,
            filter_modules="*head",
        )
        query = config.QuerySetConfig(dataset=save_sequences(asked.numpy(), place / "query"))
        with contextlib.redirect_stdout(sys.stderr):
            pipeline.hessian_pipeline(
                index,
                config.HessianConfig(method="kfac", ev_correction=True),
                config.ScoreConfig(),
                config.PreprocessConfig(),
                config.HessianPipelineConfig(query=query),
            )
        return load_scores(place / "run" / "scores")[:].T / len(tokens)


def _timed(row: Row, phase: str, function):
    def timed(*args, **kwargs):
        with row.phase(phase):
            return function(*args, **kwargs)

    return timed


def main(name: str, count: str = str(TRAIN)) -> None:
    """The factors and the scores of every query against every training sequence."""
    row, n = Row(name), int(count)
    model, tokens, targets, asked, wanted = load(n, min(n, QUERIES))
    row.measure_epoch(plain_epoch(model, tokens, targets), repeats=1)
    row.forget_peak()
    if name == "transformer-bergson":
        row.finish(bergson(row, model, tokens, asked))
    else:
        layers = tracked_layers(model)
        row.finish(ekfac_scores(row, model, tokens, targets, asked, wanted, None, sequence_loss, BATCH, layers))


if __name__ == "__main__":
    main(*sys.argv[1:])
