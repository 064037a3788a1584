"""Find wrong labels in real digits, and see what correcting them does: a few seconds, no download."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import upweight as uw

WRONG = 60
rng = np.random.default_rng(1)
X, y = load_digits(return_X_y=True)
X, y = X[(order := rng.permutation(len(y)))] / 16, y[order]
X, y, Xt, yt = X[400:], y[400:], X[:400], y[:400]

noisy = y.copy()
wrong = rng.choice(len(y), WRONG, replace=False)
noisy[wrong] = (y[wrong] + rng.integers(1, 10, WRONG)) % 10

model = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(X, noisy)
study = uw.from_sklearn(model, X, noisy)

suspects = study.mislabeled(WRONG)
found = np.intersect1d(suspects["train"], wrong)
print(suspects.head(8).to_string(index=False))
print(f"\n{len(found)} of the {WRONG} wrong labels are among the first {WRONG} suspects")

# What would relabelling the first suspects, one at a time, do to the mean loss of the held-out digits?
first = suspects.head(8)
effects = study.relabel(dict(zip(first["train"], first["predicted"])), (Xt, yt), aggregate="mean")
print(f"predicted change of the mean held-out loss, label by label: {np.round(effects.values[0], 5)}")

corrected = noisy.copy()
corrected[found] = y[found]
cleaned = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(X, corrected)
before, after = (log_loss(yt, fitted.predict_proba(Xt)) for fitted in (model, cleaned))
print(f"mean held-out loss {before:.3f} as fitted, {after:.3f} after correcting those that were found")
