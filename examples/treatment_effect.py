"""A treatment effect that hangs on few rows
=========================================

LaLonde's job training experiment, from the fit to the men it rests on. Needs statsmodels, and causaldata for the data:
``pip install statsmodels causaldata``.
"""

import causaldata
import matplotlib.pyplot as plt
import statsmodels.formula.api as smf

import upweight as uw

FORMULA = "re78 ~ treat + age + educ + black + hisp + marr + nodegree + re74 + re75"

# %%
# Earnings in 1978 on the treatment and on what was known before it, with robust standard errors. Rows have names.

men = causaldata.nsw_mixtape.load_pandas().data
men.index = [f"man {place}" for place in men.index]


def fit(frame):
    return smf.ols(FORMULA, frame).fit(cov_type="HC3", use_t=True)


results = fit(men)
print(f"The training is worth ${results.params['treat']:,.0f} a year, p = {results.pvalues['treat']:.3f}.")

# %%
# How few men does that rest on? Two searches, each confirmed by a refit.

study = uw.from_statsmodels(results)
found = {claim: study.worst_case(claim, of="treat") for claim in ("significance", "sign")}
for claim, worst in found.items():
    print(f"{claim}: {worst.verdict}\n")
    print(worst.to_pandas().round(3).to_string(), "\n")

# %%
# The path of both: predicted by adding up single effects, and as refitted after each deletion.

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
for axis, worst in zip(axes, found.values(), strict=True):
    worst.plot(axis)
figure.tight_layout()

# %%
# The same set left out by statsmodels itself, and who these men are.

gone = list(found["sign"].ids)
again = fit(men.drop(index=gone))
print(f"statsmodels, refitted without those {len(gone)} men: ${again.params['treat']:,.0f} a year.")
columns = ["treat", "educ", "black", "re75", "re78"]
for words, frame in ((f"the {len(gone)} left out", men.loc[gone]), ("everybody", men)):
    print(f"\n{words}\n{frame[columns].describe().loc[['mean', 'min', 'max']].round(1).to_string()}")

# %%
# How much of the doubt is in the standard error one chooses, and what the regression is worth out of sample.

for kind in ("classical", "hc1", "hc3", "ij"):
    print(f"{kind:9}  ${study.standard_errors(kind)['treat']:,.0f}")
print(study.cross_validation())
