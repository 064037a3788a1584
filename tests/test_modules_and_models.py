"""How far a study reaches: effects by module, and models and measures that are easy to get wrong."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import upweight as uw
from cases import classification
from networks import relative

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")


def small(layers=None):
    data = classification(n=40, p=5, m=4, classes=3)
    torch.manual_seed(0)
    model = layers or nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    return model.double().eval(), data


def study_of(**settings):
    model, data = small()
    return uw.Study(model, (data.X, data.y), **{"loss": "cross_entropy", "penalty": uw.L2(0.05)} | settings), data


WAYS = [
    {"curvature": "ekfac"},
    {"curvature": "ekfac", "protocol": "fixed_total"},
    {"curvature": "ggn", "damping": 0.1},
    {"curvature": "ggn", "damping": 0.1, "solver": "block_cg"},
]


@pytest.mark.parametrize("ask", ["upweight", "drop", "relabel", "replace", "add"])
@pytest.mark.parametrize("settings", WAYS, ids=lambda s: "-".join(map(str, s.values())))
def test_parts_of_modules_add_up_to_the_effects(settings, ask):
    study, data = study_of(**settings)
    found = {
        "upweight": lambda: study.upweight(data.query),
        "drop": lambda: study.drop(data.query, order="first", measure="margin"),
        "relabel": lambda: study.relabel({0: 2, 5: 1}, data.query, order="first"),
        "replace": lambda: study.replace([1, 2], (data.X[3:5], data.y[3:5]), data.query, order="first"),
        "add": lambda: study.add(data.query, data.query, order="first"),
    }[ask]()
    split = found.by_module()
    assert split.modules == ("0", "2")
    assert split.values.shape == (2, *found.values.shape)
    assert relative(split.values.sum(0), found.values) < 1e-10


@pytest.mark.parametrize("aggregate", [None, "mean"])
@pytest.mark.parametrize("settings", WAYS, ids=lambda s: "-".join(map(str, s.values())))
def test_a_modules_part_is_the_masked_product(settings, aggregate):
    study, data = study_of(**settings)
    C, T = uw.rows(study.objective).dense(), uw.rows(study.objective, data.query).dense()
    T = T.mean(0, keepdim=True) if aggregate else T
    if study.protocol == "fixed_mean":
        C = C + study.fitted.penalty_gradient
    solved = study.fitted.row_inverse(len(T)).solve(T).rows
    split = study.upweight(data.query, aggregate=aggregate).by_module()
    for module, where in (("0", slice(0, 36)), ("2", slice(36, None))):
        assert relative(split[module].values, -(solved[:, where] @ C[:, where].T)) < 1e-6
        assert repr(module) in split[module].notes[-1]


def test_the_split_of_a_tied_network_and_of_the_models_own_parameters():
    from test_structured import study_of as named

    for name, modules in (("tied", ("table", "norm")), ("free parameter", ("(model)", "layer"))):
        study, query = named(name, "ekfac")
        found = study.upweight(query)
        split = found.by_module()
        assert split.modules == modules
        assert relative(split.values.sum(0), found.values) < 1e-10


def test_a_split_is_a_table_of_modules_and_queries():
    study, data = study_of(curvature="ekfac")
    split = study.upweight(data.query).by_module()
    frame = split.to_pandas()
    assert frame.index.names == ["module", "query"] and frame.shape == (8, 40)
    np.testing.assert_array_equal(frame.loc["2"], split["2"].values)
    assert list(split) == ["0", "2"] and len(split) == 2 and "ModuleEffects of 2 modules" in repr(split)
    with pytest.raises(uw.errors.ConfigError, match=r"no module called 'head'. Expected one of 0, 2"):
        split["head"]


def test_what_is_no_sum_over_modules_is_refused(tmp_path):
    study, data = study_of(curvature="ekfac")
    with pytest.raises(uw.errors.ConfigError, match=r"order 'newton'.*Expected first-order"):
        study.drop(data.query, order="newton").by_module()
    found = study.upweight(data.query)
    for lost in (uw.load(found.save(tmp_path / "e")), pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        with pytest.raises(uw.errors.ConfigError, match=r"cannot be taken again.*Expected"):
            lost.by_module()
    with pytest.raises(uw.errors.ConfigError, match=r"cannot be taken again"):
        found.groupby(np.asarray(data.y)).by_module()


def strictly(model, X, **settings):
    y = torch.arange(len(X)) % 3
    return uw.Study(model.double().eval(), (X, y), loss="cross_entropy", curvature="ekfac", strict=True, **settings)


def test_strict_refuses_parameters_without_a_rule_by_name_and_type():
    from test_layers import CASES

    for case, words in (("free parameter", r"scale of a Free \(vmap\)"), ("lstm", r"cell.weight_ih_l0 of a LSTM")):
        make, X = CASES[case]
        with pytest.raises(uw.errors.ModelError, match=rf"strict=True.*{words}.*Expected a rule.*parameters="):
            strictly(make(), X)
    make, X = CASES["free parameter"]
    assert strictly(make(), X, parameters="layer.*").coverage == {
        "layer.weight": "linear model",
        "layer.bias": "linear model",
    }


def test_coverage_names_the_rule_of_every_parameter():
    from test_layers import CASES

    make, X = CASES["free parameter"]
    torch.manual_seed(0)
    study = uw.Study(make().double().eval(), (X, torch.arange(len(X)) % 3), loss="cross_entropy")
    assert study.coverage == {"scale": "vmap", "layer.weight": "Linear", "layer.bias": "Linear"}
    data = classification(n=40, p=5, m=4, classes=3)
    linear = uw.Study(nn.Linear(5, 3).double().eval(), (data.X, data.y), loss="cross_entropy", strict=True)
    assert linear.coverage == {"weight": "linear model", "bias": "linear model"}


class Scan(nn.Module):
    """A loop whose length is read from the data, which no vectorisation follows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return (x * self.scale)[:, :3] * (2.0 if float(x.sum()) > 1e9 else 1.0) * self.scale[:3]


def test_a_model_that_cannot_be_vectorised_is_said_to_be_read_one_by_one():
    data = classification(n=20, p=5, m=4, classes=3)
    study = uw.Study(Scan().double().eval(), (data.X, data.y), loss="cross_entropy")
    assert study.coverage == {"scale": "one by one"}
    with pytest.raises(uw.errors.ModelError, match=r"scale of a Scan \(one by one\)"):
        strictly(Scan(), torch.as_tensor(data.X))


class Unused(nn.Module):
    """Parameters that no output passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.gate, self.head = nn.Linear(5, 3), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.relu(self.gate(x)))


@pytest.mark.parametrize("ask", ["upweight", "drop", "drop_group"])
def test_a_query_no_tracked_parameter_moves_is_refused_by_name(ask):
    model, data = small(Unused())
    study = uw.Study(model, (data.X, data.y), loss="cross_entropy", parameters="unused.*", damping=0.1)
    with pytest.raises(
        uw.errors.InputError, match=r"does not depend on any tracked.*all 4 queries.*unused.weight.*parameters="
    ):
        study.drop_group([[1, 2]], data.query) if ask == "drop_group" else getattr(study, ask)(data.query)


@pytest.mark.parametrize("order", ["first", "newton"])
def test_a_measure_that_ignores_the_outputs_is_refused(order):
    study, data = study_of(curvature="ekfac")
    for measure in (
        lambda outputs, targets: targets.double(),
        lambda outputs, targets: outputs.detach().sum(1) * 0 + 2,
    ):
        with pytest.raises(uw.errors.InputError, match=r"is the same at any outputs. Expected a differentiable"):
            study.drop(data.query, measure=measure, order=order)


def test_a_step_is_refused_to_first_order_only():
    study, data = study_of(curvature="ekfac")

    def right(outputs, targets):
        return (outputs.argmax(1) == targets).to(outputs.dtype)

    with pytest.raises(uw.errors.InputError, match=r"measure='right' is made of steps"):
        study.drop(data.query, measure=right, order="first")
    assert study.drop(data.query, measure=right, order="newton").values.shape == (4, 40)


def test_true_zeros_are_answers():
    model, data = small(Unused())
    with torch.no_grad():
        model.head.bias += torch.tensor([1e4, 0, 0])
    study = uw.Study(model, (data.X, np.zeros(40, int)), loss="cross_entropy", curvature="ekfac", damping=0.1)
    saturated = (data.query[0], np.zeros(4, int))
    assert not study.upweight(saturated).values.any()

    def hinge(outputs, targets):
        return torch.relu(outputs[:, 1] - outputs[:, 0])

    assert not study.upweight(saturated, measure=hinge).values.any()


def test_one_query_that_depends_is_enough():
    model, data = small(Unused())
    with torch.no_grad():
        model.gate.bias.fill_(-1)
    study = uw.Study(model, (data.X, data.y), loss="cross_entropy", parameters="gate.*", batch_size=1, damping=0.1)
    dead, alive = -1e-3 * np.ones((1, 5)), np.asarray(data.X[:1]) * 1e3
    query = np.concatenate([dead, alive]), np.zeros(2, int)
    assert study.upweight(query, measure="margin").values[1].any()
    with pytest.raises(uw.errors.InputError, match=r"does not depend"):
        study.upweight((dead, np.zeros(1, int)), measure="margin")


@pytest.mark.parametrize("curvature", ["ekfac", "hessian"])
def test_a_compiled_model_has_the_scores_of_the_module_it_was_compiled_from(curvature):
    plain, data = study_of(curvature=curvature, damping=1.0)
    model, _ = small()
    wrapped = torch.compile(model, backend="eager")
    settings = {"loss": "cross_entropy", "penalty": uw.L2(0.05), "curvature": curvature, "damping": 1.0}
    found = uw.Study(wrapped, (data.X, data.y), **settings)
    assert found.objective.space.names == plain.objective.space.names
    effects = found.drop(data.query)
    np.testing.assert_array_equal(effects.values, plain.drop(data.query).values)
    assert any("compiled" in note for note in effects.notes)
    assert not any("compiled" in note for note in plain.drop(data.query).notes)


def test_parts_that_are_compiled_are_run_as_written():
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    plain, data = study_of(curvature="ekfac")
    model, _ = small()
    model[0] = torch.compile(model[0], backend=backend)
    found = uw.Study(model, (data.X, data.y), loss="cross_entropy", penalty=uw.L2(0.05), curvature="ekfac")
    np.testing.assert_allclose(found.upweight(data.query).values, plain.upweight(data.query).values, rtol=1e-9)
    model, _ = small()
    model.compile(backend=backend)
    found = uw.Study(model, (data.X, data.y), loss="cross_entropy", penalty=uw.L2(0.05), curvature="ekfac")
    np.testing.assert_allclose(found.upweight(data.query).values, plain.upweight(data.query).values, rtol=1e-9)
    assert not calls


def test_a_model_without_layer_rules_is_one_block_and_still_splits_by_module():
    data = classification(n=20, p=5, m=4, classes=3)
    model = nn.Sequential(Scan(), Scan3()).double().eval()
    study = uw.Study(model, (data.X, data.y), loss="cross_entropy", curvature="ekfac", penalty=0.1)
    found = study.upweight(data.query)
    split = found.by_module()
    assert split.modules == ("0", "1") and bool((np.abs(split.values).sum((1, 2)) > 0).all())
    assert relative(split.values.sum(0), found.values) < 1e-10


class Scan3(nn.Module):
    """A scale of three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.scale
