"""MSE alignment loss without negatives, which the original implementation uses for debugging."""

import torch
from torch import Tensor, nn

from tactile_align.losses.gather import sum_of_ranks, summed_over_ranks, world
from tactile_align.losses.hsa import HSAStats, check_pairs, unit


class MSELoss(nn.Module):
    """Mean squared distance between the unit features u and v of each pair, |u - v|^2 = 2 - 2 cos, for debugging.

    If even this loss does not decrease, no gradient reaches the encoders. A decreasing loss proves little more: it is
    zero if all features are equal, so it does not replace a contrastive loss. `forward` accepts the arguments of
    `HSALoss` and ignores the negatives and the temperature.

    Args:
        gather: Whether the mean is taken over all ranks of torch.distributed. The caller must then average gradients
            over ranks, as for `hsa_loss`.
    """

    def __init__(self, gather: bool = False) -> None:
        super().__init__()
        self.gather = gather

    def forward(
        self,
        h_tau: Tensor,
        h_w: Tensor,
        *negatives: object,
        valid: Tensor | None = None,
        stats: bool = False,
        **_: object,
    ) -> Tensor | tuple[Tensor, HSAStats]:
        """Return the mean squared distance over the valid rows, a scalar, and HSAStats if `stats` is set.

        h_tau and h_w are (B, D) features of the touches and regions of B pairs; `valid` is (B,) bool. The field
        `chance` of the statistics is 2, the expected loss of unrelated features.
        """
        check_pairs(h_tau, h_w, valid)
        with torch.autocast(device_type=h_tau.device.type, enabled=False):
            keep = torch.ones(len(h_tau), dtype=torch.bool, device=h_tau.device) if valid is None else valid
            squares = (unit(h_tau, keep) - unit(h_w, keep)).square().sum(dim=1)
            rows = torch.where(keep, squares, torch.zeros_like(squares))
            pairs, total = keep.sum().to(rows.dtype), rows.sum()
            ranks = world()[1] if self.gather else 1
            if ranks > 1:
                pairs, of_all = summed_over_ranks(torch.stack([pairs, total])).unbind()
                total = sum_of_ranks(total, of_all, ranks)
            loss = total / pairs.clamp(min=1)
        return (loss, HSAStats(pairs, pairs * 0, pairs.clamp(max=1) * 2, pairs * 0)) if stats else loss
