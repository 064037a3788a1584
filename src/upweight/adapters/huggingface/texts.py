"""Queries made of a prompt and what is to follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from upweight.adapters.huggingface.sequences import IGNORED, LABELS, TOKENS
from upweight.errors import ConfigError, ShapeError


def completions(prompts: Sequence[Any], answers: Sequence[Any], tokenizer: Any = None) -> list[dict[str, list[int]]]:
    """Queries whose labels are the tokens of the answers: a prompt is read, and nothing is asked of it.

    Args:
        prompts, answers: as many of each, as lists of tokens, or as texts with a tokenizer.
        tokenizer: of transformers; an answer gets none of its special tokens.

    Returns:
        One dict a pair, with 'input_ids' and 'labels', for ``query=``.

    Raises:
        ShapeError: not as many answers as prompts, or an answer without tokens. ConfigError: texts without a tokenizer.
    """
    if isinstance(prompts, str) or isinstance(answers, str) or len(prompts) != len(answers):
        raise ShapeError(
            f"completions found {'a text' if isinstance(prompts, str) else len(prompts)} for prompts and {'a text' if isinstance(answers, str) else len(answers)} for answers. Expected two lists of the same length."
        )
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        before, after = _tokens(prompt, tokenizer, True), _tokens(answer, tokenizer, False)
        if not after or not before:
            raise ShapeError(
                f"completions found {len(before)} tokens before and {len(after)} after. Expected at least one of each; give the prompt a first token, such as the tokenizer's bos_token."
            )
        found.append({TOKENS: before + after, LABELS: [IGNORED] * len(before) + after})
    return found


def _tokens(text: Any, tokenizer: Any, special: bool) -> list[int]:
    if not isinstance(text, str):
        return [int(token) for token in text]
    if tokenizer is None:
        raise ConfigError(f"completions found the text {text[:40]!r} and no tokenizer. Expected tokens, or tokenizer=.")
    return list(tokenizer(text, add_special_tokens=special)[TOKENS])
