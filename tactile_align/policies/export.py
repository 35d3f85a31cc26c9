"""A policy's network as a torch.export program: tensors in, normalised actions out, no Python of ours needed."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tactile_align.files import write_atomically
from tactile_align.moments.batch import ObservationBatch
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.runtime import Policy

TOLERANCE = 1e-4


class Network(nn.Module):
    """From the tensors of a batch like `example`, in their order, to (B, C, A) normalised actions."""

    def __init__(self, model: AlignedPolicy, example: ObservationBatch) -> None:
        super().__init__()
        self.model, self.example = model, example

    def forward(self, *values: Tensor) -> Tensor:
        """Return the chunk of actions."""
        left = iter(values)
        batch = self.example.mapped(lambda _: next(left))
        actions: Tensor = self.model.predict(batch, self.model.see(batch, alignment=False)).actions
        return actions


def export_policy(policy: Policy, batch: ObservationBatch, path: str | Path) -> tuple[str, ...]:
    """Write a policy's network as PATH (.pt2) and return the names of its inputs, in order: those of `batch.tensors()`.

    Boxes, zoom and normalisation of joints stay outside: they come from the rig and the statistics, as in
    `Policy.batch`. The program is read back and held against the policy before it gets its name.

    Args:
        policy: The policy.
        batch: What `Policy.batch` returned for some observation; its shapes are fixed in the program.
        path: Where to write.

    Raises:
        ValueError: The program does not give the policy's actions.
    """
    names, values = zip(*batch.tensors().items(), strict=True)
    network = Network(policy.model.eval(), batch)
    with torch.no_grad():
        program = torch.export.export(network, values)

    def write(temporary: Path) -> None:
        whole = temporary.with_suffix(".pt2")  # torch.export.save wants this ending
        try:
            torch.export.save(program, whole)
            again = torch.export.load(whole).module()
            with torch.no_grad():
                gap = float((again(*values) - network(*values)).abs().max())
            if not gap <= TOLERANCE:
                raise ValueError(f"{path}: the exported program is {gap:.1e} off the policy; needed: <= {TOLERANCE:g}")
            whole.replace(temporary)
        finally:
            whole.unlink(missing_ok=True)

    write_atomically(Path(path), write)
    return names
