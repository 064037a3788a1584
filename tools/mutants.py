"""Named faults, each put into a copy of the source: the fast tests must notice every one.

make mutants                 all of them
python tools/mutants.py wᵢ   those whose name contains the text
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
LIKELY = 6
"""Files of tests that are tried before all others."""

SECONDS = 900
"""A mutant that runs this long is an endless loop, which counts as noticed."""


@dataclass(frozen=True)
class Mutant:
    """One fault: in a file below src/upweight, the only occurrence of a text becomes another."""

    name: str
    file: str
    right: str
    wrong: str


MUTANTS = [
    Mutant(
        "sketch: every sign the same",
        "linop/hashed.py",
        "(2 * signs - 1).to(scale.device)",
        "torch.ones_like(signs).to(scale.device)",
    ),
    Mutant("sketch: queries weighed as rows are", "linop/hashed.py", "values / self.scale, 0.0", "self.scale, 0.0"),
    Mutant(
        "signs: the row's mean size for its scale",
        "index/rounding.py",
        "rows.square().sum(1) / rows.abs().sum(1).clamp_min(torch.finfo(rows.dtype).tiny)",
        "rows.abs().mean(1)",
    ),
    Mutant(
        "layer rules: rows of another width are believed",
        "gradients/confirmation.py",
        "if all(own.shape[1] == layout.width for layout, own in rows):",
        "if True:",
    ),
    Mutant(
        "newton step: damping dropped",
        "questions/points.py",
        "    whole.diagonal().add_(fitted.exact.damping)\n",
        "",
    ),
    Mutant(
        "solver: auto does not fall back",
        "fitted/fitted.py",
        'if found is not None and self.settings.solver_name == "auto" and self.exact.fits:',
        "if False and found is not None:",
    ),
    Mutant(
        "formula: flipped sign",
        "influence/formula.py",
        "return -((measurements @ inverse)",
        "return ((measurements @ inverse)",
    ),
    Mutant(
        "formula: H for Hᵀ on the short side", "influence/formula.py", "changes @ inverse.T  #", "changes @ inverse  #"
    ),
    Mutant(
        "first order: flipped sign",
        "questions/answer.py",
        "solved, pull).neg_().cpu()",
        "solved, pull).cpu()",
    ),
    Mutant(
        "lost 1/n in the default weights",
        "adapters/torch.py",
        "torch.full((count,), 1 / count",
        "torch.full((count,), 1.0",
    ),
    Mutant(
        "dropped wᵢ in the change rows",
        "questions/points.py",
        "partial(point_tiles, fitted, places, -fitted.weights[places], question.pending)",
        "partial(point_tiles, fitted, places, torch.full_like(fitted.weights[places], -1 / len(fitted.weights)), question.pending)",
    ),
    Mutant(
        "dropped wᵢ in the own curvature",
        "questions/terms.py",
        "loss.hessian(outputs, targets).double() * amount[:, None, None]",
        "loss.hessian(outputs, targets).double() * amount.sign()[:, None, None]",
    ),
    Mutant(
        "self-influence without wᵢ",
        "questions/points.py",
        "return own * fitted.weights.cpu().numpy()",
        "return own",
    ),
    Mutant(
        "by_module: the penalty's share left out",
        "questions/split.py",
        "values[:, tile.columns] -= tile.changes.share * shared",
        "values[:, tile.columns] -= 0 * shared",
    ),
    Mutant(
        "by_module: unmasked products",
        "questions/split.py",
        "solved * mask, fresh.pull",
        "solved / len(masks), fresh.pull",
    ),
    Mutant(
        "strict: parameters one by one let through",
        "gradients/coverage.py",
        'NO_RULE = ("vmap", "one by one")',
        'NO_RULE = ("vmap",)',
    ),
    Mutant(
        "dependence: only the first tile of queries looked at",
        "questions/dependence.py",
        "        start = where.stop\n    return False",
        "        break\n    return False",
    ),
    Mutant(
        "dependence: a saturated callable taken for a constant",
        "questions/dependence.py",
        "for at in (outputs, *others)",
        "for at in (outputs,)",
    ),
    Mutant(
        "randomised: the same noise in every draw",
        "objective/randomised.py",
        'hashed(f"{self.seed}, {draw}, {key}")',
        'hashed(f"{self.seed}, {key}")',
    ),
    Mutant(
        "randomised: noise by place in the batch",
        "objective/randomised.py",
        "self._draw(model, one, int(keys[place]), draw)",
        "self._draw(model, one, place, draw)",
    ),
    Mutant(
        "compiled: parts inside run as compiled",
        "gradients/guard.py",
        "compiled(module) or module._compiled_call_impl is not None",
        "False",
    ),
    Mutant(
        "precision: asked for and not taken",
        "gradients/network.py",
        "batch, theta, self.objective.precision)",
        "batch, theta, None)",
    ),
    Mutant(
        "precision: factors summed in bfloat16",
        "gradients/capture.py",
        "dtype=torch.promote_types(own, torch.float32)",
        "dtype=precision or own",
    ),
    Mutant(
        "groups at scale: the penalty's share left in the curvature",
        "questions/remaining.py",
        "diagonal = share * fitted",
        "diagonal = 0 * fitted",
    ),
    Mutant(
        "groups at scale: indefinite remains solved all the same",
        "questions/remaining.py",
        "before, gradient) <= FLOOR:",
        "before, gradient) <= -1e9:",
    ),
    Mutant(
        "bias and weight swapped",
        "space.py",
        "weight = matrix[..., :columns]",
        "weight = matrix[..., -columns:]",
    ),
    Mutant("bias read from the first column", "space.py", "matrix[..., -1]", "matrix[..., 0]"),
    Mutant(
        "weights laid out transposed",
        "space.py",
        "shape = (-1, self.outputs) if self.transposed else (self.outputs, -1)",
        "shape = (self.outputs, -1) if self.transposed else (-1, self.outputs)",
    ),
    Mutant(
        "protocol swapped", "fitted/fitted.py", 'if self.protocol == "fixed_total"', 'if self.protocol == "fixed_mean"'
    ),
    Mutant(
        "the penalty's share never leaves H",
        "fitted/exact.py",
        "add_(share * self.engine",
        "add_(0.0 * share * self.engine",
    ),
    Mutant(
        "H for Hᵀ in the LU solve",
        "solve/direct.py",
        "adjoint=not self.transposed).T",
        "adjoint=self.transposed).T",
    ),
    Mutant(
        "group step: flipped sign",
        "influence/newton.py",
        "return -(gradient_change @ solver.T)",
        "return gradient_change @ solver.T",
    ),
    Mutant(
        "off-by-one training ids",
        "questions/points.py",
        "return question.fitted.objective.examples.ids[places]",
        "return question.fitted.objective.examples.ids[places - 1]",
    ),
    Mutant("ids taken for positions", "fitted/fitted.py", "[self._places[item] for item", "[int(item) for item"),
    Mutant(
        "softmax curvature without its outer product",
        "objective/losses.py",
        "return torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)",
        "return torch.diag_embed(p)",
    ),
    Mutant(
        "softmax gradient without the label",
        "objective/losses.py",
        "return torch.softmax(outputs, 1) - F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)",
        "return torch.softmax(outputs, 1)",
    ),
    Mutant(
        "logistic curvature p for p(1 − p)",
        "objective/losses.py",
        "return p * (1 - p) / self.outputs\n",
        "return p / self.outputs\n",
    ),
    Mutant("hinge temperature lost", "objective/hinges.py", "p * (1 - p) / self.temperature *", "p * (1 - p) *"),
    Mutant(
        "squared error without its half",
        "objective/losses.py",
        "0.5 * (outputs - targets).square()",
        "(outputs - targets).square()",
    ),
    Mutant(
        "Poisson rate lost",
        "objective/losses.py",
        "return torch.exp(outputs)\n\n    def mean",
        "return torch.exp(outputs) / 2\n\n    def mean",
    ),
    Mutant(
        "A7: the example's curvature dropped",
        "influence/newton.py",
        "curvature + epsilon * example_curvature",
        "curvature",
    ),
    Mutant(
        "A11: the pending step's sign",
        "fitted/fitted.py",
        "return self.gradient @ self.exact.inverse.T",
        "return -self.gradient @ self.exact.inverse.T",
    ),
    Mutant(
        "leverage corrected the wrong way",
        "influence/changes.py",
        "+ curvature @ coupling\n",
        "- curvature @ coupling\n",
    ),
    Mutant(
        "the correction left out",
        "influence/changes.py",
        "push = target / system[:, 0] if system.shape[1] == 1 else torch.linalg.solve(system, target)",
        "push = target",
    ),
    Mutant(
        "couplings of two outputs mixed up",
        "tiles/jacobians.py",
        "found[:, column, row] = found[:, row, column]",
        "found[:, column, row] = found[:, row, row]",
    ),
    Mutant(
        "margin against all classes",
        "objective/measures.py",
        "outputs.masked_fill(~others, -torch.inf)",
        "outputs",
    ),
    Mutant("AUC counts ties as lost", "objective/measures.py", "(counts.to(scores.dtype) - 1) / 2)", "counts * 0)"),
    Mutant(
        "measurement not shifted",
        "questions/measuring.py",
        "moved = outputs.unsqueeze(2) + shifts",
        "moved = outputs.unsqueeze(2) + shifts * 0.5",
    ),
    Mutant(
        "groups: a mean for a sum",
        "influence/effects.py",
        "np.add.at(totals.T, where, self.values.T)",
        "np.add.at(totals.T, where, self.values.T / 2)",
    ),
    Mutant(
        "helpfulness of an upweighted point",
        "influence/effects.py",
        '"upweight": -1.0',
        '"upweight": 1.0',
    ),
    Mutant(
        "only the last batch counts",
        "gradients/engine.py",
        "self.gradients(batch, theta).add_sum(weights[where], total)",
        "total = self.gradients(batch, theta).sum(weights[where])",
    ),
    Mutant(
        "batches share one slice of the weights",
        "gradients/stationarity.py",
        "block.add_sum(weights, total)",
        "block.add_sum(amounts[: len(weights)], total)",
    ),
    Mutant(
        "stationarity forgets the penalty",
        "gradients/stationarity.py",
        "gradient = total + objective.penalty.gradient(objective.theta.to(total.dtype))",
        "gradient = total",
    ),
    Mutant("train mode not restored", "gradients/guard.py", "module.training = training", "module.training = False"),
    Mutant(
        "buffers not copied",
        "gradients/vmap.py",
        'buffers = {f"model.{name}": value.clone()',
        'buffers = {f"model.{name}": value',
    ),
    Mutant(
        "desk: the dispersion forgets its degrees of freedom",
        "inference/covariance.py",
        "return scale.unit * total / (scale.remaining - scale.parameters)",
        "return scale.unit * total / scale.remaining",
    ),
    Mutant(
        "desk: the sandwich forgets the weights",
        "inference/covariance.py",
        "gradients(batch).dense().double() * weights[where, None]",
        "gradients(batch).dense().double() / len(weights)",
    ),
    Mutant(
        "desk: a variance's derivative stops at the coefficients",
        "inference/variance.py",
        "return found if through is None else found - self._rows_against",
        "return found if through is None else found - 0 * self._rows_against",
    ),
    Mutant(
        "desk: observations do not follow the weights",
        "inference/variance.py",
        "freedom = self.scale.observations(weights) - self.scale.parameters",
        "freedom = self.scale.remaining - self.scale.parameters",
    ),
    Mutant(
        "desk: what remains keeps the whole penalty",
        "inference/remaining.py",
        "penalty=objective.penalty.scaled(1.0 + removed)",
        "penalty=objective.penalty",
    ),
    Mutant(
        "desk: the greedy search predicts at the first fit",
        "inference/worst_case/search.py",
        "search.claim.one_step(current)",
        "search.claim.one_step(search.fitted)",
    ),
    Mutant(
        "desk: the far end of the interval for the near one",
        "inference/worst_case/question.py",
        "(1.0 if far else -1.0)",
        "(-1.0 if far else 1.0)",
    ),
    Mutant(
        "desk: cross-validation at first order",
        "inference/cross_validation.py",
        "push, refused = correction.push, int",
        "refused = int",
    ),
    Mutant(
        "desk: an l2 derivative without θ",
        "inference/penalty.py",
        "_reach(penalty.diagonal, penalty.reach, theta) * theta",
        "_reach(penalty.diagonal, penalty.reach, theta)",
    ),
    Mutant(
        "desk: trials are no weights",
        "adapters/statsmodels/generalised.py",
        "frequency * values(model.var_weights) * values(model.n_trials)",
        "frequency * values(model.var_weights)",
    ),
    Mutant("desk: an offset that is not added", "objective/predictors.py", "(cells == FIXED)", "(cells != cells)"),
    Mutant(
        "desk: gone from the risk set at its own time",
        "adapters/statsmodels/survival.py",
        "(self.times <= subjects.time[:, None])",
        "(self.times < subjects.time[:, None])",
    ),
    Mutant("desk: only one stage", "objective/joint.py", "u * (targets - v) - 0.5 * u.square()", "u * (targets - v)"),
    Mutant(
        "desk: an l1 penalty without its slope",
        "adapters/sklearn/active.py",
        "slope = alpha * ratio * theta.sign() * on",
        "slope = 0 * theta",
    ),
    Mutant(
        "desk: the penalty of all points at every batch",
        "adapters/sklearn/networks.py",
        "float(final.alpha) / _batch(final, given.count)",
        "float(final.alpha) / given.count",
    ),
    Mutant(
        "desk: cells that share a slope are not added up",
        "space.py",
        "return total.index_add(1, self.index.flatten(), matrix.flatten(1))[:, : self.size]",
        "return total.index_copy(1, self.index.flatten(), matrix.flatten(1))[:, : self.size]",
    ),
    Mutant(
        "the global seed is moved",
        "gradients/guard.py",
        "with torch.random.fork_rng(devices=cuda), _as_written(model), without_autocast():",
        "if torch.manual_seed(0):",
    ),
    Mutant(
        "the penalty also on intercepts",
        "adapters/sklearn/linear.py",
        "linear_map(given.final), loss, strength, 0.0, protocol",
        "linear_map(given.final), loss, strength, 1.0, protocol",
    ),
    Mutant(
        "C for 1/C",
        "adapters/sklearn/linear.py",
        "0.0 if penalty is None else 1 / float(np.ravel(",
        "0.0 if penalty is None else float(np.ravel(",
    ),
    Mutant(
        "class weights ignored",
        "adapters/sklearn/adapt.py",
        "weights = weights * compute_sample_weight(",
        "weights = weights + 0 * compute_sample_weight(",
    ),
    Mutant(
        "the penalty not rescaled with the weights",
        "adapters/sklearn/adapt.py",
        "Quadratic(recipe.penalty / unit, ",
        "Quadratic(recipe.penalty, ",
    ),
    Mutant(
        "refits keep the whole penalty",
        "evaluate/refit.py",
        "penalty.scaled(1.0 + removed)",
        "penalty.scaled(1.0)",
    ),
    Mutant(
        "perturb without wᵢ",
        "questions/perturbation.py",
        "found.append(-slope * weights.reshape(-1, *[1] * (slope.ndim - 1)))",
        "found.append(-slope)",
    ),
    Mutant("perturb: flipped sign", "questions/perturbation.py", "found.append(-slope *", "found.append(slope *"),
    Mutant(
        "an added point weighs one",
        "questions/points.py",
        "weight = fitted.objective.total_weight / fitted.objective.count",
        "weight = 1.0",
    ),
    Mutant(
        "relabelling forgets the old label",
        "questions/points.py",
        "push = (loss.gradient(outputs, changed) - loss.gradient(outputs, targets)).double()",
        "push = loss.gradient(outputs, changed).double()",
    ),
    Mutant(
        "replacing keeps the old example",
        "questions/points.py",
        "leaving = terms(fitted, Chosen(fitted.objective.examples, places), -weights)",
        "leaving = terms(fitted, Chosen(fitted.objective.examples, places), 0 * weights)",
    ),
    Mutant(
        "suspects from the bottom",
        "evaluate/mislabel.py",
        'np.argsort(-owned, kind="stable")[:k]',
        'np.argsort(owned, kind="stable")[:k]',
    ),
    Mutant(
        "foreign files are read",
        "store/arrays.py",
        'if metadata.get("format") != FORMAT:',
        "if False:",
    ),
    Mutant(
        "block CG believes its first answer",
        "solve/cg.py",
        "residual = residual, float(left.norm(dim=1).max())",
        "residual = residual, 0.0",
    ),
    Mutant(
        "block CG refines the wrong way",
        "solve/cg.py",
        "answer, taken = answer + correction, taken + used",
        "answer, taken = answer - correction, taken + used",
    ),
    Mutant(
        "block CG ignores the gauge",
        "fitted/iterative.py",
        "gauge = None if exact.damping else shift_gauge(objective, hessian)",
        "gauge = None",
    ),
    Mutant(
        "a softmax without its rank-one part in the thin curvature",
        "objective/losses.py",
        "return ThinHessian(p, p)",
        "return ThinHessian(p)",
    ),
    Mutant(
        "the second Newton step is lost", "questions/whole.py", "return move + step if closer else move", "return move"
    ),
    Mutant(
        "a small group loses its share of the penalty",
        "questions/whole.py",
        "Changes(jacobian, push, lambda: curvature, share)",
        "Changes(jacobian, push, lambda: curvature, 0.0)",
    ),
    Mutant(
        "damping is not added",
        "linop/operator.py",
        "matrix.diagonal().add_(self.damping)",
        "matrix.diagonal().add_(0.0)",
    ),
    Mutant(
        "a layer's positions are averaged, not summed",
        "tiles/blocks.py",
        "return self.outputs.mT @ self.inputs",
        "return self.outputs.mT @ self.inputs / self.inputs.shape[1]",
    ),
    Mutant(
        "EK-FAC: eigenvectors transposed",
        "tiles/layer_jacobians.py",
        "inputs = a @ basis.right\n",
        "inputs = a @ basis.right.T\n",
    ),
    Mutant(
        "EK-FAC: the square of a mean for the mean of squares",
        "curvature/ekfac.py",
        "turned_gradients(part, bases[key]).square_().sum((0, 1))",
        "turned_gradients(part, bases[key]).sum((0, 1)).square_()",
    ),
    Mutant(
        "K-FAC: inputs not averaged over positions",
        "curvature/factors.py",
        "self.total += (weights @ within.sum(1)).double()",
        "self.total += weights.sum().double()",
    ),
    Mutant(
        "K-FAC: padding takes part in the inputs' moments",
        "curvature/factors.py",
        "mine = layer.slopes.ne(0).any(3).any(1).to(layer.slopes.dtype)",
        "mine = layer.slopes.new_ones(b, s)",
    ),
    Mutant(
        "a module with two names gets a copy back",
        "gradients/guard.py",
        "functional_call(model, placed, (batch,), tie_weights=False)",
        "functional_call(model, dict(values), (batch,))",
    ),
    Mutant(
        "kernel windows in another order than the weight",
        "gradients/layers.py",
        "    windows = windows.movedim(1 + axes, -1)\n",
        "    windows = windows.transpose(1 + axes, -1)\n",
    ),
    Mutant(
        "tied layers counted apart",
        "gradients/confirmation.py",
        "max(starts.values()) > 1, sum(tensors)",
        "False, sum(tensors)",
    ),
    Mutant(
        "padding tokens have a gradient",
        "gradients/capture.py",
        "joined * self.index(place).ne(padding).unsqueeze(2)",
        "joined",
    ),
    Mutant(
        "damping relative to the sum of the eigenvalues",
        "curvature/damping.py",
        "return float(operator.values.mean())",
        "return float(operator.values.sum())",
    ),
    Mutant(
        "a separable product without its second factor",
        "tiles/pairs.py",
        "products = (slopes @ self.slopes.T).mul_(inputs @ self.inputs.T)",
        "products = slopes @ self.slopes.T",
    ),
    Mutant(
        "a switch of the processor that is never put back",
        "float32_products.py",
        '_put_back(switch, _held["before"])',
        "pass",
    ),
    Mutant(
        "a processor that rounds to bfloat16 is believed",
        "float32_products.py",
        "return all(_error(*sizes, generator) <= PROBE_ERROR for sizes in PROBE_SIZES)",
        "return True",
    ),
    Mutant(
        "pairs are only those of the first piece",
        "tiles/pairs.py",
        "            found.append(products.sum(1).view(len(slopes), self.ranks, -1).sum(1))\n        return torch.cat(found)",
        "            found.append(products.sum(1).view(len(slopes), self.ranks, -1).sum(1))\n        return found[0]",
    ),
    Mutant(
        "an autocast around the question is kept",
        "float32_products.py",
        "            if torch.is_autocast_enabled(kind):",
        "            if False:",
    ),
    Mutant(
        "tied layers are met one by one",
        "tiles/blocks.py",
        "    if not block.tied:\n        return block.parts",
        "    if True:\n        return block.parts",
    ),
    Mutant(
        "the error of truncations is that of the first layer",
        "tiles/truncation.py",
        "    return torch.stack(terms).sum(0)",
        "    return terms[0]",
    ),
    Mutant(
        "ghosts forget their factor",
        "tiles/pairs.py",
        ".sum(2) * self.factor)",
        ".sum(2))",
    ),
    Mutant(
        "low rank without singular values",
        "tiles/truncation.py",
        "slopes = (left * singular.unsqueeze(1))[..., :ranks]",
        "slopes = left[..., :ranks]",
    ),
    Mutant(
        "a weight's window order is forgotten on the way back",
        "space.py",
        "weight = weight if self.window == 1 else weight.unflatten(2, (self.window, -1)).mT.flatten(2)",
        "weight = weight",
    ),
    Mutant(
        "gigabytes of 1024 for those of 1000",
        "fitted/settings.py",
        "1024 ** (zeros // 3) if found[3] else 10**zeros",
        "1024 ** (zeros // 3)",
    ),
    Mutant(
        "the penalty is not rotated into the eigenbasis",
        "curvature/penalised.py",
        "return KroneckerEigen(block.left, block.right, block.values + turned)",
        "return KroneckerEigen(block.left, block.right, block.values)",
    ),
    Mutant(
        "sampled labels are the true ones",
        "curvature/fisher.py",
        "return [loss.sampled(outputs, targets, draws)]",
        "return [loss.gradient(outputs, targets)]",
    ),
    Mutant(
        "every tile takes the first tile's weights in the Hessian",
        "gradients/vmap.py",
        "self._add_hessian(total, self._at(theta), batch, targets, weights[where])",
        "self._add_hessian(total, self._at(theta), batch, targets, weights[: len(targets)])",
    ),
    Mutant(
        "every tile takes the first tile's weights in perturb",
        "questions/perturbation.py",
        "weights = fitted.weights[places[start : start + TILE]]",
        "weights = fitted.weights[places[: len(places[start : start + TILE])]]",
    ),
    Mutant(
        "unequal weights fill the wrong columns",
        "questions/terms.py",
        "yield Tile(columns.start + chosen.cpu().numpy(),",
        "yield Tile(chosen.cpu().numpy(),",
    ),
    Mutant(
        "the second step forgets the share of the penalty",
        "questions/whole.py",
        "fitted.objective.penalty.scaled(1 + share))",
        "fitted.objective.penalty.scaled(1.0))",
    ),
    Mutant(
        "the correction ignores what is beyond the outputs",
        "influence/changes.py",
        "if changes.rest is not None:\n        moved",
        "if False:\n        moved",
    ),
    Mutant(
        "another penalty to first order: flipped sign",
        "questions/whole.py",
        '    if order == "first":\n        return -(gradient @ fitted.exact.inverse.T)\n    move = _retained',
        '    if order == "first":\n        return gradient @ fitted.exact.inverse.T\n    move = _retained',
    ),
    Mutant(
        "accuracy of the worst class",
        "objective/loss.py",
        "outputs.argmax(1) if self.kind",
        "outputs.argmin(1) if self.kind",
    ),
    Mutant("an added point's helpfulness", "influence/effects.py", '"add": -1.0', '"add": 1.0'),
    Mutant(
        "the Fisher ignores the weights",
        "curvature/factors.py",
        "weights = amounts[where].to(outputs.dtype)",
        "weights = amounts[where].to(outputs.dtype) * 0 + 1 / self.objective.count",
    ),
    Mutant(
        "blocks lose the penalty's share of a point",
        "questions/answer.py",
        "found = found + tile.changes.share * shared",
        "found = found + 0 * shared",
    ),
    Mutant(
        "a rule is believed on blank examples",
        "gradients/confirmation.py",
        "and site.starts <= seen]",
        "]",
    ),
    Mutant(
        "the gauge is not looked for",
        "curvature/gauge.py",
        'if objective.loss.kind != "class":',
        'if objective.loss.kind != "nothing":' + "\n        return None\n    if True:",
    ),
    Mutant(
        "half of the Gauss-Newton matrix",
        "curvature/ggn.py",
        "jacobian.add_gram(objective.loss.hessian(outputs, targets) * weights, matrix)",
        "jacobian.add_gram(objective.loss.hessian(outputs, targets) * weights / 2, matrix)",
    ),
    Mutant(
        "the filter's unit is forgotten",
        "solve/filters.py",
        "return self.damping * unit",
        "return self.damping",
    ),
    Mutant(
        "the segment filter cancels near zero",
        "solve/filters.py",
        "-torch.expm1(-turned)",
        "(1 - torch.exp(-turned))",
    ),
    Mutant(
        "the Neumann scale from the whole matrix",
        "solve/neumann.py",
        "return MARGIN * self.largest",
        "return float(torch.linalg.eigvalsh(self.exact.dense())[-1])",
    ),
    Mutant(
        "the Neumann series is silent about noise",
        "solve/neumann.py",
        "converged=residual <= self.tolerance,",
        "converged=True,",
    ),
    Mutant(
        "every repeat draws the same minibatches",
        "solve/neumann.py",
        "for generator in self._generators[1:]",
        "for generator in [self._generators[1] for _ in range(self.repeats)]",
    ),
    Mutant(
        "Lanczos keeps the largest, not the largest in size",
        "solve/lanczos.py",
        "ritz.abs().argsort(descending=True)",
        "ritz.argsort(descending=True)",
    ),
    Mutant(
        "Lanczos stops where an invariant space ends",
        "solve/lanczos.py",
        "if length <= BROKEN * size:",
        "if length < 0:",
    ),
    Mutant(
        "a low-rank inverse damps its own span twice",
        "solve/low_rank.py",
        "- self.tail * inside) @ self.basis",
        "+ 0 * inside) @ self.basis",
    ),
    Mutant(
        "the Nyström preconditioner is out of level",
        "solve/nystrom.py",
        "values.min() + damping",
        "values.max() + damping",
    ),
    Mutant(
        "Woodbury without its one",
        "solve/woodbury.py",
        "gram.diagonal().add_(1.0)",
        "gram.diagonal().add_(0.9)",
    ),
    Mutant(
        "tuning predicts with the sign turned",
        "evaluate/spectral.py",
        "total[place, :, where] -= weighed @ rows.T",
        "total[place, :, where] += weighed @ rows.T",
    ),
    Mutant(
        "tuning measures relative filters in absolute units",
        "evaluate/spectral.py",
        "part.mean if filter.relative else 1.0",
        "1.0",
    ),
    Mutant(
        "a half of the training set has half of the weight",
        "evaluate/subsets.py",
        "return found * (weights.sum() / held)",
        "return found",
    ),
    Mutant(
        "the judge of a tuning asks the queries that chose",
        "evaluate/contest.py",
        "for own in owners]",
        "for own in (owners[0], owners[0])]",
    ),
    Mutant(
        "a mixture is scored on the retrainings it was fitted on",
        "evaluate/contest.py",
        "np.delete(masks, place)",
        "masks",
    ),
    Mutant(
        "the ranking at ten times the damping twice",
        "router.py",
        "(1.0, 10.0, 0.1), 16, 64",
        "(1.0, 10.0, 10.0), 16, 64",
    ),
    Mutant("markup in the page's data", "report/packed.py", '.replace("<", "\\\\u003c")', ""),
    Mutant(
        "scripts of the page allowed by no hash", "report/page.py", "script-src {allowed}", "script-src 'unsafe-inline'"
    ),
    Mutant(
        "helped and hurt turned round",
        "report/payload.py",
        '{"helped": helped, "hurt": hurt}',
        '{"helped": hurt, "hurt": helped}',
    ),
    Mutant(
        "a suggestion that may be the given label",
        "report/outcomes.py",
        'others.scatter_(1, given[:, None], float("-inf"))',
        "pass",
    ),
    Mutant("refits that disagree light no light", "report/judgement.py", "if calibration.concerns:", "if False:"),
    Mutant(
        "a relabelled point keeps its old label's weight", "review/followed.py", "    weights[relabelled] = 0.0\n", ""
    ),
    Mutant(
        "decisions about other data are followed",
        "review/followed.py",
        "if found != decisions.fingerprint:",
        "if False:",
    ),
    Mutant(
        "what decisions do, predicted for the weights as they are",
        "review/what_if.py",
        "whole.reweight(asked, followed.weights",
        "whole.reweight(asked, followed.fitted.weights",
    ),
    Mutant(
        "a run of other data is gone on with",
        "runs/run.py",
        'if differs or found["fingerprint"] != mark:',
        "if differs:",
    ),
    Mutant(
        "the first of the held-out rows scored as well",
        "runs/tables.py",
        "train = np.setdiff1d(usable, query)",
        "train = np.setdiff1d(usable, query[1:])",
    ),
    Mutant("a pickle by another name is read", "runs/source.py", "if named or with_pickle:", "if named:"),
    Mutant(
        "a training forgets how many points its batches stand for", "evaluate/training.py", " * (pool / len(rows))", ""
    ),
    Mutant(
        "skip leaves nothing out",
        "evaluate/training.py",
        "order = order[weights[order] != 0] if self.skip else order",
        "order = order",
    ),
    Mutant(
        "members of a stack are scaled otherwise than alone", "evaluate/stacked.py", " * (pool / rows.shape[-1])", ""
    ),
    Mutant(
        "members of a stack read each other's weights",
        "evaluate/stacked.py",
        "amounts.gather(1, places)",
        "amounts.flip(0).gather(1, places)",
    ),
    Mutant(
        "retrainings of all seeds under one name",
        "evaluate/retraining.py",
        "dtype=np.float64), int(task.seed))",
        "dtype=np.float64))",
    ),
    Mutant(
        "finished retrainings are not kept",
        "evaluate/retraining.py",
        "self.finished.put(names[task.place], state)",
        "self.finished.get(names[task.place])",
    ),
    Mutant("nearby weightings prove nothing", "evaluate/ignored_weights.py", "return not same", "return False"),
    Mutant("a function is known without what it names", "evaluate/fingerprint.py", "cells, data)", "cells)"),
    Mutant(
        "refits: flipped sign",
        "evaluate/refits.py",
        "outputs[:, :-1] - outputs[:, -1:]",
        "outputs[:, -1:] - outputs[:, :-1]",
    ),
    Mutant(
        "a weight decay weighs more where a point left",
        "evaluate/altered.py",
        "row *= fitted.objective.total_weight / one.total",
        "row *= 1.0",
    ),
    Mutant(
        "a relabelled point stays beside its likeness",
        "evaluate/altered.py",
        "return replace(leaving, extra=likeness",
        "return replace(Altered(fitted.weights), extra=likeness",
    ),
    Mutant(
        "the response is not held to its outputs",
        "evaluate/bregman.py",
        'torch.einsum("kbo,bo->k", outputs, batch.slopes)',
        '0.0 * torch.einsum("kbo,bo->k", outputs, batch.slopes)',
    ),
    Mutant(
        "the response keeps the whole penalty",
        "evaluate/bregman.py",
        "held + 0.5 * shares * (self.penalty",
        "held + 0.0 * shares * (self.penalty",
    ),
    Mutant("no step up from half of the seeds", "evaluate/datamodeling.py", "count / half", "1.0"),
    Mutant(
        "queries that nothing moved count as zero",
        "evaluate/datamodeling.py",
        "np.where(moved, found, np.nan)",
        "found",
    ),
    Mutant("subsets: flipped sign", "evaluate/subsets.py", "(1 - self.kept *", "(self.kept - 1 + self.kept *"),
    Mutant(
        "two methods are compared on different resamples",
        "evaluate/estimates.py",
        "first.draws - second.draws, first.source",
        "first.draws - second.draws[::-1], first.source",
    ),
    Mutant(
        "only one of the two ways is resampled",
        "evaluate/estimates.py",
        "[(generator.integers(rows, size=rows), ",
        "[(np.arange(rows), ",
    ),
    Mutant(
        "detection: the wrong ones' own ranks are counted",
        "evaluate/detection.py",
        " - len(high) * (len(high) + 1) / 2",
        "",
    ),
    Mutant(
        "what holds a wrong prediction up is not removed",
        "evaluate/removal.py",
        "np.where(right, 1.0, -1.0)",
        "np.where(right, 1.0, 1.0)",
    ),
    Mutant(
        "a two-sample test of twice the runs",
        "evaluate/noise.py",
        "away = size * (runs / 2) ** 0.5",
        "away = size * runs**0.5",
    ),
    Mutant(
        "check looks at the largest only",
        "evaluate/calibration.py",
        "return order[np.concatenate([np.asarray(ranks, dtype=int), rest[steps.astype(int)]])]",
        "return order[:count]",
    ),
    Mutant(
        "TracIn's rates are made to sum to one",
        "influence/ensemble.py",
        'return _combined(found, weights, f"Sum',
        'return _combined(found, weights / weights.sum(), f"Sum',
    ),
    Mutant(
        "index: the penalty's part of an effect left out",
        "index/queries.py",
        "return along.double() * float(fitted.shares(fitted.weights.new_ones(1))[0])",
        "return 0 * along.double()",
    ),
    Mutant(
        "index: a row's weight left out",
        "index/held.py",
        "+ sought.constant[:, None]) * weights",
        "+ sought.constant[:, None])",
    ),
    Mutant(
        "index: the smallest mass kept",
        "index/basis.py",
        "together.argsort(descending=True",
        "together.argsort(descending=False",
    ),
    Mutant("index: deleted rows answer", "index/scan.py", "if gone is not None:", "if False:"),
    Mutant(
        "index: of equal scores the last",
        "index/scan.py",
        "even &= even.cumsum(1) <= wanted",
        "even &= even.flip(1).cumsum(1).flip(1) <= wanted",
    ),
    Mutant(
        "index: what is left out is left out of its bound",
        "index/walk.py",
        "(whole - kept).clamp_min(0) + ROUNDING",
        "0 * (whole - kept).clamp_min(0) + ROUNDING",
    ),
    Mutant(
        "index: the solver's error left out of a certificate",
        "index/certify.py",
        "radius = error[:, None] * own +",
        "radius = 0 * error[:, None] * own +",
    ),
    Mutant(
        "index: ‖r‖ for its bound in H⁻¹",
        "index/lower.py",
        "(rows.double().square() / self.diagonal.double())",
        "(rows.double().square() * self.diagonal.double())",
    ),
    Mutant(
        "index: an unfinished append counts", "index/contents.py", "and held == one.count:", "and held <= one.count:"
    ),
    Mutant(
        "index: another model is asked", "index/index.py", "require_same(found, store.manifest", "require_same({}, {}"
    ),
    Mutant(
        "store: renamed before it is on disk",
        "store/files.py",
        "                os.fsync(handle)\n            finally:\n                os.close(handle)\n            os.replace",
        "                pass\n            finally:\n                os.close(handle)\n            os.replace",
    ),
    Mutant(
        "store: a torn line counts",
        "store/journal.py",
        "enumerate(lines[:-1], 1)",
        "enumerate([line for line in lines if line], 1)",
    ),
    Mutant("store: a damaged file is read", "store/shards.py", "if found != self.crc32:", "if False:"),
    Mutant("store: two writers", "store/store.py", "except Timeout:", "except ZeroDivisionError:"),
    Mutant("projection: not unbiased", "linop/projection.py", "/ self.kept**0.5", "/ self.kept"),
    Mutant("methods: TRAK without its doubts", "methods/projected.py", "* torch.stack(doubts).mean(0)", "* 1"),
    Mutant(
        "methods: DataInf's average",
        "solve/averaged.py",
        "self.weights / (self.damping +",
        "self.weights / (2 * self.damping +",
    ),
    Mutant("methods: Adam without bias correction", "methods/checkpoints.py", "/ (1 - first**step)", "/ 1"),
    Mutant(
        "flat blocks: none is set aside",
        "fitted/blocked.py",
        "if mean_eigenvalue(block) == 0)",
        "if mean_eigenvalue(block) < 0)",
    ),
    Mutant(
        "small networks: damping by rule forgotten",
        "fitted/fitted.py",
        "replace(self.settings, damping=AUTO_DAMPING) if by_rule else self.settings",
        "self.settings",
    ),
    Mutant(
        "data: random augmentation not looked for",
        "gradients/probe.py",
        "    _require_steady(objective.examples)\n",
        "",
    ),
    Mutant(
        "groups: a refused step is not counted",
        "questions/whole.py",
        'return _move(question.fitted, change, "first"), True',
        'return _move(question.fitted, change, "first"), False',
    ),
    Mutant(
        "block CG: unconverged answers are called converged",
        "solve/cg.py",
        "reached = residual <= self.tolerance",
        "reached = residual <= max(self.tolerance, self.accept)",
    ),
    Mutant(
        "ranks: eigenvalues of one rank's own examples",
        "curvature/ekfac.py",
        'walk.fold.sum("eigenvalues", [values[key] for key in sorted(values)])',
        "sorted(values)",
    ),
    Mutant(
        "a model is one linear map where it is on the whole",
        "gradients/linear.py",
        "<= limits).all())",
        "<= limits).any())",
    ),
    Mutant(
        "saved effects: numbers are not part of the checksum",
        "store/arrays.py",
        "np.ascontiguousarray(array).tobytes(), found",
        "b'', found",
    ),
    Mutant(
        "EK-FAC: inputs kept for self-influence are handed to other batches",
        "curvature/ekfac.py",
        "squares[rows.where.start, rows.where.stop]",
        "squares[0, rows.where.stop - rows.where.start]",
    ),
    Mutant(
        "EK-FAC: inputs of some examples are kept as if they were all",
        "curvature/ekfac.py",
        "kept is not None and factor_share == 1",
        "kept is not None",
    ),
    Mutant(
        "ranks: a rank without examples counts the first one",
        "curvature/factors.py",
        "torch.zeros_like(self.weights)",
        "self.weights",
    ),
    Mutant("ranks: parts overlap", "parallel/ranks.py", "round(count * before / whole), round", "0, round"),
    Mutant("ranks: a failure is kept from the others", "parallel/ranks.py", "self._tell(name, error)", "str(error)"),
    Mutant(
        "ranks: different models are summed", "fitted/alike.py", "if len(set(values)) > 1:", "if len(set(values)) > 9:"
    ),
    Mutant(
        "draws: the same for every example",
        "objective/draws.py",
        "+ self.places.astype(np.uint64))",
        "+ np.uint64(7) * (self.places > -1))",
    ),
    Mutant("draws: the second draw is the first", "objective/draws.py", "+ np.uint64(self.again))", "+ np.uint64(0))"),
    Mutant(
        "plan: labels are not counted",
        "planning/counts.py",
        "moments += count * n * s * (i * i + k * o * o)",
        "moments += count * n * s * (i * i + o * o)",
    ),
    Mutant("memory: queries are never cut", "questions/memory.py", "if size >= len(examples):", "if size >= 0:"),
    Mutant("memory: factors are never refused", "fitted/blocked.py", "if needed > limit:", "if needed > 1e99:"),
    Mutant(
        "tokens: a training sequence's weight is lost",
        "questions/tokens.py",
        "found.append(cut * weights[where, None])",
        "found.append(cut)",
    ),
    Mutant(
        "tokens: the penalty's share has the other sign",
        "questions/tokens.py",
        "rest = torch.outer(rows",
        "rest = -torch.outer(rows",
    ),
    Mutant(
        "sequences: a token is asked for itself, not for the next",
        "adapters/huggingface/sequences.py",
        "shifted = np.append(labels[1:], IGNORED)",
        "shifted = labels",
    ),
    Mutant(
        "sequences: padding on the left stays",
        "adapters/huggingface/sequences.py",
        "inside = slice(real[0], real[-1] + 1)",
        "inside = slice(0, real[-1] + 1)",
    ),
    Mutant(
        "recorder: the rate after the step",
        "adapters/huggingface/callback.py",
        "def on_pre_optimizer_step(",
        "def on_optimizer_step(",
    ),
    Mutant("ids: NaN names a point", "objective/data.py", "name is None or bool(name != name)", "name is None"),
    Mutant("meta: shapes pass for parameters", "gradients/guard.py", "if value.is_meta:", "if False:"),
    Mutant("separation: not said", "adapters/statsmodels/rules.py", "elif separated(objective):", "elif False:"),
    Mutant(
        "check: fewer refits than asked for unsaid",
        "evaluate/calibration.py",
        "if self.asked > count else",
        "if False else",
    ),
    Mutant("settings: unknown ones are dropped", "fitted/keywords.py", "    if unknown:\n", "    if False:\n"),
]


def snapshot(folder: Path) -> None:
    """Copy what the tests read, so that the tree may be edited while mutants run."""
    for name in ("src", "tests", "docs", "examples", "tools", "pyproject.toml", "README.md"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)


def applied(mutant: Mutant, folder: Path) -> None:
    """Put the fault into a copy of the source."""
    path = folder / "src" / "upweight" / mutant.file
    path.write_text(path.read_text("utf-8").replace(mutant.right, mutant.wrong), "utf-8")


def require_their_texts(mutants: list[Mutant], folder: Path) -> None:
    """Every mutant's text must stand in its file, once."""
    for mutant in mutants:
        found = (folder / "src" / "upweight" / mutant.file).read_text("utf-8").count(mutant.right)
        if found != 1:
            raise SystemExit(
                f"{mutant.name!r}: found its text {found} times in {mutant.file}. Expected once; write it anew."
            )


def noticed(mutant: Mutant, pristine: Path) -> tuple[bool, str]:
    """Whether the fast tests fail, and the first one that does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        shutil.copytree(pristine, folder)
        applied(mutant, folder)
        environment = os.environ | {
            "PYTHONPATH": str(folder / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        for tests in (likely(mutant, folder), []):  # the rest only where these notice nothing
            try:
                run = subprocess.run(
                    [*command, *tests], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
                )
            except subprocess.TimeoutExpired:
                return True, "ran out of time"
            failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            if run.returncode == 1:
                return True, failed[0] if failed else run.stdout[-300:]
        return False, run.stdout[-300:]


def likely(mutant: Mutant, folder: Path) -> list[str]:
    """The files of tests that speak most of the file's names, most first."""
    home = Path(mutant.file)
    source = (folder / "src" / "upweight" / home).read_text("utf-8")
    names = {*re.findall(r"(?:def|class) ([A-Za-z]\w+)", source), home.stem}
    word = re.compile(rf"\b(?:{'|'.join(sorted(names))})\b")
    spoken = {
        path: len({*word.findall(path.read_text("utf-8"))})
        + 3 * (home.stem in path.stem or home.parent.name in path.stem)
        for path in (folder / "tests").rglob("test_*.py")
    }
    first = sorted(spoken, key=lambda path: (-spoken[path], path.name))[:LIKELY]
    return [str(path.relative_to(folder)) for path in first if spoken[path]]


def main(wanted: str) -> int:
    """Try every mutant, and name those that live."""
    chosen = [mutant for mutant in MUTANTS if wanted in mutant.name]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(WORKERS) as pool:
        snapshot(Path(name))
        require_their_texts(chosen, Path(name))
        found = list(tqdm(pool.map(noticed, chosen, [Path(name)] * len(chosen)), total=len(chosen), unit="mutant"))
    for mutant, (killed, by) in zip(chosen, found, strict=True):
        print(f"{'killed' if killed else 'LIVES '}  {mutant.name:48}  {by[:110]}")
    lived = [mutant.name for mutant, (killed, _) in zip(chosen, found, strict=True) if not killed]
    print(
        f"{len(chosen) - len(lived)} of {len(chosen)} mutants killed{': still alive: ' + '; '.join(lived) if lived else '.'}"
    )
    return bool(lived)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
