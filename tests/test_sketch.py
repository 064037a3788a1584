"""Gradients added up with random signs: the dense formula, no bias, signs alone, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import upweight as uw
from cases import pearson, slope
from networks import relative
from test_index import built, dense_basis, every, network, sklearn_study
from upweight.errors import ConfigError
from upweight.index.rounding import Rounding
from upweight.linop import Hashed

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
SEED = 3


def buckets(study, kept: list[int]) -> np.ndarray:
    """S written out over all of θ: a sign a coordinate, in number j mod r of its layer."""
    whole = np.zeros((study.objective.space.size, sum(kept)))
    start = 0
    for place, ((layout, _), r) in enumerate(zip(study.fitted.blocked.curvature.parts, kept, strict=True)):
        where = layout.gather(torch.arange(len(whole), dtype=torch.float64)[None])[0].long().numpy()
        drawn = torch.Generator().manual_seed(SEED * 1009 + place)
        signs = 2 * torch.randint(0, 2, (layout.width,), generator=drawn, dtype=torch.int8).numpy() - 1
        whole[where, start + np.arange(layout.width) % r] = signs
        start += r
    return whole


@pytest.mark.filterwarnings("ignore:what this index keeps")
def test_a_sketch_is_the_dense_formula(tmp_path):
    study, query = network(penalty=None)
    index = built(study, tmp_path, compression="sketch", size=200, dtype="float64", seed=SEED)
    Q, f = dense_basis(study)
    shares = [float((b.values / (b.values + 0.1 * b.values.mean())).sum()) for _, b in study.fitted.blocked.curvature.parts]  # fmt: skip
    S = buckets(study, [round(200 * share / sum(shares)) for share in shares])
    C = Q * np.sqrt(f) @ S
    G, T = uw.rows(study.objective).dense().numpy(), uw.rows(study.objective, query).dense().numpy()
    assert relative(every(index, query), (T @ C) @ (G @ C).T / len(G)) < 1e-9


@pytest.mark.parametrize("kind", ["ekfac", "kfac", "block_diagonal", "diagonal", "identity"])
def test_with_a_number_for_every_coordinate_nothing_is_lost(kind, tmp_path):
    study, query = network(curvature=kind)
    p = study.objective.space.size
    index = built(study, tmp_path, compression="sketch", size=p * p, dtype="float64")
    assert index.info().numbers == p
    assert relative(every(index, query), study.drop(query, order="first").values) < 1e-9


@pytest.mark.filterwarnings("ignore:what this index keeps")
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_more_numbers_are_nearer_and_none_are_biased(name, tmp_path):
    study, query = network(name)
    truth = study.drop(query, order="first").values
    found = [
        [every(built(study, tmp_path / f"{r}.{k}", compression="sketch", size=r, dtype="float64", seed=k), query) for k in range(4)]
        for r in (64, 1024)
    ]  # fmt: skip
    few, many = (np.mean([pearson(one, truth) for one in ones]) for ones in found)
    assert few < many
    assert many > 0.9
    assert slope(truth, np.mean(found[1], 0)) == pytest.approx(1, abs=0.1)


def test_signs_alone_give_the_scores_of_their_sketch_with_a_slope_of_one(tmp_path):
    study, query = network("transformer")
    how = {"compression": "sketch", "size": 3000}
    whole = every(built(study, tmp_path / "whole", dtype="float64", **how), query)
    index = built(study, tmp_path / "bit", dtype="bit", **how)
    signs = every(index, query)
    assert pearson(signs, whole) > 0.85
    assert slope(whole, signs) == pytest.approx(1, abs=0.15)
    assert index.info().row_bytes < 3000 / 8 + 4 + 8  # a bit a number, a scale a row, and the head of each file
    again = uw.Index.open(tmp_path / "bit" / "index", study)
    assert np.array_equal(every(again, query), signs)


def test_a_row_of_signs_keeps_its_product_with_itself_and_its_transform_undone():
    rows = torch.randn(5, 77, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounding = Rounding.of("bit", rows)
    decoded = rounding.decode(rounding.encode(rows))
    assert torch.allclose((decoded * rows).sum(1), rows.square().sum(1), rtol=1e-6)
    angles = 2 * np.pi * np.outer(np.arange(77), np.arange(77)) / 77
    mixed = rows.numpy() @ (np.cos(angles) + np.sin(angles)) / np.sqrt(77)
    assert relative(rounding.folded(rows).numpy(), mixed) < 1e-6
    assert np.array_equal(np.sign(decoded.numpy() @ (np.cos(angles) + np.sin(angles))), np.sign(mixed))


def test_a_damping_chosen_after_the_build_is_the_study_s(tmp_path):
    study, query = network()
    p = study.objective.space.size
    built(study, tmp_path, compression="sketch", size=p * p, dtype="float64")
    other, _ = network(damping=0.3)
    found = every(uw.Index.open(tmp_path / "index", other), query)
    assert relative(found, other.drop(query, order="first").values) < 1e-9


def test_ranked_again_it_gives_the_uncompressed_ends(tmp_path):
    study, query = network()
    index = built(study, tmp_path, compression="sketch", size=4096, dtype="bit")
    truth = study.drop(query, order="first").values
    found = index.query(query, k=3, rerank=40)
    assert np.array_equal(found.top_ids, np.argsort(-truth, 1, kind="stable")[:, :3])


def test_what_cannot_be_meant_is_refused_in_words(tmp_path):
    study, _ = network()
    for how in ({"dtype": "bit"}, {"compression": "eigenbasis", "dtype": "bit"}, {"compression": "sketch", "bounds": True}, {"compression": "sketch", "size": 0.5}, {"compression": "sketch", "size": 0}):  # fmt: skip
        with pytest.raises(ConfigError, match="Expected"):
            built(study, tmp_path, **how)
    exact, _ = sklearn_study()
    with pytest.raises(ConfigError, match="sketch"):
        built(exact, tmp_path / "exact", compression="sketch")
    with pytest.raises(ConfigError, match="at least 1"):
        Hashed.drawn(None, torch.ones(3), 0, 0)
