"""The parts of a model that the doctor reports on, and what passes through them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tactile_align.policies.aligned import AlignedPolicy

LEARNS_LATER = ("act.decoder.layers.0.self_attn", "act.decoder.layers.0.norm1")
"""ACT's decoder attends to zeros at first, so its own attention gets gradient only after some steps."""


def module_of(name: str) -> str:
    """Return the part of the model a parameter belongs to: whole towers' blocks, whole layers of ACT."""
    parts = name.split(".")[:-1] or [name]
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return ".".join(parts[:3])


def parts_of(model: AlignedPolicy) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return the parameters of each part, in the model's order; those of the following copy are left out."""
    found: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, p in model.named_parameters():
        if not name.startswith("memory."):
            found.setdefault(module_of(name), []).append((name, p))
    return found


def towers_of(model: AlignedPolicy) -> dict[str, nn.Module]:
    """Return the model's different encoders by name."""
    if model.towers is None:
        return {}
    if model.towers.vision is model.towers.touch:
        return {"towers.vision": model.towers.vision}
    return {"towers.vision": model.towers.vision, "towers.touch": model.towers.touch}


@contextmanager
def first_inputs(tower: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what reaches the first layer of a tower inside the block, one entry a pass."""
    seen: list[Tensor] = []
    first = next(m for m in tower.modules() if isinstance(m, nn.Conv2d | nn.Linear))

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].detach())

    handle = first.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def squashed(model: nn.Module) -> Iterator[dict[str, float]]:
    """Collect the share of saturated outputs of every tanh and sigmoid inside the block, by module name."""
    seen: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Tanh | nn.Sigmoid | nn.Hardtanh):
            low = 0.0 if isinstance(module, nn.Sigmoid) else -1.0

            def keep(m: nn.Module, args: object, out: Tensor, name: str = name, low: float = low) -> None:
                edge = 0.01 * (1 - low)
                seen[name] = float(((out > 1 - edge) | (out < low + edge)).float().mean())

            handles.append(module.register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def gradients(model: AlignedPolicy, loss: Tensor | None, retain: bool = False) -> dict[str, Tensor | None]:
    """Return the gradient of a loss for each trainable parameter by name; None where none arrives."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if loss is None or not loss.requires_grad:
        return {name: None for name, _ in named}
    found = torch.autograd.grad(loss, [p for _, p in named], retain_graph=retain, allow_unused=True)
    return {name: grad for (name, _), grad in zip(named, found, strict=True)}
