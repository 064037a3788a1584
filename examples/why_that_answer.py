"""Why did the model say that?
===========================

A network reads a held-out digit wrongly. Which training digits taught it to, and does it read the digit rightly when they
are really left out?
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import upweight as uw

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.as_tensor(X / 16, dtype=torch.float32), torch.as_tensor(y)
train, held_out = (X[:700], y[:700]), (X[700:1200], y[700:1200])

# %%
# A small network, trained with a weight decay to where its gradient is next to nothing.


def fit(weights):
    """The minimum of Σ wᵢℓᵢ + (.002/2)‖θ‖², from the same start."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=1500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def objective():
        optimizer.zero_grad()
        value = weights @ F.cross_entropy(net(train[0]), train[1], reduction="none")
        value = value + 0.001 * sum(p.square().sum() for p in net.parameters())
        value.backward()
        return value

    optimizer.step(objective)
    return net.eval()


equal = torch.full((700,), 1 / 700)
net = fit(equal)
said = net(held_out[0]).softmax(1).detach()
wrong = np.flatnonzero((said.argmax(1) != held_out[1]).numpy())
print(f"{len(wrong)} of 500 held-out digits are read wrongly")

# %%
# One of them, the one the network is least sure of, and what each training digit does to its margin.

closest = int(wrong[said[wrong].max(1).values.argmin()])
query = held_out[0][closest : closest + 1], held_out[1][closest : closest + 1]
label, instead = int(query[1]), int(said[closest].argmax())
study = uw.Study(net, train, loss="cross_entropy", penalty=uw.L2(0.002), curvature="ggn")
effects = study.drop(query, measure="margin")  # log p/(1 − p) of the label
print(effects)
raises, lowers = effects.raises(5)["train"], effects.lowers(5)["train"]

# %%
# Above, those whose absence would let it see the right digit; below, those it would be further from it without.

figure, axes = plt.subplots(2, 6, figsize=(8.5, 3.4))
for row, (points, words) in enumerate(((raises, "without it, nearer"), (lowers, "without it, further"))):
    shown = [(query[0][0], f"a {label}, read as {instead}"), *((X[i], f"a {int(y[i])}") for i in points)]
    for axis, (picture, title) in zip(axes[row], shown, strict=True):
        axis.imshow(picture.reshape(8, 8), cmap="gray_r")
        axis.set_title(title, fontsize=8)
        axis.axis("off")
    axes[row, 1].text(-1, 10, words, fontsize=8)
figure.tight_layout()

# %%
# The experiment: leave out the twenty that hold the wrong answer up, train again, and compare with what was predicted.

gone = effects.raises(20)["train"].tolist()
predicted = study.drop_group([gone], query, measure="margin").values[0, 0]
again = fit(torch.where(torch.isin(torch.arange(700), torch.tensor(gone)), 0.0, equal))


def margin(model):
    with torch.no_grad():
        p = model(query[0]).softmax(1)[0, label]
    return float(p.log() - (1 - p).log())


print(
    f"margin {margin(net):.2f}; without the twenty predicted {margin(net) + predicted:.2f}, retrained {margin(again):.2f}"
)
print(f"it is a {label}, was read as a {instead}, and is read as a {int(again(query[0]).argmax())} after retraining")
