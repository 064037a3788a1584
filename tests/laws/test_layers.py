"""Every layer rule against plain autograd, in the ways networks really use layers: re-used, tied, overwritten, flattened."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from upweight.adapters.torch import Form, adapt_module
from upweight.gradients import NetworkEngine, engine_for
from upweight.gradients.confirmation import plain_rows
from upweight.gradients.vmap import VmapEngine

N, CLASSES = 7, 3


class Shaped(nn.Module):
    """Layers between a reshaping and a head that averages over positions."""

    def __init__(self, *layers: nn.Module, channels: int, back: str = "channels") -> None:
        super().__init__()
        self.layers, self.back = nn.Sequential(*layers), back
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x):
        found = self.layers(x)
        return self.head(found.flatten(2).mean(2) if self.back == "channels" else found.flatten(1, -2).mean(1))


class Tokens(nn.Module):
    """An embedding whose table is also the output layer."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(CLASSES + 4, 5, padding_idx=0), nn.LayerNorm(5)
        self.out = nn.Linear(5, CLASSES + 4, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, x):
        return self.out(torch.tanh(self.norm(self.table(x)).sum(1)))


class Reused(nn.Module):
    """One layer used three times, once on an input of more positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        hidden = torch.tanh(self.layer(torch.tanh(self.layer(x))))
        return self.head(hidden + self.layer(torch.stack([x, hidden], 1)).sum(1))


class InPlace(nn.Module):
    """Overwrites a layer's output in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        hidden = F.relu(self.first(x), inplace=True)
        moved = self.second(hidden)
        moved += hidden
        return self.head(moved.mul_(2))


class Flattening(nn.Module):
    """Folds tokens into the batch before its layers, as some language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x.flatten(0, 1))).view(len(x), -1, 4).mean(1))


class SequenceFirst(nn.Module):
    """Puts examples on the second axis, as recurrent networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.layer(x.transpose(0, 1)))).mean(0))


class Free(nn.Module):
    """A parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.rand(4)), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.layer(torch.tanh(x * self.scale))


class Recurrent(nn.Module):
    """A recurrent network with a linear head."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.cell, self.head = kind(4, 3, batch_first=True), nn.Linear(3, CLASSES)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Attentive(nn.Module):
    """Self-attention of whole tokens with a linear head."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.head = block, nn.Linear(4, CLASSES)

    def forward(self, x):
        found = self.block(x, x, x)[0] if isinstance(self.block, nn.MultiheadAttention) else self.block(x)
        return self.head(found.mean(1))


def bagged() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(6, 4, mode="sum"), nn.Tanh(), nn.Linear(4, CLASSES))


def vectors(*shape: int) -> torch.Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens(length: int) -> torch.Tensor:
    return torch.randint(0, 6, (N, length), generator=torch.Generator().manual_seed(1))


def conv(*layers: nn.Module, channels: int) -> Shaped:
    return Shaped(*layers, channels=channels)


def sharing(model: nn.Module, first: int, second: int) -> nn.Module:
    """Two layers of a sequence with one weight."""
    layers = model.layers if isinstance(model, Shaped) else model
    layers[second].weight = layers[first].weight
    return model


CASES = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES, bias=False)), vectors(4)),
    "linear over positions": (lambda: Shaped(nn.Linear(4, 5), nn.Tanh(), channels=5, back="last"), vectors(6, 4)),
    "conv1d": (lambda: conv(nn.Conv1d(2, 5, 3, padding=1, dilation=2), nn.Tanh(), channels=5), vectors(2, 9)),
    "conv2d": (lambda: conv(nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.Tanh(), channels=5), vectors(2, 7, 6)),
    "conv2d same": (lambda: conv(nn.Conv2d(2, 5, (3, 1), padding="same"), nn.Tanh(), channels=5), vectors(2, 5, 6)),
    "conv2d circular": (
        lambda: conv(nn.Conv2d(2, 5, 3, padding=1, padding_mode="circular", bias=False), nn.Tanh(), channels=5),
        vectors(2, 5, 6),
    ),
    "conv3d": (lambda: conv(nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), nn.Tanh(), channels=3), vectors(2, 3, 5, 4)),
    "grouped": (lambda: conv(nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.Tanh(), channels=6), vectors(4, 5, 5)),
    "depthwise": (lambda: conv(nn.Conv1d(4, 8, 3, groups=4, bias=False), nn.Tanh(), channels=8), vectors(4, 6)),
    "transposed1d": (
        lambda: conv(nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1), nn.Tanh(), channels=3),
        vectors(2, 5),
    ),
    "transposed2d": (
        lambda: conv(nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1, padding=1), nn.Tanh(), channels=3),
        vectors(2, 4, 3),
    ),
    "embedding": (lambda: Tokens(False), tokens(5)),
    "embedding without padding": (
        lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Tanh(), nn.Linear(15, CLASSES)),
        tokens(5),
    ),
    "tied": (lambda: Tokens(True), tokens(5)),
    "tied convolutions": (
        lambda: sharing(
            conv(
                nn.Conv2d(2, 2, 3, padding=1, bias=False),
                nn.Tanh(),
                nn.Conv2d(2, 2, 3, padding=1, bias=False),
                channels=2,
            ),
            0,
            2,
        ),
        vectors(2, 4, 3),
    ),
    "tied, biases of their own": (
        lambda: sharing(
            nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, CLASSES)), 0, 2
        ),
        vectors(4),
    ),
    "embedding bag": (bagged, tokens(4)),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, CLASSES)),
        vectors(4),
    ),
    "layer norm of two axes": (
        lambda: conv(nn.Conv1d(2, 3, 1), nn.LayerNorm([3, 6]), nn.Tanh(), channels=3),
        vectors(2, 6),
    ),
    "rms norm": (lambda: Shaped(nn.Linear(4, 5), nn.RMSNorm(5), nn.Tanh(), channels=5, back="last"), vectors(3, 4)),
    "group norm": (lambda: conv(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), channels=4), vectors(2, 5, 5)),
    "batch norm": (lambda: conv(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), channels=4), vectors(2, 5, 5)),
    "instance norm": (
        lambda: conv(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Tanh(), channels=4),
        vectors(2, 5, 5),
    ),
    "reused": (Reused, vectors(4)),
    "in place": (InPlace, vectors(4)),
    "flattened": (Flattening, vectors(5, 4)),
    "sequence first": (SequenceFirst, vectors(5, 4)),
    "sequence first as long as the check": (SequenceFirst, vectors(3, 4)),
    "free parameter": (Free, vectors(4)),
    "lstm": (lambda: Recurrent(nn.LSTM), vectors(5, 4)),
    "gru": (lambda: Recurrent(nn.GRU), vectors(5, 4)),
    "rnn": (lambda: Recurrent(nn.RNN), vectors(5, 4)),
    "attention": (lambda: Attentive(nn.MultiheadAttention(4, 2, batch_first=True)), vectors(5, 4)),
    "transformer": (
        lambda: Attentive(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True)),
        vectors(5, 4),
    ),
}
LEFT_TO_VMAP = {
    "free parameter": {"scale"},
    "embedding bag": {"0.weight"},
    "attention": {"block.in_proj_weight", "block.in_proj_bias", "block.out_proj.weight", "block.out_proj.bias"},
}


def objective_of(name: str, dtype=torch.float64, **form):
    make, X = CASES[name]
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():  # norms start at one and zero, which would hide a mistake
        for p in model.parameters():
            p.add_(0.3 * torch.rand_like(p))
    return adapt_module(model.to(dtype), (X, torch.arange(N) % CLASSES), Form("cross_entropy", **form)).objective


@pytest.mark.parametrize("name", CASES)
def test_rows_and_jacobians_equal_plain_autograd(name):
    objective = objective_of(name)
    engine, general = engine_for(objective), VmapEngine(objective)
    assert isinstance(engine, NetworkEngine)
    batch = objective.examples.read(slice(0, N))
    truth = plain_rows(general, range(N))
    block = engine.gradients(batch)
    torch.testing.assert_close(block.dense(), truth, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(block.squared_norms(), truth.square().sum(1), atol=1e-10, rtol=1e-8)
    rows, weights = torch.randn(4, objective.space.size).double(), torch.rand(N).double()
    torch.testing.assert_close(block.against(rows), truth @ rows.T, atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(block.sum(weights), weights @ truth, atol=1e-9, rtol=1e-8)
    total = torch.ones_like(truth[0])
    block.add_sum(weights, total)
    torch.testing.assert_close(total - 1, weights @ truth, atol=1e-9, rtol=1e-8)
    jacobian, twin = engine.jacobian(batch), general.jacobian(batch)
    torch.testing.assert_close(jacobian.dense(), twin.dense(), atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(jacobian.jvp(rows), twin.jvp(rows), atol=1e-9, rtol=1e-8)
    u = torch.randn(N, twin.dense().shape[1]).double()
    torch.testing.assert_close(jacobian.vjp(u).dense(), twin.vjp(u).dense(), atol=1e-9, rtol=1e-8)
    chosen = torch.tensor([4, 1])
    torch.testing.assert_close(jacobian.select(chosen).dense(), twin.dense()[chosen], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_the_coverage_table_says_what_is_left_to_vmap(name):
    engine = engine_for(objective_of(name))
    left = {parameter for parameter, how in engine.coverage.items() if how in ("vmap", "one by one")}
    if name in ("lstm", "gru", "rnn"):
        assert left == {p for p in engine.objective.space.names if p.startswith("cell.")}
    elif name == "transformer":
        assert left == {p for p in engine.objective.space.names if "self_attn" in p}
    else:
        assert left == LEFT_TO_VMAP.get(name, set())


@pytest.mark.parametrize("name", ["linear", "conv2d", "tied", "reused", "in place", "flattened", "free parameter"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_rows_do_not_depend_on_the_batch_size(name, batch_size):
    objective = objective_of(name)
    small = objective_of(name, batch_size=batch_size)
    torch.testing.assert_close(uw.rows(small).dense(), uw.rows(objective).dense(), atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("parameters", ["layers.0.weight", "layers.0.bias", "head.*", ["layers.0.bias", "head.weight"]])
def test_any_part_of_a_layer_may_be_tracked(parameters):
    objective = objective_of("conv2d", parameters=parameters)
    truth = plain_rows(VmapEngine(objective), range(N))
    torch.testing.assert_close(
        engine_for(objective).gradients(objective.examples.read(slice(0, N))).dense(), truth, atol=1e-10, rtol=1e-8
    )


@pytest.mark.parametrize("name", ["linear", "conv2d", "layer norm", "tied"])
def test_float32_rows_agree_to_single_precision(name):
    double, single = uw.rows(objective_of(name)).dense(), uw.rows(objective_of(name, torch.float32)).dense()
    torch.testing.assert_close(single.double(), double, atol=2e-5 * float(double.abs().max()), rtol=1e-4)


def test_a_rule_that_the_first_examples_cannot_confirm_is_not_believed():
    """Zero inputs have zero weight gradients, right by any rule; small gradients hide a factor of ten in a big sum."""

    class Scaled(nn.Linear):
        def forward(self, x):
            return F.linear(x, 0.1 * self.weight, self.bias)

    torch.manual_seed(0)
    X = vectors(5)
    X[[0, 1, 2, 4, 5, 6]] = 0
    blank = nn.Sequential(Scaled(5, 3), nn.Tanh(), nn.Linear(3, CLASSES)).double().eval()
    deep = nn.Sequential(
        Scaled(5, 5), *[nn.Sequential(nn.Linear(5, 5), nn.Sigmoid()) for _ in range(5)], nn.Linear(5, 3)
    )
    for model, data in ((blank, X), (deep.float().eval(), vectors(5).float())):
        objective = adapt_module(model, (data, torch.arange(N) % CLASSES), Form("cross_entropy")).objective
        engine = engine_for(objective)
        assert engine.coverage["0.weight"] == "vmap"
        truth = plain_rows(VmapEngine(objective), range(N))
        found = engine.gradients(objective.examples.read(slice(0, N))).dense()
        torch.testing.assert_close(found, truth, atol=1e-4 * float(truth.abs().max()), rtol=1e-3)


class Routed(nn.Module):
    """Two experts, each given the tokens of the batch that are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.head = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), nn.Linear(4, CLASSES)

    def forward(self, x):
        flat, out = x.flatten(0, 1), torch.zeros_like(x.flatten(0, 1))
        for k, expert in enumerate(self.experts):
            mine = (flat[:, 0] > 0) == bool(k)
            out = out.masked_scatter(mine.unsqueeze(1).expand_as(out), expert(flat[mine]))
        return self.head(torch.tanh(out).view_as(x).mean(1))


def test_layers_that_see_a_different_part_of_every_batch_are_left_to_plain_rows():
    torch.manual_seed(0)
    model = Routed().double().eval()
    X = vectors(5, 4)
    objective = adapt_module(model, (X, torch.arange(N) % CLASSES), Form("cross_entropy")).objective
    engine = engine_for(objective)
    assert all(how != "Linear" for name, how in engine.coverage.items() if name.startswith("experts"))
    truth = plain_rows(VmapEngine(objective), range(N))
    torch.testing.assert_close(
        engine.gradients(objective.examples.read(slice(0, N))).dense(), truth, atol=1e-10, rtol=1e-8
    )


def test_jacobians_that_torch_vectorises_wrongly_are_taken_one_by_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.PReLU(), nn.Linear(5, 4)).double().eval()
    for batch_size in (4, 7, 3):
        objective = adapt_module(
            model, (vectors(3), torch.arange(N) % 4), Form("cross_entropy", batch_size=batch_size)
        ).objective
        engine = engine_for(objective)
        for where, batch in engine.batches():
            for o, row in enumerate(engine.jacobian(batch).dense().unbind(1)):
                unit = torch.zeros(len(row), 4, dtype=torch.float64)
                unit[:, o] = 1
                truth = plain_rows(VmapEngine(objective), range(where.start, where.stop), unit)
                torch.testing.assert_close(row, truth, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("width", [4, 21])  # 21 inputs can be read as 3 or 7 examples
def test_a_subclass_that_computes_something_else_is_not_believed(width):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x) + self.weight.sum()

    torch.manual_seed(0)
    model = nn.Sequential(Doubled(width, width), nn.Tanh(), nn.Linear(width, CLASSES)).double().eval()
    objective = adapt_module(model, (vectors(width), torch.arange(N) % CLASSES), Form("cross_entropy")).objective
    engine = engine_for(objective)
    assert engine.coverage["0.weight"] == "vmap" and engine.coverage["2.weight"] == "Linear"
    truth = plain_rows(VmapEngine(objective), range(N))
    torch.testing.assert_close(
        engine.gradients(objective.examples.read(slice(0, N))).dense(), truth, atol=1e-10, rtol=1e-8
    )


class Sorted(nn.Module):
    """A model that sorts its batch by the first input: the right number of rows, in another order."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        order = torch.argsort(x[:, 0], stable=True)
        return self.b(torch.tanh(self.a(x[order])))[torch.argsort(order)]


@pytest.mark.parametrize("ends", [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
def test_layers_that_see_a_sorted_batch_are_left_to_plain_rows(ends):
    torch.manual_seed(0)
    X, y = torch.randn(60, 4, dtype=torch.float64), torch.arange(60) % 3
    X[:3, 0] = X[-3:, 0] = torch.tensor(ends, dtype=torch.float64)
    objective = adapt_module(Sorted().double().eval(), (X, y), Form("cross_entropy")).objective
    truth = plain_rows(VmapEngine(objective), range(60))
    torch.testing.assert_close(uw.rows(objective).dense(), truth, rtol=1e-8, atol=1e-10)
