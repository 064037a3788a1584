"""Commands that compute: score a source into a run, and check a run by refits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from upweight.cli.reading import suspects_of, suspects_table
from upweight.cli.talk import AsJson, answer, guarded, say
from upweight.errors import ConfigError
from upweight.review import can_refit

SHOWN = 10
"""Suspects that are printed when a run is done."""

TASKS = ("classes", "numbers")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(
        epilog="Example: upweight score people.csv --target income --out runs/a. Run it again to go on after an interruption."
    )(score)
    app.command(epilog="Example: upweight check runs/a --refits 30")(check)


@guarded
def score(
    source: Annotated[str, typer.Argument(help="A table (.csv, .tsv, .parquet), or a factory module:function.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    target: Annotated[str | None, typer.Option(help="Column of the table to predict.")] = None,
    model: Annotated[str | None, typer.Option(help="A fitted pipeline (.skops) in place of the default one.")] = None,
    trust: Annotated[list[str] | None, typer.Option(help="A type that the .skops file may hold.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="A table of rows to ask about; none are held out then.")
    ] = None,
    holdout: Annotated[float, typer.Option(help="Share of rows held out to ask about; 0 scores every row.")] = 0.2,
    id: Annotated[str | None, typer.Option(help="Column that names rows; row numbers from 0 otherwise.")] = None,
    task: Annotated[str | None, typer.Option(help="'classes' or 'numbers'; decided by the target otherwise.")] = None,
    refits: Annotated[int, typer.Option(help="Points really left out to check predictions; 0 for none.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find what the training rows did: which labels look wrong, what helped and what hurt."""
    from upweight.runs import Run, Source, open_source

    if task is not None and task not in TASKS:
        raise ConfigError(f"--task {task!r} is unknown. Expected 'classes' or 'numbers'.")
    asked = Source(source, target, model, tuple(trust or ()), validation, holdout, id, task, seed).absolute()
    opened, run = open_source(asked), Run(out)
    for words in opened.words:
        say(words)
    run.start(asked, opened)
    run.score(opened, refits)
    summary = _summary(run, opened)
    say(f"next: upweight report {out} --out report.html")
    answer(summary, as_json, lambda: suspects_table(run, SHOWN))


def _summary(run: Any, opened: Any) -> dict[str, Any]:
    trusted = opened.study.trust()
    each, made = run.joined(), run.refits
    refits = None
    if each is not None and len(made) > 1:
        found = run.calibration(each)
        refits = {"count": len(made), "slope": found.slope, "pearson": found.pearson, "concerns": found.concerns}
        say(
            f"refits: what happened was {found.slope:.3f} times what was predicted, correlation {found.pearson:.4f}, over {len(made)} points really left out"
        )
    elif each is not None and not can_refit(opened.study.fitted):
        say(
            "refits: none, since the network is too large for Newton's method; study.check(query, train=...) makes them"
        )
    for concern in trusted.concerns:
        say(f"beware: {concern}")
    head = run.head
    return {
        "run": str(run.folder),
        "fingerprint": head["fingerprint"],
        "points": opened.study.objective.count,
        "queries_shown": 0 if each is None else len(each),
        "words": head["words"],
        "concerns": trusted.concerns,
        "refits": refits,
        "suspects": suspects_of(run, SHOWN),
    }


@guarded
def check(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    refits: Annotated[int, typer.Option(help="Points really left out, those done before among them.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Leave points out for real, refit, and compare with what was predicted."""
    from upweight.runs import Run

    found = Run(run)
    calibration = found.refit(found.open(), refits)
    figures = {
        "refits": len(calibration.train_ids),
        "queries": len(calibration.query_ids),
        "slope": calibration.slope,
        "pearson": calibration.pearson,
        "spearman": calibration.spearman,
        "relative_error": calibration.relative_error,
        "concerns": calibration.concerns,
    }
    answer(figures, as_json, lambda: repr(calibration))
