"""The same transformer with the same weights, as transformers' Auto classes load a causal language model: bergson reads no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformer.problem import VOCABULARY, Transformer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import logging

logging.disable_progress_bar()


class Config(PreTrainedConfig):
    """Sizes are those of the problem. The length is a batch's, not a sequence's: bergson packs no more tokens than that."""

    model_type = "upweight_benchmark"
    max_position_embeddings = 4096
    vocab_size = VOCABULARY
    tie_word_embeddings = False


class Wrapped(PreTrainedModel):
    """Logits of the transformer, in the output class that is expected."""

    config_class = Config
    base_model_prefix = ""  # bergson asks the base model for its device

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.inner = Transformer()
        self.post_init()

    def _init_weights(self, module) -> None:
        """Every weight is loaded."""

    def get_input_embeddings(self):
        return self.inner.symbols

    def forward(self, input_ids, **_) -> CausalLMOutput:
        return CausalLMOutput(logits=self.inner(input_ids))


def save(model: Transformer, folder: Path) -> str:
    """Where the model and a tokenizer that is never used are kept."""
    AutoConfig.register(Config.model_type, Config, exist_ok=True)
    AutoModelForCausalLM.register(Config, Wrapped, exist_ok=True)
    wrapped = Wrapped(Config())
    wrapped.inner.load_state_dict(model.state_dict())
    wrapped.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({str(symbol): symbol for symbol in range(VOCABULARY)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=4096).save_pretrained(folder)
    return str(folder)


def save_sequences(tokens: np.ndarray, folder: Path) -> str:
    """Where the sequences are kept."""
    rows = tokens.tolist()
    Dataset.from_dict({"input_ids": rows, "labels": rows, "length": [len(row) for row in rows]}).save_to_disk(folder)
    return str(folder)
