"""Models and data of Hugging Face's libraries, read as objectives."""

from upweight.adapters.huggingface.adapt import SequenceForm, adapt_causal_lm, adapt_classification, batch_check
from upweight.adapters.huggingface.batching import BatchCheck

__all__ = ["BatchCheck", "SequenceForm", "adapt_causal_lm", "adapt_classification", "batch_check"]
