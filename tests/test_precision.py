"""Half precision where the model works, single where sums are taken."""

import copy

import numpy as np
import pytest
import torch

import upweight as uw
from cases import pearson, slope
from networks import trained

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")


def study_of(dtype=torch.float32, name="mlp", **settings):
    given = trained(name)
    model, X = copy.deepcopy(given.model).to(dtype), given.X.to(dtype)
    settings = {"curvature": "ekfac", "penalty": uw.L2(1e-3), "damping": 0.1} | settings
    return uw.Study(model, (X, given.y), loss="cross_entropy", **settings), (given.Xt.to(dtype), given.yt)


@pytest.mark.parametrize(
    ("name", "order"), [("mlp", "first"), ("mlp", "newton"), ("cnn", "first"), ("transformer", "first")]
)
def test_passes_in_bfloat16_keep_the_scores(name, order):
    single, query = study_of(name=name)
    half, _ = study_of(name=name, precision="bfloat16")
    truth, found = single.drop(query, order=order), half.drop(query, order=order)
    assert pearson(found.values, truth.values) > 0.99
    assert 0.95 < slope(found.values, truth.values) < 1.05
    assert np.abs(found.values - truth.values).max() > 1e-4 * np.abs(truth.values).max()
    assert "bfloat16" in found.verdict and "bfloat16" not in truth.verdict


def test_factors_are_summed_in_single_precision():
    for study in (study_of(precision="bfloat16")[0], study_of(torch.bfloat16)[0]):
        blocks = [block for _, block in study.fitted.blocked.curvature.parts]
        assert {block.values.dtype for block in blocks} == {torch.float32}
        batch = next(iter(study.fitted.engine.batches()))[1]
        assert study.fitted.engine.captured(batch).outputs.dtype == torch.float32


@pytest.mark.parametrize("order", ["first", "newton"])
def test_a_bfloat16_model_is_studied_end_to_end(order):
    study, query = study_of(torch.bfloat16)
    truth, query32 = study_of()
    found, expected = study.drop(query, order=order).values, truth.drop(query32, order=order).values
    assert pearson(found, expected) > 0.98 and 0.9 < slope(found, expected) < 1.1
    assert np.isfinite(study.self_influence()).all() and np.isfinite(study.leverage()).all()
    assert len(study.mislabeled(5)) == 5
    assert pearson(study.self_influence(), truth.self_influence()) > 0.98
    split = study.upweight(query).by_module()
    np.testing.assert_allclose(split.values.sum(0), study.upweight(query).values, rtol=1e-3, atol=1e-4)


def test_precisions_without_a_meaning_are_refused():
    with pytest.raises(uw.errors.ConfigError, match=r"precision='int8' is unknown. Expected 'bfloat16'"):
        study_of(precision="int8")
    with pytest.raises(
        uw.errors.ConfigError, match=r"precision='bfloat16' found curvature='ggn'. Expected a structured"
    ):
        study_of(precision="bfloat16", curvature="ggn")
    with pytest.raises(uw.errors.ConfigError, match=r"found parameters of type torch.float64. Expected float32"):
        study_of(torch.float64, precision="bfloat16")
