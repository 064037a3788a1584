"""Which parameters of a language model are tracked where nobody says so, and what stands in the way of tracking them."""

from __future__ import annotations

from torch import nn

from upweight.errors import ModelError

ADAPTER = "lora_"
"""In the names of PEFT's low-rank adapters."""


def tracked_parameters(model: nn.Module) -> tuple[list[str], str]:
    """Names of the parameters to track, and what they are in words.

    Adapters where the model has some; else weights and biases of its linear layers, without the output embedding.

    Raises:
        ModelError: merged adapters, or nothing to track.
    """
    require_unmerged(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    adapters = [name for name in trained if ADAPTER in name]
    if adapters:
        return list(trained), f"the {len(trained)} trained parameters of a model with adapters"
    embedding = getattr(model, "get_output_embeddings", lambda: None)()
    skipped = {id(p) for p in (embedding.parameters() if isinstance(embedding, nn.Module) else ())}
    linear = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        for p in module.parameters(recurse=False)
    }
    names = [name for name, p in trained.items() if id(p) in linear - skipped]
    if not names:
        raise ModelError(
            f"a model of type {type(model).__name__} has no linear layer that requires gradients. Expected at least one; name parameters in parameters=, or call requires_grad_(True)."
        )
    return (
        names,
        f"the {len(names)} weights and biases of linear layers (embeddings and norms are not tracked; parameters='*' tracks all)",
    )


def require_unmerged(model: nn.Module) -> None:
    """Refuse adapters that are merged into the weights: they take no part in the outputs, so their gradients are zero.

    Raises:
        ModelError: such an adapter.
    """
    merged = [name for name, module in model.named_modules() if getattr(module, "merged_adapters", None)]
    if merged:
        raise ModelError(
            f"the adapter of {merged[0]!r} is merged into its weight ({len(merged)} are). Expected adapters apart from the weights they adapt; call model.unmerge_adapter() first."
        )
