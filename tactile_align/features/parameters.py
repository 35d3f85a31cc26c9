"""How many weights each part of a model has, and how many of them learn."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Part:
    """Parameters of one part of a model; weights shared by two parts count for the first.

    Attributes:
        name: Dotted name of the module.
        trainable: Numbers that learn.
        frozen: Numbers that do not.
        tensors: Parameter tensors.
    """

    name: str
    trainable: int
    frozen: int
    tensors: int


def parameter_parts(model: nn.Module, depth: int = 2) -> tuple[Part, ...]:
    """Return the parts of a model, modules down to `depth` in the order of the model."""
    found: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        path = name.split(".")
        part = ".".join(path[: min(depth, len(path) - 1)]) or path[0]
        counts = found.setdefault(part, [0, 0, 0])
        counts[0 if parameter.requires_grad else 1] += parameter.numel()
        counts[2] += 1
    return tuple(Part(name, *counts) for name, counts in found.items())


def parameter_table(model: nn.Module, depth: int = 2) -> str:
    """Return a table for people: trainable and frozen parameters by module, and their sum."""
    parts = parameter_parts(model, depth)
    total = Part("all", sum(p.trainable for p in parts), sum(p.frozen for p in parts), sum(p.tensors for p in parts))
    width = max(len(part.name) for part in (*parts, total))
    lines = [f"{'module':{width}} {'trainable':>13} {'frozen':>13} {'tensors':>8}"]
    for part in (*parts, total):
        lines.append(f"{part.name:{width}} {part.trainable:13,d} {part.frozen:13,d} {part.tensors:8d}")
    return "\n".join(lines)
