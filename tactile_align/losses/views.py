"""One loss over several cameras that see the same sensor."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from tactile_align.losses.hsa import HSAStats


class PairLoss(Protocol):
    """What `HSALoss` and `MSELoss` are."""

    def __call__(
        self,
        h_tau: Tensor,
        h_w: Tensor,
        hard_negatives: Tensor | None = None,
        rival: object = None,
        *,
        temperature: float | Tensor | None = None,
        valid: Tensor | None = None,
        stats: bool = False,
        bank: Tensor | None = None,
        hard_valid: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, HSAStats]:
        """See `losses.hsa.hsa_loss`."""
        ...


def over_views(
    loss: PairLoss,
    h_tau: Tensor,
    regions: Mapping[str, Tensor],
    weights: Mapping[str, float],
    valid: Mapping[str, Tensor] | None = None,
    **shared: object,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of a loss over views and its value in each of them.

    Args:
        loss: Called once a view.
        h_tau: (B, D) touch features.
        regions: (B, D) region features by view: wrist, third person.
        weights: Weight of each view; the original gave 1.0 to the wrist and 0.5 to the third person.
        valid: (B,) bool by view; a sensor may be out of sight of one camera only.
        shared: Further arguments of the loss, the same for all views.

    Raises:
        ValueError: Views and weights do not name the same.
    """
    if set(regions) != set(weights) or not regions:
        raise ValueError(f"each view needs one weight; got views {sorted(regions)} and weights {sorted(weights)}")
    parts: dict[str, Tensor] = {}
    total = h_tau.new_zeros(())
    for name, h_w in regions.items():
        value = loss(h_tau, h_w, valid=None if valid is None else valid[name], **shared)  # type: ignore[arg-type]
        assert isinstance(value, Tensor), "ask for statistics view by view"
        parts[name] = value
        total = total + weights[name] * value
    return total, parts
