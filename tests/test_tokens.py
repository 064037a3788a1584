"""Sequences: one label a position, some without; scores equal to the dense twin, padding without effect."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from upweight.objective.draws import Draws
from upweight.objective.tokens import IGNORED, TokenCrossEntropy

pytestmark = pytest.mark.filterwarnings("ignore::upweight.errors.NotStationaryWarning")
T, V, D = 5, 7, 6


class Speaker(nn.Module):
    """One causal attention layer over a vocabulary of seven."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.q, self.k, self.v = nn.Embedding(V, D), *(nn.Linear(D, D, bias=False) for _ in range(3))
        self.out = nn.Linear(D, V)

    def forward(self, tokens):
        x = self.table(tokens)
        scores = self.q(x) @ self.k(x).mT / D**0.5
        seen = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        return self.out(x + torch.softmax(scores.masked_fill(~seen, -torch.inf), 2) @ self.v(x))


def sequences(n, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (n, T + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[0, -2:] = IGNORED
    return tokens[:, :-1], targets


def speaker():
    torch.manual_seed(0)
    return Speaker().double().eval()


def case(seed=0, b=3):
    outputs = torch.randn(b, T, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = TokenCrossEntropy().bound((T, V))
    return loss, *loss.prepare(outputs, sequences(b, seed)[1])


def test_the_loss_is_the_sum_over_labelled_positions():
    loss, outputs, targets = case()
    expected = [
        sum(F.cross_entropy(row[t].unsqueeze(0), y[t].unsqueeze(0)) for t in range(T) if y[t] != IGNORED)
        for row, y in zip(outputs.view(3, T, V), targets, strict=True)
    ]
    torch.testing.assert_close(loss.values(outputs, targets), torch.stack(expected))


def test_derivatives_are_those_of_autograd():
    loss, outputs, targets = case()
    point = outputs.clone().requires_grad_()
    slope = torch.autograd.grad(loss.values(point, targets).sum(), point)[0]
    torch.testing.assert_close(loss.gradient(outputs, targets), slope)
    for row in range(3):
        one = targets[row : row + 1]
        bend = torch.autograd.functional.hessian(
            lambda x, one=one: loss.values(x.unsqueeze(0), one).sum(), outputs[row]
        )
        torch.testing.assert_close(loss.hessian(outputs, targets)[row], bend)
    shifts = torch.randn(3, T * V, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(loss.hessian_times(outputs, targets, shifts), loss.hessian(outputs, targets) @ shifts)


def test_sampled_labels_have_the_output_hessian_as_their_covariance():
    loss, outputs, targets = case(b=1)
    many = outputs.expand(40_000, -1), targets.expand(40_000, -1)
    drawn = loss.sampled(*many, Draws(0, np.arange(40_000)))
    covariance = drawn.T @ drawn / len(drawn)
    assert float((covariance - loss.hessian(outputs, targets)[0]).abs().max()) < 0.01
    assert float(drawn.mean(0).abs().max()) < 0.01
    unlabelled = (targets[0] == IGNORED).repeat_interleave(V)
    assert bool(unlabelled.any()) and not bool(drawn[:, unlabelled].any())


def test_scores_equal_the_dense_twin_whatever_the_batch_size():
    data, query = sequences(12, 1), sequences(4, 2)
    model = speaker()
    settings = {"loss": "token_cross_entropy", "curvature": "ekfac", "fisher": "sampled", "damping": 1e-2}
    study = uw.Study(model, data, **settings)
    effects = study.drop(query, order="first")
    train, asked = (uw.rows(study.objective, part).dense() for part in (data, query))
    P = study.fitted.blocked.inverse.operator.dense()
    np.testing.assert_allclose(effects.values, (asked @ P @ train.T / 12).numpy(), rtol=1e-6, atol=1e-12)
    names = {kind for name, kind in study.fitted.engine.coverage.items() if "table" not in name}
    assert names == {"Linear"}
    for size in (1, 5):
        empirical = settings | {"fisher": "empirical"}
        a = uw.Study(model, data, batch_size=size, **empirical).drop(query, order="first").values
        b = uw.Study(model, data, **empirical).drop(query, order="first").values
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_many_outputs_are_answered_to_first_order_and_say_so():
    study = uw.Study(speaker(), sequences(12, 1), loss="token_cross_entropy", curvature="ekfac", damping=1e-2)
    effects = study.drop(sequences(3, 2))
    assert effects.order == "first" and "sampled Fisher" in effects.verdict


def test_padding_at_the_end_changes_no_score():
    tokens, targets = sequences(10, 3)
    longer = F.pad(tokens, (0, 3)), F.pad(targets, (0, 3), value=IGNORED)
    settings = {"loss": "token_cross_entropy", "curvature": "ekfac", "fisher": "empirical", "damping": 1e-2}
    plain = uw.Study(speaker(), (tokens, targets), parameters=["q.*", "k.*", "v.*", "out.*"], **settings)
    padded = uw.Study(speaker(), longer, parameters=["q.*", "k.*", "v.*", "out.*"], **settings)
    query = sequences(3, 4)
    rows = uw.rows(plain.objective).dense(), uw.rows(padded.objective).dense()
    torch.testing.assert_close(*rows)
    a, b = (study.drop(query, order="first").values for study in (plain, padded))
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_leverage_of_many_outputs_is_right_on_average():
    study = uw.Study(speaker(), sequences(40, 1), loss="token_cross_entropy", curvature="ekfac", damping=1e-2)
    exact, operator = 0.0, study.fitted.blocked.inverse.operator
    for _, batch in study.fitted.engine.batches():
        outputs, targets, jacobian = study.fitted.engine.linearised(batch)
        bend = study.objective.loss.hessian(outputs, targets)
        exact += float(torch.einsum("box,bxo->", bend, jacobian.sandwich(operator).double())) / 40
    assert float(study.leverage().sum()) == pytest.approx(exact, rel=0.15)


def test_the_gauss_newton_solver_answers_for_sequences():
    data, query = sequences(20, 1), sequences(3, 2)
    settings = {"loss": "token_cross_entropy", "damping": 1e-1, "protocol": "fixed_total"}
    iterated = uw.Study(speaker(), data, curvature="ggn", solver="block_cg", **settings).upweight(query)
    dense = uw.Study(speaker(), data, curvature="ggn", **settings).upweight(query)
    np.testing.assert_allclose(iterated.values, dense.values, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("outputs", "targets", "error", "words"),
    [
        (torch.zeros(2, V), torch.zeros(2, dtype=torch.long), uw.errors.ShapeError, "Expected .b, positions, classes"),
        (torch.zeros(2, T, V), torch.zeros(2, T), uw.errors.LabelError, "integer class labels"),
        (torch.zeros(2, T, V), torch.zeros(2, dtype=torch.long), uw.errors.ShapeError, "one label a position"),
        (torch.zeros(2, T, V), torch.full((2, T), V), uw.errors.LabelError, "has label 7 at position 0"),
    ],
)
def test_what_does_not_line_up_is_refused(outputs, targets, error, words):
    with pytest.raises(error, match=words):
        TokenCrossEntropy().bound((T, V)).prepare(outputs, targets)


def test_an_output_hessian_too_large_is_refused():
    loss = TokenCrossEntropy().bound((100, 100))
    with pytest.raises(uw.errors.BudgetError, match="10,000 outputs a sequence"):
        loss.hessian(torch.zeros(1, 10_000), torch.zeros(1, 100, dtype=torch.long))
