"""How much a ranking depends on a damping that only a rule chose: a sample of scores at ten times and a tenth of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats

from upweight._typing import Float, Tensor
from upweight.curvature import Relative
from upweight.fitted import Fitted
from upweight.fitted.blocked import AUTO_DAMPING
from upweight.linop import BlockDiagonal, KroneckerEigen, LinearOperator
from upweight.questions.measuring import Measurement
from upweight.router import RANKED_EXAMPLES, RANKED_FACTORS, RANKED_QUERIES
from upweight.tiles import Block
from upweight.tiles.blocks import FactoredBlock, LayerBlock
from upweight.tiles.layer_jacobians import FactoredJacobian, LayerJacobian, sum_of, turned_gradients, written_rows
from upweight.tiles.pairs import parts_of
from upweight.tiles.truncation import Places


def damping_words(fitted: Fitted, measured: Measurement | None, sample: Callable[[], Block]) -> str:
    """How λ was come by where the rule chose it, and the rank correlation with scores at 10λ and λ/10; else nothing.

    Ranks are taken over at most 64 examples of a tile, for each of at most 16 queries, and their correlations
    averaged over queries.
    """
    if not (fitted.structured and fitted.blocked.by_rule) or fitted.kind == "identity":
        return ""
    rule = "a tenth of each block's mean eigenvalue, by rule"
    if measured is None or measured.over_set or len(block := sample()) < 2:
        return f" ({rule})"
    layers = {layer.layout.places: layer for layer in next(measured.tiles())}
    parts = [part.first(RANKED_EXAMPLES) for part in parts_of(block)]
    own, more, less = _sampled(_operators(fitted), layers, parts)
    return f" ({rule}; ranking at ten times / a tenth of it: Spearman {agreement(own, more):.2f} / {agreement(own, less):.2f})"


def agreement(first: Float[Tensor, "b m"], second: Float[Tensor, "b m"]) -> float:
    """Spearman's correlation over examples, averaged over the queries that rank them at all; NaN if none does."""
    ranks = [stats.rankdata(scores.double().cpu().numpy(), axis=0) for scores in (first, second)]
    a, b = (rank - rank.mean(0) for rank in ranks)
    size = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return float(((a * b).sum(0)[size > 0] / size[size > 0]).mean()) if (size > 0).any() else float("nan")


def _operators(fitted: Fitted) -> list[BlockDiagonal]:
    """The study's inverse, and those at ten times and a tenth of its damping."""
    blocked = fitted.blocked
    others = [blocked.inverse_at(Relative(factor * AUTO_DAMPING.share)) for factor in RANKED_FACTORS[1:]]
    return [found.operator for found in (blocked.inverse, *others)]  # pyright: ignore


def _sampled(
    operators: list[BlockDiagonal], layers: dict[Places, LayerJacobian], parts: list[LayerBlock]
) -> list[Float[Tensor, "b m"]]:
    """Scores by each operator."""
    blocks = [{at.places: block for at, block in operator.parts} for operator in operators]
    found = []
    for part in parts:
        at = part.layout.places
        found.append([scores.double() for scores in _scores(layers[at], part, [one[at] for one in blocks])])
    return [sum_of(list(scores)) for scores in zip(*found, strict=True)]


def _scores(layer: LayerJacobian, part: LayerBlock, blocks: list[LinearOperator]) -> list[Float[Tensor, "b m"]]:
    """Scores of one layer by each block; blocks in one eigenbasis are met there, from factors where these suffice."""
    chosen = torch.arange(min(RANKED_QUERIES, len(layer)), device=layer.slopes.device)
    few = layer.select(chosen)
    basis = blocks[0]
    if not isinstance(few, FactoredJacobian) or not isinstance(basis, KroneckerEigen):
        rows = written_rows(few).flatten(0, 1)[:RANKED_QUERIES]  # pyright: ignore
        found = [block.after(rows) for block in blocks]
    else:
        turned = turned_gradients(few, basis).flatten(0, 1)[:RANKED_QUERIES]
        inside = isinstance(part, FactoredBlock)
        found = [(turned * one.values).flatten(1) if inside else one.after_turned(turned) for one in blocks]  # pyright: ignore
        if inside:
            inputs, outputs = part.inputs.to(turned) @ basis.right, part.outputs.to(turned) @ basis.left
            part = FactoredBlock(inputs, outputs, part.layout)
    return list(part.own(torch.cat(found)).split(len(found[0]), 1))
