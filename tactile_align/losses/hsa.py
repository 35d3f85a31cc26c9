"""HSA, the contrastive loss that pulls a touch to the image region where the sensor is.

Hierarchical Spatial Alignment of DreamTacVLA (arXiv 2512.23864): tactile features are pulled to the tokens inside
the sensor's box and pushed from rivals, which are other regions of the same image and other images.
"""

from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Reduction = Literal["mean", "sum", "none"]
Explicit = Literal["replace", "add"]


class HSAStats(NamedTuple):
    """What a loss value is to be read against; all scalars on the loss's device.

    Attributes:
        pairs: Number of valid rows.
        rivals: Mean number of rivals of a valid row.
        chance: Mean ln(1 + rivals of the row): the loss of features that know nothing.
    """

    pairs: Tensor
    rivals: Tensor
    chance: Tensor


class RivalRule(Protocol):
    """Anything that tells which columns are rivals of a span of rows."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B) bool or float: who is a rival of rows start..stop-1."""
        ...


def hsa_loss(
    h_tau: Tensor,
    h_w: Tensor,
    hard_negatives: Tensor | None = None,
    rival: Tensor | RivalRule | None = None,
    *,
    temperature: float | Tensor = 0.07,
    reduction: Reduction = "mean",
    explicit: Explicit = "replace",
    symmetric: bool = False,
    valid: Tensor | None = None,
    stats: bool = False,
) -> Tensor | tuple[Tensor, HSAStats]:
    """Return -log( e^(h_tau.h_w/kappa) / (e^(h_tau.h_w/kappa) + sum over rivals of e^(h_tau.h_w_i/kappa)) ).

    Features are brought to unit length first; similarities are computed in float32 (float64 inputs stay float64),
    also under autocast.

    Args:
        h_tau: (B, D) touch features, any length.
        h_w: (B, D) region features, any length; row i belongs to touch i.
        hard_negatives: (B, N, D) explicit rivals of each touch, or None.
        rival: Who in the batch is a rival of whom: (B, B) bool, or float weights >= 0 that multiply the rival's
            exponential, or a rule evaluated by rows. The diagonal is ignored. None: every other row.
        temperature: kappa > 0.
        reduction: "mean" over valid rows, "sum", or "none" for (B,) with zeros at invalid rows.
        explicit: Whether hard negatives replace the in-batch rivals (as the original did) or join them.
        symmetric: Average the touch-to-region and the region-to-touch direction; hard negatives enter the first.
        valid: (B,) bool. Rows without a box or contact stay in the call and give and receive nothing. None: all.
        stats: Also return HSAStats.

    Returns:
        The loss, or (loss, stats). Without any valid row it is a zero connected to the graph.

    Raises:
        ValueError: Shapes that do not pair, a temperature <= 0, or a valid row that has no rival at all.
    """
    _check_shapes(h_tau, h_w, hard_negatives, rival, valid)
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}. Common values are 0.05 to 0.2")
    batch = h_tau.shape[0]
    with torch.autocast(device_type=h_tau.device.type, enabled=False):
        keep = torch.ones(batch, dtype=torch.bool, device=h_tau.device) if valid is None else valid
        tau, w = _unit(h_tau, keep), _unit(h_w, keep)
        log_weight = _log_weights(rival, keep, batch, tau)
        negatives = None
        if hard_negatives is not None:
            hard = _unit(hard_negatives, keep[:, None].expand(hard_negatives.shape[:2]))
            negatives = torch.einsum("bd,bnd->bn", tau, hard) / temperature
        drop_batch = hard_negatives is not None and explicit == "replace"
        logits = tau @ w.T / temperature
        rows, count = _direction(logits, log_weight, negatives, drop_batch)
        if symmetric:
            back, _ = _direction(logits.T, log_weight.T, None, False)
            rows = (rows + back) / 2
        _require_rivals(count, keep)
        rows = torch.where(keep, rows, torch.zeros_like(rows))
        pairs = keep.sum()
        if reduction == "none":
            loss = rows
        elif reduction == "sum":
            loss = rows.sum()
        else:
            loss = rows.sum() / pairs.clamp(min=1)
        if not stats:
            return loss
        shown = torch.where(keep, count, torch.zeros_like(count))
        of_pairs = pairs.clamp(min=1)
        return loss, HSAStats(pairs, shown.sum() / of_pairs, torch.log1p(shown).sum() / of_pairs)


def _direction(logits: Tensor, log_weight: Tensor, negatives: Tensor | None, drop_batch: bool) -> tuple[Tensor, Tensor]:
    """Return the loss of each row (B,) and its number of rivals (B,)."""
    positive = logits.diagonal()
    terms, count = [positive[:, None]], torch.zeros_like(positive)
    if not drop_batch:
        terms.append(logits + log_weight)
        count = count + log_weight.exp().sum(dim=1)
    if negatives is not None:
        terms.append(negatives)
        count = count + negatives.shape[1]
    return torch.logsumexp(torch.cat(terms, dim=1), dim=1) - positive, count


def _unit(h: Tensor, keep: Tensor) -> Tensor:
    """Unit vectors in float32 or better; rows not kept become a constant, so no gradient and no nan leaves them."""
    h = h if h.dtype == torch.float64 else h.float()
    return F.normalize(torch.where(keep[..., None], h, torch.ones_like(h)), dim=-1)


def _log_weights(rival: Tensor | RivalRule | None, keep: Tensor, batch: int, like: Tensor) -> Tensor:
    """Return (B, B) log weights of the in-batch rivals, -inf where there is none."""
    if rival is None:
        weight = torch.ones((batch, batch), dtype=like.dtype, device=like.device)
    else:
        given = rival if isinstance(rival, Tensor) else rival.rows(0, batch)
        weight = given.to(like.dtype)
    pair = keep[:, None] & keep[None, :] & ~torch.eye(batch, dtype=torch.bool, device=like.device)
    return torch.where(pair, weight, torch.zeros_like(weight)).log()


def _require_rivals(count: Tensor, keep: Tensor) -> None:
    alone = keep & ~(count > 0)
    if bool(alone.any()):
        rows = alone.nonzero().flatten().tolist()
        raise ValueError(
            f"rows {rows} are valid but have no rival, so their loss would say nothing. Needed: at least one "
            f"rival for each valid row. Use a larger batch, draw it from more episodes, or relax the rival rules"
        )


def _check_shapes(
    h_tau: Tensor, h_w: Tensor, hard: Tensor | None, rival: Tensor | RivalRule | None, valid: Tensor | None
) -> None:
    if h_tau.ndim != 2 or h_tau.shape != h_w.shape:
        raise ValueError(f"h_tau and h_w must both have shape (B, D); got {tuple(h_tau.shape)} and {tuple(h_w.shape)}")
    batch, dim = h_tau.shape
    if hard is not None and (hard.ndim != 3 or hard.shape[0] != batch or hard.shape[2] != dim or hard.shape[1] < 1):
        raise ValueError(f"hard_negatives must have shape ({batch}, N >= 1, {dim}); got {tuple(hard.shape)}")
    if isinstance(rival, Tensor) and rival.shape != (batch, batch):
        raise ValueError(f"rival must have shape ({batch}, {batch}); got {tuple(rival.shape)}")
    if valid is not None and (valid.shape != (batch,) or valid.dtype != torch.bool):
        raise ValueError(f"valid must be bool of shape ({batch},); got {valid.dtype} {tuple(valid.shape)}")


class HSALoss(nn.Module):
    """`hsa_loss` with its options kept; see there for shapes and errors."""

    def __init__(
        self,
        temperature: float = 0.07,
        reduction: Reduction = "mean",
        explicit: Explicit = "replace",
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}. Common values are 0.05 to 0.2")
        for name, value, known in (
            ("reduction", reduction, ("mean", "sum", "none")),
            ("explicit", explicit, ("replace", "add")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got '{value}'")
        self.temperature, self.reduction = temperature, reduction
        self.explicit, self.symmetric = explicit, symmetric

    def forward(
        self,
        h_tau: Tensor,
        h_w: Tensor,
        hard_negatives: Tensor | None = None,
        rival: Tensor | RivalRule | None = None,
        *,
        temperature: float | Tensor | None = None,
        valid: Tensor | None = None,
        stats: bool = False,
    ) -> Tensor | tuple[Tensor, HSAStats]:
        """Return the loss; `temperature` overrides the kept one, as a learnt temperature does."""
        return hsa_loss(
            h_tau,
            h_w,
            hard_negatives,
            rival,
            temperature=self.temperature if temperature is None else temperature,
            reduction=self.reduction,
            explicit=self.explicit,
            symmetric=self.symmetric,
            valid=valid,
            stats=stats,
        )
