"""The damped Gauss-Newton drop of Concrete's network against its proximal response, and, beside it, against retraining.

python benchmarks/quality/responses.py
"""

from __future__ import annotations

import json
import warnings

import torch
from quality.ours import study
from quality.page import RESPONSES
from quality.problem import PROBLEMS
from quality.truth import training_of

from upweight.evaluate import Retraining

POINTS, QUERIES, SEEDS = 20, 20, 5
TIMES = 100
"""Of the setting's λ: at λ itself leaving out a point switches so many ReLUs that its response is no smooth minimum."""


def main() -> None:
    """One study, two truths."""
    warnings.simplefilter("ignore")
    problem = PROBLEMS["concrete"]()
    query = tuple(part[:QUERIES] for part in problem.query)
    λ = TIMES * problem.damping
    asked = study(problem, 0, curvature="ggn", damping=λ, solver="woodbury")
    retraining = Retraining(training_of(problem), road="ensemble", jobs=1)
    checks = {
        "proximal response": asked.check(query, refits=POINTS, truth="pbrf", order="first"),
        f"retrained from {SEEDS} seeds": asked.check(
            query, refits=POINTS, seeds=SEEDS, train=retraining, order="first"
        ),
    }
    words = (
        f"Gauss-Newton influence with λ = {λ:g} of the Concrete network: {POINTS} points left out one at a time, {QUERIES} queries. The proximal response holds the network near where it is, "
        "with the same λ in its definition: it tells whether the arithmetic is right. Retraining tells what happens, through the noise of the seed."
    )
    found = [
        {"truth": truth, "slope": one.slope, "pearson": one.pearson, "spearman": one.spearman, "sentence": one.sentence}
        for truth, one in checks.items()
    ]
    RESPONSES.write_text(json.dumps({"words": words, "checks": found}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(torch.get_num_threads(), found)


if __name__ == "__main__":
    main()
