"""Language models of transformers: padding, labels, adapters, kernels, tokens; every answer held against plain autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import upweight as uw
from networks import plain_gradient, relative
from upweight.errors import (
    ConfigError,
    EmptyDataset,
    InputError,
    LabelError,
    ModelError,
    NondeterministicModel,
    OrderError,
    ShapeError,
)
from upweight.store import Store

transformers = pytest.importorskip("transformers")
hf = uw.huggingface
V, LONGEST = 29, 9
EKFAC = {"curvature": "ekfac", "damping": 1e-2, "fisher": "empirical"}
pytestmark = [
    pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def made(build, config, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(config).to(dtype).eval()


def gpt2(dtype=torch.float64, **more):
    sizes = {"vocab_size": V, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, **more)
    return made(transformers.GPT2LMHeadModel, config, dtype)


def llama(dtype=torch.float64):
    sizes = {"vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16)
    return made(transformers.LlamaForCausalLM, config, dtype)


def bert(dtype=torch.float64, **more):
    sizes = {"vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = transformers.BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=16, **more)
    return made(transformers.BertForSequenceClassification, config, dtype)


def sentences(n, seed=0):
    generator = np.random.default_rng(seed)
    return [{"input_ids": generator.integers(1, V, generator.integers(3, LONGEST + 1)).tolist()} for _ in range(n)]


def labelled(n, seed=0):
    return [{**item, "label": k % 2} for k, item in enumerate(sentences(n, seed))]


def padded(items, side, length=LONGEST, token=0):
    """The same with padding and a mask, as tokenizers return them."""
    found = []
    for item in items:
        room = length - len(item["input_ids"])
        ids, mask = item["input_ids"], [1] * len(item["input_ids"])
        before, after = (room, 0) if side == "left" else (0, room)
        row = {
            "input_ids": [token] * before + ids + [token] * after,
            "attention_mask": [0] * before + mask + [0] * after,
        }
        if "labels" in item:
            row["labels"] = [-100] * before + item["labels"] + [-100] * after
        found.append({**row, **({"label": item["label"]} if "label" in item else {})})
    return found


def causal_loss(model, item):
    """Σ −log p of the labels, by hand, of one sequence without padding."""
    ids = torch.tensor([item["input_ids"]])
    labels = torch.tensor([item.get("labels", item["input_ids"])])
    logits = model(input_ids=ids).logits
    return F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")


def gradients(model, items, names, loss=causal_loss):
    return torch.stack([plain_gradient(model, loss(model, item), names) for item in items])


def by_hand(study, model, train, query, loss=causal_loss):
    """First-order drops from plain gradients of unpadded sequences and the study's own inverse."""
    names = list(study.objective.space.names)
    G, T = gradients(model, train, names, loss), gradients(model, query, names, loss)
    return T @ study.fitted.blocked.inverse.operator @ G.T / len(train)


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_on_either_side_changes_no_answer(build, side):
    model, train, query = build(), sentences(12), sentences(3, 5)
    study = hf.causal_lm(model, train, **EKFAC)
    found = study.drop(query, order="first").values
    assert relative(found, by_hand(study, model, train, query)) < 1e-6
    other = hf.causal_lm(model, padded(train, side, 12), length=13, batch_size=5, **EKFAC)
    assert relative(other.drop(padded(query, side), order="first").values, found) < 1e-6


def test_transposed_linear_layers_of_gpt2_have_a_rule():
    study = hf.causal_lm(gpt2(), sentences(12), **EKFAC)
    assert "Conv1D" in study.coverage.values() and "vmap" not in study.coverage.values()


def test_a_batch_of_any_size_and_any_order_gives_the_same_scores():
    model, train, query = gpt2(), sentences(12), sentences(3, 5)
    found = hf.causal_lm(model, train, **EKFAC).drop(query, order="first").values
    order = np.argsort([len(item["input_ids"]) for item in train])
    bucketed = hf.causal_lm(model, [train[k] for k in order], ids=order, batch_size=4, **EKFAC)
    sorted_back = bucketed.drop(query, which=list(range(12)), order="first").values
    assert relative(sorted_back, found) < 1e-8


def test_tokens_labelled_minus_100_are_not_learnt():
    model, query = gpt2(), sentences(2, 5)
    train = [{**item, "labels": [-100, -100, *item["input_ids"][2:]]} for item in sentences(10)]
    study = hf.causal_lm(model, train, **EKFAC)
    assert relative(study.drop(query, order="first").values, by_hand(study, model, train, query)) < 1e-6
    careless = [{**row, "labels": row["input_ids"]} for row in padded(sentences(10), "right")]
    said = hf.causal_lm(model, careless, **EKFAC).drop(query, order="first")
    assert any("stood on padding" in note for note in said.notes)
    plain = hf.causal_lm(model, sentences(10), **EKFAC).drop(query, order="first")
    assert relative(said.values, plain.values) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_parameter_of_gpt2_is_served_by_a_rule_and_tied_embeddings_are_right(dtype):
    model, train = gpt2(dtype), sentences(8)
    study = hf.causal_lm(model, train, parameters="*", strict=True, **EKFAC)
    rows, names = uw.rows(study.objective).dense(), list(study.objective.space.names)
    assert "transformer.wte.weight" in names and "lm_head.weight" not in names
    assert relative(rows, gradients(model, train, names)) < (1e-8 if dtype is torch.float64 else 1e-4)


def test_every_parameter_of_llama_is_served_by_a_rule():
    model, train = llama(torch.float32), sentences(8)
    study = hf.causal_lm(model, train, parameters="*", strict=True, **EKFAC)
    assert "LlamaRMSNorm" in study.coverage.values()
    rows = uw.rows(study.objective).dense()
    assert relative(rows, gradients(model, train, list(study.objective.space.names))) < 1e-4


def test_linear_layers_are_tracked_and_the_output_embedding_is_not():
    names = hf.causal_lm(llama(), sentences(6), **EKFAC).objective.space.names
    assert len(names) == 14 and not any("embed" in name or "lm_head" in name or "norm" in name for name in names)


def test_adapters_are_what_is_tracked():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(gpt2(), peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, p in model.named_parameters():
            p.data = p.data.double()
            if "lora_B" in name:
                p.normal_(0, 0.1)  # as they begin, at zero, half of the gradients vanish
    train, query = sentences(10), sentences(2, 5)
    study = hf.causal_lm(model, train, **EKFAC)
    names = study.objective.space.names
    assert len(names) == 4 and all("lora_" in name for name in names)
    assert set(study.coverage.values()) == {"Linear"}
    assert relative(study.drop(query, order="first").values, by_hand(study, model, train, query)) < 1e-6
    model.merge_adapter()
    with pytest.raises(ModelError, match="unmerge_adapter"):
        hf.causal_lm(model, train, **EKFAC)


def test_a_bfloat16_model_ranks_as_the_float32_one():
    train, query = sentences(30), sentences(3, 5)
    a = hf.causal_lm(gpt2(torch.float32), train, **EKFAC).drop(query, order="first").values
    b = hf.causal_lm(gpt2(torch.bfloat16), train, **EKFAC).drop(query, order="first").values
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98


def test_the_log_probability_of_a_completion_is_measured():
    model, train = gpt2(), sentences(10)
    query = hf.completions([[3, 4], [5, 6, 7]], [[8, 9], [1]])
    assert query[0] == {"input_ids": [3, 4, 8, 9], "labels": [-100, -100, 8, 9]}
    study = hf.causal_lm(model, train, **EKFAC)
    found = study.drop(query, measure=hf.log_probability, order="first")
    assert relative(found.values, -by_hand(study, model, train, query)) < 1e-6
    question = uw.rows(study.objective, study.fitted.adapted.codec.read(query, "query"), measure=hf.log_probability)
    names = list(study.objective.space.names)
    assert relative(question.dense(), -gradients(model, query, names)) < 1e-8


def test_texts_become_completions_by_a_tokenizer():
    def tokenizer(text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [ord(letter) % V for letter in text]}

    (found,) = hf.completions(["ab"], ["c"], tokenizer)
    assert found["input_ids"] == [1, 97 % V, 98 % V, 99 % V] and found["labels"][:3] == [-100] * 3


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("of", ["train", "query"])
def test_effects_of_tokens_add_up_to_the_effect_of_the_sequence(build, of):
    study, query = hf.causal_lm(build(), sentences(10), **EKFAC, penalty=uw.L2(1e-3)), sentences(3, 5)
    cut = study.token_effects(query, [0, 3, 7], of=of)
    whole = study.drop(query, which=[0, 3, 7], order="first").values
    assert relative(cut.total, whole) < 1e-6 and np.abs(cut.rest).max() > 0
    assert cut.values.shape == (3, 3, max(len(item["input_ids"]) for item in sentences(10)))
    assert len(cut.to_pandas()) == np.count_nonzero(cut.values)


def test_the_effect_of_one_token_is_that_of_its_label_alone():
    model, train, query = gpt2(), sentences(8), sentences(2, 5)
    study = hf.causal_lm(model, train, **EKFAC)
    names, P = list(study.objective.space.names), study.fitted.blocked.inverse.operator
    T = gradients(model, query, names)
    ids = train[4]["input_ids"]
    alone = [
        {"input_ids": ids, "labels": [y if k == t + 1 else -100 for k, y in enumerate(ids)]}
        for t in range(len(ids) - 1)
    ]
    truth = T @ P @ gradients(model, alone, names).T / 8
    found = study.token_effects(query, 4).values[:, 0]
    assert relative(found[:, : len(ids) - 1], truth) < 1e-6 and not found[:, len(ids) - 1 :].any()
    g = gradients(model, [train[4]], names) / 8
    asked = query[1]["input_ids"]
    each = [
        {"input_ids": asked, "labels": [y if k == t + 1 else -100 for k, y in enumerate(asked)]}
        for t in range(len(asked) - 1)
    ]
    truth = (gradients(model, each, names) @ P @ g.T)[:, 0]
    assert relative(study.token_effects(query, 4, of="query").values[1, 0, : len(truth)], truth) < 1e-6


def class_loss(model, item):
    return F.cross_entropy(model(input_ids=torch.tensor([item["input_ids"]])).logits, torch.tensor([item["label"]]))


def test_a_classifier_gives_the_unpadded_answer():
    model, train, query = bert(), labelled(12), labelled(3, 5)
    study = hf.sequence_classification(model, padded(train, "right", 11), batch_size=5, **EKFAC)
    truth = by_hand(study, model, train, query, class_loss)
    assert relative(study.drop(query, order="first").values, truth) < 1e-6
    assert "classifier.weight" in study.objective.space.names


def test_classes_may_be_named_and_relabelled_by_name():
    model, names = bert(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}), ["bad", "good"]
    named = [{**item, "label": names[item["label"]]} for item in labelled(10)]
    a = hf.sequence_classification(model, named, **EKFAC)
    b = hf.sequence_classification(model, labelled(10), **EKFAC)
    query = labelled(2, 5)
    assert relative(a.relabel({1: "bad"}, query).values, b.relabel({1: 0}, query).values) < 1e-12
    assert set(a.mislabeled(3)["label"]) <= set(names)
    with pytest.raises(LabelError, match="'awful'"):
        hf.sequence_classification(model, [{**named[0], "label": "awful"}], **EKFAC)


def square_loss(model, item):
    return (model(input_ids=torch.tensor([item["input_ids"]])).logits - item["label"]).square().mean()


def test_numbers_and_several_labels_are_read_as_the_config_says():
    real = [{**item, "label": float(k)} for k, item in enumerate(sentences(8))]
    study = hf.sequence_classification(bert(num_labels=1), real, **EKFAC)
    pulled = gradients(study.objective.model, real, list(study.objective.space.names), square_loss)
    assert relative(uw.rows(study.objective).dense(), pulled) < 1e-8
    several = [{**item, "labels": [1.0, 0.0, float(k % 2)]} for k, item in enumerate(sentences(8))]
    model = bert(num_labels=3, problem_type="multi_label_classification")
    assert hf.sequence_classification(model, several, **EKFAC).objective.loss.kind == "binary"


def leaky(module, query, key, value, mask, scaling=None, **kept):
    """Attention that sees padding: the mask is left out."""
    weights = (query @ key.mT * (query.shape[-1] ** -0.5)).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


def test_a_kernel_whose_result_depends_on_padding_is_refused_with_its_remedy():
    transformers.AttentionInterface.register("leaky", leaky)
    model, train = bert(), labelled(8)
    model.set_attn_implementation("leaky")
    with pytest.raises(NondeterministicModel, match="attn_implementation='eager' does not have this"):
        hf.sequence_classification(model, train, **EKFAC)
    found = hf.check_batching(model, train, kind="sequence_classification")
    assert not found.passed and found.differences["leaky"] > 1e-3 > found.limit > found.differences["sdpa"]
    assert model.config._attn_implementation == "leaky" and "eager" in repr(found)
    model.set_attn_implementation("eager")
    assert hf.check_batching(model, train, kind="sequence_classification").passed


def test_a_classifier_that_looks_for_the_last_token_needs_a_pad_token():
    config = gpt2().config
    train = [{"input_ids": [5, 6, 4, 4], "label": 0}, {"input_ids": [7, 8, 9, 1, 2], "label": 1}]
    with pytest.raises(ConfigError, match="pad_token_id"):
        hf.sequence_classification(made(transformers.GPT2ForSequenceClassification, config), train, **EKFAC)
    config.pad_token_id = 3
    model = made(transformers.GPT2ForSequenceClassification, config)
    study = hf.sequence_classification(model, train, **EKFAC)
    assert relative(study.drop(train, order="first").values, by_hand(study, model, train, train, class_loss)) < 1e-6


def test_a_compiled_model_is_scored_as_what_was_compiled():
    model, train, query = gpt2(), sentences(8), sentences(2, 5)
    found = hf.causal_lm(torch.compile(model), train, **EKFAC).drop(query, order="first")
    assert relative(found.values, hf.causal_lm(model, train, **EKFAC).drop(query, order="first").values) < 1e-12
    assert any("compiled model" in note for note in found.notes)


def test_other_labels_for_a_sequence_are_learnt_in_their_place():
    model, train, query = gpt2(), sentences(8), sentences(2, 5)
    study, other = hf.causal_lm(model, train, **EKFAC), [1] * len(train[2]["input_ids"])
    found = study.relabel({2: other}, query, order="first").values[:, 0]
    names, P = list(study.objective.space.names), study.fitted.blocked.inverse.operator
    moved = gradients(model, [{**train[2], "labels": other}, train[2]], names)
    truth = -gradients(model, query, names) @ P @ (moved[0] - moved[1]) / 8
    assert relative(found, truth) < 1e-6
    with pytest.raises(LabelError, match="labels of its tokens"):
        study.relabel({2: [[1, 2]]}, query, order="first")


def test_a_padded_sorted_sharded_resumed_and_compressed_run_ranks_as_the_plain_one(tmp_path, monkeypatch):
    model, train, query = gpt2(torch.float32), sentences(24), sentences(2, 5)
    plain = hf.causal_lm(model, train, **EKFAC).drop(query, order="first").values
    order = np.argsort([len(item["input_ids"]) for item in train])
    rows = padded([train[k] for k in order], "left", 12)
    study = hf.causal_lm(model, rows, ids=order, batch_size=5, **EKFAC)
    settings = {"compression": "eigenbasis", "size": 300, "dtype": "int8", "rows_per_shard": 7, "progress": False}
    real = Store.commit

    def dying(store, kind, start, *rest):
        if start >= 14:
            raise KeyboardInterrupt
        return real(store, kind, start, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            uw.Index.build(study, tmp_path / "index", **settings)
    uw.Index.build(study, tmp_path / "index", **settings)
    found = uw.Index.open(tmp_path / "index", study).query(query, k=4, rerank=12)
    for row, ids, values in zip(plain, found.top_ids, found.top, strict=True):
        np.testing.assert_array_equal(ids, np.argsort(-row)[:4])
        assert relative(values, row[ids]) < 1e-3


class Rows(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        return {key: torch.tensor(value) for key, value in self.items[place].items()}


def test_data_are_read_from_every_form():
    datasets = pytest.importorskip("datasets")
    model, train, query = gpt2(), sentences(8), sentences(2, 5)
    found = hf.causal_lm(model, train, **EKFAC).drop(query, order="first").values
    rows = padded(train, "right")
    columns = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    forms = [
        Rows(rows),
        columns,
        transformers.BatchEncoding(columns),
        datasets.Dataset.from_list(train).add_column("text", ["words"] * 8),
        [item["input_ids"] for item in train],
    ]
    for form in forms:
        assert relative(hf.causal_lm(model, form, **EKFAC).drop(query, order="first").values, found) < 1e-10


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([], EmptyDataset, "is empty"),
        ([{"text": "hello"}], InputError, "run the tokenizer"),
        ([{"input_ids": "hello"}], InputError, "run the tokenizer"),
        ([{"input_ids": [1.5, 2.0]}], InputError, "list of integers"),
        ([{"input_ids": []}], EmptyDataset, "no token"),
        ([{"input_ids": [1, 2], "attention_mask": [0, 0]}], EmptyDataset, "but padding"),
        ([{"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}], InputError, "holes"),
        ([{"input_ids": [1, 2, 3], "labels": [1, 2]}], ShapeError, "3 tokens and 2 numbers"),
        ([{"input_ids": [1, V]}], LabelError, f"the token {V}"),
        ([{"input_ids": [1, 2], "labels": [1, V]}], LabelError, "labels"),
        ({"input_ids": [[1, 2]], "labels": [[1, 2], [3, 4]]}, ShapeError, "different lengths"),
        (DataLoader([{"input_ids": [1, 2]}]), OrderError, "loader.dataset"),
        (iter([[1, 2]]), OrderError, "without a length"),
        ("some text", OrderError, "without a length"),
    ],
)
def test_bad_data_are_refused_in_words(data, error, words):
    with pytest.raises(error, match=words):
        hf.causal_lm(gpt2(), data, **EKFAC)


def test_bad_arguments_are_refused_in_words():
    model, train = gpt2(), sentences(6)
    with pytest.raises(ModelError, match="Expected a model of transformers"):
        hf.causal_lm("gpt2", train)
    with pytest.raises(ModelError, match="returned no logits"):
        hf.causal_lm(transformers.GPT2Model(model.config).eval(), train)
    several = bert(num_labels=3, problem_type="multi_label_classification")
    with pytest.raises(ShapeError, match="2 labels each"):
        hf.sequence_classification(several, [{**item, "labels": [1.0, 0.0]} for item in train])
    with pytest.raises(ModelError, match="no input embedding"):
        hf.causal_lm(torch.nn.Linear(2, 2), train)
    with pytest.raises(ModelError, match="num_labels"):
        hf.sequence_classification(torch.nn.Linear(2, 2), train)
    with pytest.raises(ConfigError, match="length=3 found a training sequence"):
        hf.causal_lm(model, train, length=3)
    with pytest.raises(ConfigError, match="setting 'dampnig'"):
        hf.causal_lm(model, train, dampnig=1)
    with pytest.raises(InputError, match="repeat"):
        hf.causal_lm(model, train, ids=[1] * 6)
    with pytest.raises(ShapeError, match="one id for every sequence"):
        hf.causal_lm(model, train, ids=[1])
    study = hf.causal_lm(model, train, **EKFAC)
    with pytest.raises(ShapeError, match="pass length=15"):
        study.drop([{"input_ids": list(range(15))}])
    with pytest.raises(LabelError, match="has no label"):
        study.drop([{"input_ids": [1, 2], "labels": [-100, -100]}])
    with pytest.raises(ConfigError, match="whose tokens"):
        study.token_effects(train[:1], 0, of="both")
    with pytest.raises(ConfigError, match="one number a query"):
        study.token_effects(train[:1], 0, measure="prediction")
    with pytest.raises(ConfigError, match="one label an example"):
        hf.sequence_classification(bert(), labelled(6), **EKFAC).token_effects(labelled(1), 0)
    with pytest.raises(ModelError, match="no linear layer"):
        hf.causal_lm(gpt2().requires_grad_(False), train)
    with pytest.raises(ConfigError, match="no tokenizer"):
        hf.completions(["a"], ["b"])
    with pytest.raises(ShapeError, match="same length"):
        hf.completions([[1]], [[1], [2]])
    with pytest.raises(ShapeError, match="0 after"):
        hf.completions([[1]], [[]])
    with pytest.raises(LabelError, match="has no label"):
        hf.sequence_classification(bert(), sentences(3), **EKFAC)


def test_a_heat_map_colours_the_tokens_of_both_sides(tmp_path):
    study, query = hf.causal_lm(gpt2(), sentences(10), **EKFAC), sentences(2, 5)
    heat = hf.heat_map(study, query, lambda tokens: [f"w{token}" for token in tokens])
    look, beside = heat.of_train(3), heat.of_pair(1, 3)
    ids = sentences(10)[3]["input_ids"]
    assert look == {"tokens": [f"w{token}" for token in ids]}
    cut = study.token_effects(query, 3).values[1, 0]
    np.testing.assert_allclose(beside["heat"], [0.0, *cut[: len(ids) - 1]], rtol=1e-2, atol=1e-12)
    mean = study.token_effects(query, 3).values[:, 0].mean(0)
    np.testing.assert_allclose(heat.of_pair(None, 3)["heat"][1:], mean[: len(ids) - 1], rtol=1e-2, atol=1e-12)
    effects = study.drop(query, order="first").values
    helped = np.sort(effects[0])[::-1][:10].sum()
    assert sum(heat.of_query(0)["heat"]) == pytest.approx(helped, rel=1e-2)
    page = study.report(tmp_path / "page.html", query=query, display=heat, refits=0)
    assert '"heat"' in Path(page).read_text("utf-8")
    with pytest.raises(ConfigError, match="causal_lm"):
        hf.heat_map(hf.sequence_classification(bert(), labelled(6), **EKFAC), labelled(1))
