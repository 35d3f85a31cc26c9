"""Parameters of a model by module: their numbers, learning rates and gradient norms."""

from typing import Any

import torch
from torch import Tensor, nn

from tactile_align.checks import Table

GRADIENT = "grad/"
"""Prefix of the names of gradient norms in the log."""


def module_of(name: str) -> str:
    """Return the name of the part that the parameter `name` belongs to, e.g. a block of a tower or a layer of ACT."""
    parts = name.split(".")[:-1] or [name]
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return ".".join(parts[:3])


def parts_of(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return the parameters by part, in the model's order, without the memory (`Memory`)."""
    found: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, p in model.named_parameters():
        short = name.removeprefix("alignment.")
        if not short.startswith("memory."):
            found.setdefault(module_of(short), []).append((name, p))
    return found


def parameter_table(model: nn.Module, optimiser: torch.optim.Optimizer) -> Table:
    """Return a table of the modules: the number of parameters, the number of trained ones, and the learning rates.

    The rates are those before warm-up and decay. A module has several rates if `layer_decay` gives its layers different
    rates, and the word "frozen" if none of its parameters is trained.
    """
    rates = {id(p): group.get("initial_lr", group["lr"]) for group in optimiser.param_groups for p in group["params"]}
    rows: list[tuple[Any, ...]] = []
    for part, named in parts_of(model).items():
        trained = [p for _, p in named if id(p) in rates]
        own = " ".join(f"{rate:.3g}" for rate in sorted({rates[id(p)] for p in trained}))
        rows.append((part, sum(p.numel() for _, p in named), sum(p.numel() for p in trained), own or "frozen"))
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows), ""))
    return Table("parameters by module", ("module", "numbers", "trained", "learning rate"), tuple(rows))


@torch.no_grad()
def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return the norm of the gradient of each module with trained parameters, by grad/MODULE; 0 without a gradient."""
    norms = {}
    for part, named in parts_of(model).items():
        if any(p.requires_grad for _, p in named):
            of = [p.grad.float().norm() for _, p in named if p.grad is not None]
            norms[f"{GRADIENT}{part}"] = torch.stack(of).norm() if of else torch.zeros(())
    return norms
