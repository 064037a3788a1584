"""Label errors in an image set
============================

Real digits, some with a wrong label: which pictures to look at first, what correcting them would do to held-out digits, and
what it did. A few seconds, no download.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import upweight as uw

WRONG = 60

# %%
# A training set in which sixty labels are wrong, and 400 held-out digits whose labels are right.

rng = np.random.default_rng(1)
X, y = load_digits(return_X_y=True)
X, y = X[(order := rng.permutation(len(y)))] / 16, y[order]
X, y, Xt, yt = X[400:], y[400:], X[:400], y[:400]

noisy = y.copy()
wrong = rng.choice(len(y), WRONG, replace=False)
noisy[wrong] = (y[wrong] + rng.integers(1, 10, WRONG)) % 10

model = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(X, noisy)
study = uw.from_sklearn(model, X, noisy)

# %%
# The suspects: whose own loss would rise most without it? Loss and the model's confidence stand beside it.

suspects = study.mislabeled(WRONG)
found = np.intersect1d(suspects["train"], wrong)
print(suspects.head(8).to_string(index=False))
print(f"\n{len(found)} of the {WRONG} wrong labels are among the first {WRONG} suspects")

# %%
# A person looks at the pictures. ``study.report("report.html", query=(Xt, yt), display="images")`` writes a page to decide in; here
# are the first of it.

figure, axes = plt.subplots(3, 8, figsize=(9, 4.2))
for axis, row in zip(axes.flat, suspects.itertuples(), strict=False):
    axis.imshow(X[row.train].reshape(8, 8), cmap="gray_r")
    axis.set_title(f"{row.label} → {row.predicted}{'' if row.train in wrong else ' ?'}", fontsize=9)
    axis.axis("off")
figure.suptitle("given label → what the model would say; ? marks labels that were right", fontsize=10)
figure.tight_layout()

# %%
# What would relabelling the first suspects, one at a time, do to the mean loss of the held-out digits?

first = suspects.head(8)
effects = study.relabel(dict(zip(first["train"], first["predicted"], strict=True)), (Xt, yt), aggregate="mean")
print(f"predicted change of the mean held-out loss, label by label: {np.round(effects.values[0], 5)}")

# %%
# All decisions together, predicted and refitted.

decisions = [{"train": int(i), "decision": "relabel", "label": int(y[i])} for i in found]
print(study.what_if(decisions, (Xt, yt)))

corrected = noisy.copy()
corrected[found] = y[found]
cleaned = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(X, corrected)
before, after = (log_loss(yt, fitted.predict_proba(Xt)) for fitted in (model, cleaned))
print(f"mean held-out loss {before:.3f} as fitted, {after:.3f} after correcting those that were found")
