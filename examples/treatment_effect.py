"""A treatment effect that hangs on few rows: LaLonde's job training experiment, from fit to the men it rests on.

Needs statsmodels, and causaldata for the data:  pip install statsmodels causaldata
"""

from __future__ import annotations

import causaldata
import statsmodels.formula.api as smf

import upweight as uw

FORMULA = "re78 ~ treat + age + educ + black + hisp + marr + nodegree + re74 + re75"


def fit(frame):
    """Earnings in 1978 on the treatment and what was known before it, with robust standard errors."""
    return smf.ols(FORMULA, frame).fit(cov_type="HC3", use_t=True)


def main() -> None:
    men = causaldata.nsw_mixtape.load_pandas().data
    men.index = [f"man {place}" for place in men.index]
    results = fit(men)
    study = uw.from_statsmodels(results)

    print(f"The training is worth ${results.params['treat']:,.0f} a year, p = {results.pvalues['treat']:.3f}.\n")
    for claim in ("significance", "sign"):
        found = study.worst_case(claim, of="treat")
        print(f"{claim}: {found.verdict}\n")
        print(found.to_pandas().round(3).to_string(), "\n")

    again = fit(men.drop(index=list(found.ids)))
    print(f"statsmodels, refitted without those {len(found.ids)} men: ${again.params['treat']:,.0f} a year.")
    print("\nWho they are, beside everybody:")
    columns = ["treat", "educ", "black", "re75", "re78"]
    print(men.loc[list(found.ids), columns].describe().loc[["mean", "min", "max"]].round(1).to_string())
    print(men[columns].describe().loc[["mean", "min", "max"]].round(1).to_string())

    print("\nHow much of the doubt is in the standard errors one chooses:")
    for kind in ("classical", "hc1", "hc3", "ij"):
        print(f"  {kind:9}  ${study.standard_errors(kind)['treat']:,.0f}")
    print(f"\nOut of sample: {study.cross_validation()}")


if __name__ == "__main__":
    main()
