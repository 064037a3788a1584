"""Layer rules: how each layer's input and output gradient become a and g of out[b,s] = W in[b,s] + c.

    Linear, Conv, ConvTranspose, HF Conv1D    factored: a (b, s, i) and g (b, s, o)
    Embedding                                 indexed: the rows looked up, and g (b, s, o)
    norms with scale and shift, grouped Conv  direct: the gradient of each parameter, (b, *shape)

A rule sees examples on the leading axis. Which rule serves which layer is the table at the end; it is
believed for a model only after its gradients have been held against plain autograd (``confirmation``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from upweight._typing import Float, Tensor


@dataclass(frozen=True)
class Factored:
    """A linear map: what it is given, what it yields, and whether its weight is kept as (i, o)."""

    inputs: Callable[[Any, Tensor, bool], Float[Tensor, "b s i"]]
    """From what the layer is given; where asked, with a last column of ones for the bias."""
    outputs: Callable[[Any, Tensor], Float[Tensor, "b s o"]]
    transposed: bool = False
    window: Callable[[Any], int] = lambda layer: 1
    """How many positions the inputs' columns run through, all channels of each together."""
    bias: bool = True
    """False where the bias has another width than o and is taken directly."""


@dataclass(frozen=True)
class Indexed:
    """An embedding: the input is the index."""


@dataclass(frozen=True)
class Direct:
    """Parameters whose gradients are written out."""

    gradients: Callable[[Any, Tensor, Tensor], dict[str, Tensor]]


Rule = Factored | Indexed | Direct


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a layer, None where there is none: subclasses that compute something else are found out later."""
    for kind, applies, rule in TABLE:
        if isinstance(module, kind) and applies(module):
            return rule
    named = f"{type(module).__module__}.{type(module).__name__}"
    return HUGGING_FACE.get(named) or (ROOT_MEAN_SQUARE if _is_root_mean_square(named, module) else None)


def _is_root_mean_square(named: str, module: nn.Module) -> bool:
    """A model's own norm of this kind: every family of transformers has a class for it."""
    return named.startswith("transformers.") and named.endswith("RMSNorm") and _epsilon(module) is not None


def _epsilon(module: Any) -> Any:
    """What is added under the root; None where a module has nothing of the kind."""
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _positions_last(values: Float[Tensor, "b ... i"]) -> Float[Tensor, "b s i"]:
    return values.reshape(len(values), -1, values.shape[-1])


def _with_ones(values: Float[Tensor, "b s i"], ones: bool) -> Float[Tensor, "b s j"]:
    """A last column of ones, where asked."""
    return torch.cat([values, values.new_ones(*values.shape[:2], 1)], 2) if ones else values


def _positions_after_channels(values: Float[Tensor, "b o ..."]) -> Float[Tensor, "b s o"]:
    return values.flatten(2).mT


def _windows(layer: Any, inputs: Tensor, ones: bool = False) -> Float[Tensor, "b s i"]:
    """The window of every output position, channels last."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0,) * len(layer.kernel_size)
    else:
        padding = layer.padding
    return unfold(inputs, layer.kernel_size, layer.stride, padding, layer.dilation, ones)


def _windows_of_outputs(layer: Any, slopes: Tensor) -> Float[Tensor, "b s o"]:
    """A transposed convolution is a convolution of its output gradients: one window an input position."""
    sizes = zip(layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.output_padding, strict=True)
    count = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, (k, s, p, d, _) in zip(slopes.shape[2:], sizes, strict=True)]
    windows = unfold(slopes, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    grid = _channels_first(windows, prod(layer.kernel_size)).unflatten(1, count)
    for axis, extra in enumerate(layer.output_padding):
        wanted = _inputs_along(layer, slopes.shape[2 + axis], axis)
        grid = grid.narrow(1 + axis, 0, wanted) if extra and wanted < grid.shape[1 + axis] else grid
    return grid.flatten(1, -2)


def _inputs_along(layer: Any, outputs: int, axis: int) -> int:
    """The input length that gave this output length."""
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + layer.output_padding[axis] + 1
    return (outputs + 2 * layer.padding[axis] - reach) // layer.stride[axis] + 1


def unfold(
    inputs: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ones: bool = False,
) -> Float[Tensor, "b s i"]:
    """Windows of a signal of one, two or three axes, (b, positions, window · channels), then a one where asked.

    Channels come last before windows are cut, so that a window is a few long runs of memory: 7 times faster.
    """
    pads = [side for p in (0, *reversed(padding)) for side in (p, p)]
    windows = inputs.movedim(1, -1)
    windows = F.pad(windows, pads) if any(pads) else windows.contiguous()
    for axis, (size, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True)):
        windows = windows.unfold(1 + axis, spread * (size - 1) + 1, step)[..., ::spread]
    axes = len(kernel)  # (b, *positions, c, *window)
    windows = windows.movedim(1 + axes, -1)
    positions, size = windows.shape[1 : 1 + axes], prod(windows.shape[1 + axes :])
    found = inputs.new_empty(len(inputs), prod(positions), size + ones)
    found[..., :size].unflatten(2, windows.shape[1 + axes :]).unflatten(1, positions).copy_(windows)
    if ones:
        found[..., size] = 1.0
    return found


def _channels_first(windows: Float[Tensor, "b s i"], size: int) -> Float[Tensor, "b s i"]:
    """Columns as a weight lies: all positions of a channel together."""
    return windows.unflatten(2, (size, -1)).mT.flatten(2)


def _scale_and_shift(normalised: Callable[[Any, Tensor], Tensor], channels_at: int | None) -> Callable[..., Any]:
    """Gradients of a norm's weight and bias: Σ g·x̂ and Σ g over the axes the parameters do not have."""

    def gradients(layer: Any, inputs: Tensor, slopes: Tensor) -> dict[str, Tensor]:
        terms = {"weight": slopes * normalised(layer, inputs), "bias": slopes}
        kept = layer.weight.ndim if channels_at is None else 1

        def reduced(term: Tensor) -> Tensor:
            if channels_at is not None:
                return term.flatten(2).sum(2) if term.ndim > 2 else term
            return term.reshape(len(term), -1, *term.shape[term.ndim - kept :]).sum(1)

        return {name: reduced(term) for name, term in terms.items() if getattr(layer, name, None) is not None}

    return gradients


def _grouped(layer: Any, inputs: Tensor, slopes: Tensor) -> dict[str, Tensor]:
    """A grouped convolution: windows and slopes meet within their group."""
    b, groups = len(inputs), layer.groups
    windows = _channels_first(_windows(layer, inputs), prod(layer.kernel_size)).unflatten(2, (groups, -1))
    flat = slopes.flatten(2).unflatten(1, (groups, -1))  # (b, groups, o, s)
    found = {"weight": torch.einsum("bgos,bsgi->bgoi", flat, windows).reshape(b, *layer.weight.shape)}
    return found if layer.bias is None else found | {"bias": slopes.flatten(2).sum(2)}


def _batch_normalised(layer: Any, inputs: Tensor) -> Tensor:
    return F.batch_norm(inputs, layer.running_mean, layer.running_var, eps=layer.eps)


def _instance_normalised(layer: Any, inputs: Tensor) -> Tensor:
    fixed = layer.track_running_stats
    mean, variance = (layer.running_mean, layer.running_var) if fixed else (None, None)
    return F.instance_norm(inputs, mean, variance, use_input_stats=not fixed, eps=layer.eps)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

TABLE: list[tuple[Any, Callable[[Any], bool], Rule]] = [
    (
        nn.Linear,
        lambda m: True,
        Factored(lambda m, x, ones: _with_ones(_positions_last(x), ones), lambda m, g: _positions_last(g)),
    ),
    (
        CONVOLUTIONS,
        lambda m: m.groups == 1,
        Factored(_windows, lambda m, g: _positions_after_channels(g), window=lambda m: prod(m.kernel_size)),
    ),
    (CONVOLUTIONS, lambda m: True, Direct(_grouped)),
    (
        TRANSPOSED,
        lambda m: m.groups == 1,
        Factored(
            lambda m, x, ones: _with_ones(_positions_after_channels(x), ones),
            _windows_of_outputs,
            transposed=True,
            bias=False,
        ),
    ),
    (nn.Embedding, lambda m: m.max_norm is None and not m.scale_grad_by_freq, Indexed()),
    (
        nn.LayerNorm,
        lambda m: True,
        Direct(_scale_and_shift(lambda m, x: F.layer_norm(x, m.normalized_shape, eps=m.eps), None)),
    ),
    (
        nn.RMSNorm,
        lambda m: True,
        Direct(_scale_and_shift(lambda m, x: F.rms_norm(x, m.normalized_shape, eps=m.eps), None)),
    ),
    (nn.GroupNorm, lambda m: True, Direct(_scale_and_shift(lambda m, x: F.group_norm(x, m.num_groups, eps=m.eps), 1))),
    (BATCH_NORMS, lambda m: m.track_running_stats, Direct(_scale_and_shift(_batch_normalised, 1))),
    (INSTANCE_NORMS, lambda m: True, Direct(_scale_and_shift(_instance_normalised, 1))),
]
ROOT_MEAN_SQUARE = Direct(
    _scale_and_shift(lambda m, x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _epsilon(m)), None)
)
HUGGING_FACE: dict[str, Rule] = {
    "transformers.pytorch_utils.Conv1D": Factored(
        lambda m, x, ones: _with_ones(_positions_last(x), ones), lambda m, g: _positions_last(g), transposed=True
    ),
}
