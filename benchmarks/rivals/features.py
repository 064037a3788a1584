"""Where each library keeps what: every name is looked up in the installed package, so that no cell is hearsay.

PYTHONPATH=benchmarks:benchmarks/rivals python benchmarks/rivals/features.py dattri captum pyDVL kronfluence
"""

from __future__ import annotations

import datetime
import importlib
import inspect
import json
import sys
from importlib import metadata

FEATURES: dict[str, dict[str, str]] = {
    "exact inverse Hessian": {
        "upweight": "upweight.curvature.hessian",
        "dattri": "dattri.algorithm.influence_function.IFAttributorExplicit",
        "captum": "captum.influence.NaiveInfluenceFunction",
        "pyDVL": "pydvl.influence.torch.DirectInfluence",
    },
    "conjugate gradients": {
        "upweight": "upweight.solve.BlockCG",
        "dattri": "dattri.algorithm.influence_function.IFAttributorCG",
        "pyDVL": "pydvl.influence.torch.CgInfluence",
    },
    "all queries in one solve": {
        "upweight": "upweight.solve.BlockCG",
        "pyDVL": "pydvl.influence.torch.CgInfluence(solve_simultaneously)",
    },
    "EK-FAC": {
        "upweight": "upweight.curvature.ekfac",
        "dattri": "dattri.algorithm.influence_function.IFAttributorEKFAC",
        "pyDVL": "pydvl.influence.torch.EkfacInfluence",
        "kronfluence": "kronfluence.analyzer.Analyzer.fit_lambda_matrices",
    },
    "LiSSA": {
        "upweight": "upweight.solve.Neumann",
        "dattri": "dattri.algorithm.influence_function.IFAttributorLiSSA",
        "pyDVL": "pydvl.influence.torch.LissaInfluence",
    },
    "low rank (Arnoldi, Lanczos, Nyström)": {
        "upweight": "upweight.solve.nystrom",
        "dattri": "dattri.algorithm.influence_function.IFAttributorArnoldi",
        "captum": "captum.influence._core.arnoldi_influence_function.ArnoldiInfluenceFunction",
        "pyDVL": "pydvl.influence.torch.NystroemSketchInfluence",
    },
    "TracIn": {
        "upweight": "upweight.methods.tracin",
        "dattri": "dattri.algorithm.tracin.TracInAttributor",
        "captum": "captum.influence.TracInCP",
    },
    "TRAK": {"upweight": "upweight.methods.trak", "dattri": "dattri.algorithm.trak.TRAKAttributor"},
    "DataInf": {
        "upweight": "upweight.methods.datainf",
        "dattri": "dattri.algorithm.influence_function.IFAttributorDataInf",
    },
    "a training input is perturbed (I_pert,loss)": {
        "upweight": "upweight.Study.perturb",
        "pyDVL": "pydvl.influence.InfluenceMode.Perturbation",
    },
    "self-influence": {
        "upweight": "upweight.Study.self_influence",
        "dattri": "dattri.algorithm.base.BaseInnerProductAttributor.self_attribute",
        "captum": "captum.influence.NaiveInfluenceFunction.self_influence",
        "kronfluence": "kronfluence.analyzer.Analyzer.compute_self_scores",
    },
    "leaving out, corrected for leverage": {"upweight": "upweight.Study.leverage"},
    "a group left out by a Newton step": {"upweight": "upweight.Study.drop_group"},
    "relabel, replace, add, reweight": {"upweight": "upweight.Study.relabel"},
    "worst-case sets": {"upweight": "upweight.Study.worst_case"},
    "refits to compare with, in one call": {
        "upweight": "upweight.Study.check",
        "dattri": "dattri.metric.calculate_loo_ground_truth",
    },
    "how well wrong labels are found": {
        "upweight": "upweight.evaluate.mislabel_detection",
        "dattri": "dattri.metric.mislabel_detection_auc",
    },
    "linear datamodeling score": {"upweight": "upweight.evaluate.lds", "dattri": "dattri.metric.lds"},
    "a page to review suspects in": {"upweight": "upweight.Study.report"},
}
"""Feature: library: where it is; a parameter in brackets is one of that callable. What is left out was not found by reading."""


def there(path: str) -> bool:
    """Import, and look up."""
    name, _, parameter = path.rstrip(")").partition("(")
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return not parameter or parameter in inspect.signature(found).parameters
    return False


def main(libraries: list[str]) -> None:
    """One JSON line a library."""
    for library in libraries:
        found = {feature: where[library] for feature, where in FEATURES.items() if library in where}
        absent = [path for path in found.values() if not there(path)]
        if absent:
            raise SystemExit(f"{library} has no {', '.join(absent)}: its version moved; correct features.py")
        about = {"library": library, "version": metadata.version(library), "date": datetime.date.today().isoformat()}
        print(json.dumps(about | {"features": found}, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
