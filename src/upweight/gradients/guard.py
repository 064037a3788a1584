"""A model scored in eval mode, at parameters of one's own, and handed back exactly as found."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from upweight._typing import Tensor
from upweight.errors import ConfigError, ModelError
from upweight.float32_products import without_autocast


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, compiled parts run as written, no autocast around; all as it was afterwards, also after an error.

    Raises:
        ConfigError: asked under ``torch.inference_mode``, whose tensors have no derivatives.
    """
    if torch.is_inference_mode_enabled():
        raise ConfigError(
            "found torch.inference_mode(). Expected to be asked outside of it, since derivatives are taken; use torch.no_grad() where the rest needs none."
        )
    modes = [(module, module.training) for module in model.modules()]
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cuda), _as_written(model), without_autocast():
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


def torch_only(model: nn.Module) -> bool:
    """Whether every module is torch's own and nobody listens to any: calling the model then runs no code but torch's."""
    return all(
        type(module).__module__.startswith("torch.nn.")
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
        for module in model.modules()
    )


def compiled(module: nn.Module) -> bool:
    """Whether a module is the wrapper torch.compile returns; read off without importing the compiler."""
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def _as_written(model: nn.Module) -> AbstractContextManager[Any]:
    """Compiled parts of a model run as plain modules: their derivatives are then torch's own."""
    if any(compiled(module) or module._compiled_call_impl is not None for module in model.modules()):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def require_values(model: nn.Module) -> None:
    """Refuse a model whose parameters or buffers are shapes without numbers.

    Raises:
        ModelError: naming one that is on the meta device.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            raise ModelError(
                f"{name!r} is on the meta device, which keeps shapes and no numbers. Expected a model with its fitted parameters; load them: model.to_empty(device='cpu'), then model.load_state_dict(state), or from_pretrained without a device_map that leaves weights out."
            )


class ForwardModule(nn.Module):
    """A model behind its forward, as one module of a batch: parameters and buffers are put in its place by name, 'model.…'."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, batch: Any) -> Any:
        return self.call(self.model, batch)


def called(model: nn.Module, values: Mapping[str, Tensor], batch: Any) -> Any:
    """The model's answer with these parameters and buffers in place of its own, by the names it lists them under.

    Ties are followed here: torch's own following swaps a module with two names twice, and puts the wrong tensor back.
    """
    placed = {place: values[name] for place, name in _places(model).items() if name in values}
    return functional_call(model, placed, (batch,), tie_weights=False)


def _places(model: nn.Module) -> dict[str, str]:
    """Every place a parameter or buffer is kept, each module visited once, and the name that tensor is listed under."""
    listed: dict[int, str] = {}
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        for key, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None:
                place = f"{path}.{key}" if path else key
                found[place] = listed.setdefault(id(value), place)
    return found
