"""A convolutional network
=======================

Real digits: which digits helped to read others, how damping is chosen by retraining, and whether to believe it.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import upweight as uw

# %%
# A network with convolutions and a norm, trained by Adam, and the same on other weights.

X, y = load_digits(return_X_y=True)
X, y = torch.as_tensor(X, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.as_tensor(y)
train, asked, tuned = slice(0, 400), slice(400, 420), slice(420, 460)

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
)  # fmt: skip


def fit(model, weights, steps):
    """Adam on Σ wᵢℓᵢ, as the network was trained and as it is retrained."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        (weights @ F.cross_entropy(model(X[train]), y[train], reduction="none")).backward()
        optimizer.step()


def retrain(weights, seed):
    """The same network on other weights, from where it ended."""
    other = copy.deepcopy(net)
    fit(other, torch.as_tensor(weights, dtype=torch.float32), 60)
    return other.state_dict()


# %%
# The study says how the gradient of every parameter is found.

fit(net, torch.full((400,), 1 / 400), 120)
with torch.no_grad():
    right = (net(X[asked]).argmax(1) == y[asked]).float().mean()
print(f"{right:.0%} of the held-out digits are read rightly")
study = uw.Study(net.eval(), (X[train], y[train]), loss="cross_entropy", curvature="ekfac")
print("\n".join(f"{name:10} {rule}" for name, rule in study.coverage.items()))

# %%
# Effects of every training digit on each of twenty others, and the same effects cut along the modules they pass through.

effects = study.drop((X[asked], y[asked]), order="first")
print(effects)  # EK-FAC, its Fisher, its damping, and how much the ranking depends on it
print(effects.helpful(3).head(6))
split = effects.by_module()  # the same effects, cut along the modules they pass through
shares = {name: float(split[name].values.std()) for name in split.modules}
figure, axis = plt.subplots(figsize=(5, 2.4))
axis.barh(list(shares), list(shares.values()))
axis.set_xlabel("spread of effects that pass through it (nats)")
figure.tight_layout()

# %%
# The damping, learned from ten retrainings on random halves, and judged on others.

tuning = study.tune((X[tuned], y[tuned]), train=retrain, refits=10)
print(tuning)
print(tuning.study.drop((X[asked], y[asked]), order="first").verdict)
