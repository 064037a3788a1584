"""What a Trainer has trained, as a study; and what a recorder keeps of the run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

import upweight as uw
from test_huggingface import EKFAC, bert, gpt2, labelled, padded, relative, sentences
from upweight.errors import ConfigError, InputError, ModelError, OrderError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
hf = uw.huggingface
pytestmark = [
    pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::upweight.errors.ModeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
N, BATCH, EPOCHS = 10, 2, 2
STEPS = EPOCHS * -(-N // (2 * BATCH))
"""Two batches a step; the last of an epoch has one."""


class Seen(Dataset):
    """Sequences that write down which of them was read."""

    def __init__(self, items):
        self.items, self.read = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        self.read.append(place)
        return {key: torch.tensor(value) for key, value in self.items[place].items()}


def trainer_of(model, data, folder, callbacks=(), kind=None, **more):
    arguments = transformers.TrainingArguments(
        str(folder),
        **{
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "report_to": [],
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        | more,
    )
    return (kind or transformers.Trainer)(model, arguments, train_dataset=data, callbacks=list(callbacks))


def causal(n=N):
    return [
        {**row, "labels": [t if m else -100 for t, m in zip(row["input_ids"], row["attention_mask"], strict=True)]}
        for row in padded(sentences(n), "right")
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A recorded run: (trainer, its data, the order in which they were read, the recording)."""
    folder, data = tmp_path_factory.mktemp("run"), Seen(causal())
    recorder = hf.recorder(folder / "kept", checkpoints=2)
    trainer = trainer_of(gpt2(torch.float32), data, folder, [recorder])
    trainer.train()
    return trainer, data, list(data.read), hf.read_recording(folder / "kept")


def test_a_study_of_a_trainer_is_that_of_its_model_and_data(run):
    trainer, *_ = run
    a = hf.from_trainer(trainer, **EKFAC)
    b = hf.causal_lm(trainer.model, sentences(N), **EKFAC)
    query = sentences(2, 5)
    assert relative(a.drop(query, order="first").values, b.drop(query, order="first").values) < 1e-4
    assert trainer.model.training


def test_a_run_in_bfloat16_is_studied_by_its_own_forward_pass(tmp_path):
    data = [{**row, "labels": k % 2} for k, row in enumerate(padded(sentences(8), "right"))]
    model = bert(torch.float32)
    trainer = trainer_of(model, Seen(data), tmp_path, bf16=True)
    trainer.train()
    assert "_original_forward" in vars(trainer.model)  # accelerate has put autocast around it
    wrapped, fresh = hf.from_trainer(trainer, **EKFAC), bert(torch.float32)
    fresh.load_state_dict(model.state_dict())
    plain = hf.sequence_classification(fresh, data, **EKFAC)
    assert wrapped.coverage == plain.coverage
    query = labelled(2, 5)
    assert relative(wrapped.drop(query, order="first").values, plain.drop(query, order="first").values) < 1e-5
    assert any("half precision" in note for note in wrapped.fitted.adapted.notes)
    assert "_original_forward" in vars(trainer.model)


def test_the_order_is_the_one_in_which_data_were_read(run):
    _, _, read, recording = run
    assert len(recording.order) == EPOCHS
    assert [int(place) for epoch in recording.order for place in epoch] == read
    assert sorted(recording.order[0].tolist()) == list(range(N)) and not np.array_equal(*recording.order)
    assert recording.seen(1).tolist() == read[: 2 * BATCH] and recording.seen(10**6).tolist() == read


def test_the_rates_are_those_of_the_schedule(run):
    trainer, _, _, recording = run
    assert len(recording.rates) == trainer.state.global_step == STEPS
    np.testing.assert_allclose(recording.rates, [1e-3 * (STEPS - step) / STEPS for step in range(STEPS)])
    assert sum(recording.taken()) == pytest.approx(recording.rates.sum())


def test_checkpoints_are_the_parameters_and_moments_of_that_moment(run):
    trainer, _, _, recording = run
    assert recording.checkpoints == (STEPS // 2, STEPS)
    final, state = recording.state(STEPS), dict(trainer.model.named_parameters())
    assert set(final) == set(state) and all(torch.equal(final[name], state[name]) for name in state)
    mean, square = recording.moments(STEPS)
    inner = trainer.optimizer.optimizer.state
    assert all(torch.equal(square[name], inner[state[name]]["exp_avg_sq"]) for name in state)
    assert not torch.equal(recording.state(STEPS // 2)["transformer.wpe.weight"], final["transformer.wpe.weight"])
    study = hf.causal_lm(trainer.model, sentences(N), **EKFAC)
    adam = hf.adam(recording, study, STEPS)
    assert torch.equal(adam.mean, study.objective.space.flatten(mean)) and adam.step == STEPS
    with pytest.raises(ConfigError, match="no checkpoint after step 1"):
        recording.state(1)


def test_a_checkpoint_without_moments_says_so(tmp_path):
    recorder = hf.recorder(tmp_path / "kept", checkpoints=[1], moments=False)
    trainer = trainer_of(gpt2(torch.float32), Seen(causal()), tmp_path, [recorder], max_steps=1)
    trainer.train()
    recording = hf.read_recording(tmp_path / "kept")
    study = hf.causal_lm(trainer.model, sentences(N), **EKFAC)
    with pytest.raises(ConfigError, match="has no exp_avg"):
        hf.adam(recording, study, 1)


def test_recorded_checkpoints_are_what_tracin_and_less_are_made_of(run):
    trainer, _, _, recording = run
    study, query = hf.causal_lm(trainer.model, sentences(N), **EKFAC), sentences(2, 5)
    codec = study.fitted.adapted.codec
    states = [uw.methods.at(study.objective, recording.state(step)) for step in recording.checkpoints]
    asked = codec.read(query, "query")
    scores = uw.methods.tracin(states, asked, recording.taken())
    truth = sum(
        rate * uw.rows(one, asked).dense() @ uw.rows(one).dense().T
        for one, rate in zip(states, recording.taken(), strict=True)
    )
    assert relative(scores, truth) < 1e-4
    adams = [hf.adam(recording, study, step) for step in recording.checkpoints]
    assert torch.isfinite(uw.methods.less(states, asked, recording.taken(), adams)).all()


def test_recording_changes_nothing_of_the_run(run, tmp_path):
    trainer, *_ = run
    alone = trainer_of(gpt2(torch.float32), Seen(causal()), tmp_path)
    alone.train()
    for a, b in zip(alone.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_classifier_and_its_collator_are_read_off_the_trainer(tmp_path):
    trainer = trainer_of(bert(torch.float32), Seen(padded(labelled(N), "right")), tmp_path, max_steps=1)
    trainer.train()
    a = hf.from_trainer(trainer, **EKFAC)
    b = hf.sequence_classification(trainer.model, labelled(N), **EKFAC)
    query = labelled(2, 5)
    found = a.drop(query, order="first")
    assert relative(found.values, b.drop(query, order="first").values) < 1e-4
    assert any("has not seen" in note for note in found.notes)


def test_trainers_that_minimise_something_else_are_refused(tmp_path):
    class Own(transformers.Trainer):
        def compute_loss(self, model, inputs, **kept):
            return model(**inputs).loss * 2

    data = Seen(causal())
    with pytest.raises(ConfigError, match="smooths labels"):
        hf.from_trainer(trainer_of(gpt2(), data, tmp_path, label_smoothing_factor=0.1))
    with pytest.raises(ConfigError, match="a loss of its own"):
        hf.from_trainer(trainer_of(gpt2(), data, tmp_path, kind=Own))
    with pytest.raises(InputError, match="no train_dataset"):
        hf.from_trainer(trainer_of(gpt2(), None, tmp_path))
    with pytest.raises(ModelError, match=r"Expected a transformers\.Trainer"):
        hf.from_trainer(gpt2())
    base = transformers.GPT2Model(gpt2().config)
    with pytest.raises(ModelError, match="GPT2Model"):
        hf.from_trainer(trainer_of(base, data, tmp_path))
    noisy = trainer_of(gpt2(), data, tmp_path)
    noisy.data_collator = lambda items: {"input_ids": torch.randint(1, 29, (len(items), 5))}
    with pytest.raises(ConfigError, match="two different batches"):
        hf.from_trainer(noisy)


def test_a_recorder_needs_data_with_an_order(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from ({key: torch.tensor(value) for key, value in row.items()} for row in causal())

    trainer = trainer_of(gpt2(torch.float32), Stream(), tmp_path, [hf.recorder(tmp_path / "kept")], max_steps=1)
    with pytest.raises(OrderError, match="map-style"):
        trainer.train()
    with pytest.raises(ConfigError, match="at least one"):
        hf.recorder(tmp_path, checkpoints=0)
