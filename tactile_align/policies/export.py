"""Export of a policy's network as a torch.export program, which runs without this package.

The program's inputs are tensors and its outputs are normalised actions.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from tactile_align.files import write_atomically
from tactile_align.moments.batch import ObservationBatch
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.runtime import Policy

TOLERANCE = 1e-4


class Network(nn.Module):
    """Network that computes normalised actions from the tensors of an ObservationBatch, for export.

    The tensors have the order of `ObservationBatch.tensors` of the batch `example`. With the heads flow and diffusion,
    the noise (B, C, A) follows as the last tensor.
    """

    def __init__(self, model: AlignedPolicy, example: ObservationBatch) -> None:
        super().__init__()
        self.model, self.example = model, example

    def forward(self, *values: Tensor) -> Tensor:
        """Return the chunk of actions of each of B moments, (B, C, A): C normalised actions of A columns."""
        left = iter(values)
        batch = self.example.mapped(lambda _: next(left))
        return self.model.predict(batch, self.model.see(batch, alignment=False), next(left, None))


def export_policy(policy: Policy, batch: ObservationBatch, path: str | Path) -> tuple[str, ...]:
    """Write a policy's network to a .pt2 file, and return the names of the network's inputs.

    The inputs have the order of `batch.tensors()`. With the heads flow and diffusion, the input "noise" follows:
    standard normal noise (B, C, A), from which the program makes the actions. The .pt2 file does not compute boxes and
    zoom, and does not normalise joints; compute these from the rig and the statistics as `Policy.batch` does. The
    network is read back from a temporary file and compared with the policy before the file gets its final name.

    Args:
        policy: The policy.
        batch: Result of `Policy.batch` for any observation; the exported network accepts only inputs of these shapes.
        path: File to write.

    Raises:
        ValueError: The exported network does not reproduce the policy's actions.
    """
    tensors = batch.tensors()
    network = Network(policy.model.eval(), batch)
    noise = None if policy.model.act is None else policy.model.act.noise(len(batch), torch.Generator().manual_seed(0))
    if noise is not None:
        tensors["noise"] = noise.to(batch.qpos)
    names, values = zip(*tensors.items(), strict=True)
    with torch.no_grad():
        program = torch.export.export(network, values)

    def write(temporary: Path) -> None:
        whole = temporary.with_suffix(".pt2")  # torch.export.save requires this suffix
        try:
            torch.export.save(program, whole)
            again = torch.export.load(whole).module()
            with torch.no_grad():
                gap = float((again(*values) - network(*values)).abs().max())
            if not gap <= TOLERANCE:
                raise ValueError(
                    f"{path}: the exported network's actions differ from the policy's actions by {gap:.1e}; at most "
                    f"{TOLERANCE:g} is allowed. Load the policy on the CPU, or use another torch version, and export "
                    f"again"
                )
            whole.replace(temporary)
        finally:
            whole.unlink(missing_ok=True)

    write_atomically(Path(path), write)
    return names
