"""The loss of some rows against all candidates; everything else is about which rows and which candidates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tactile_align.errors import InputError


@dataclass(frozen=True)
class Weighting:
    """Which of a row's rivals count, and how much.

    Attributes:
        hardness: beta of arXiv 2010.04592: rivals are weighted by e^(beta s / kappa), on average 1. 0 weighs all alike.
        hardest: Only this many most similar rivals of each row count; None: all.
    """

    hardness: float = 0.0
    hardest: int | None = None

    def __post_init__(self) -> None:
        if not self.hardness >= 0:
            raise InputError(f"hardness must be 0 or more; got {self.hardness}. Common values are 0.5 to 1")
        if self.hardest is not None and self.hardest < 1:
            raise InputError(f"hardest must be at least 1, or None for all rivals; got {self.hardest}")

    @property
    def plain(self) -> bool:
        """Whether all rivals count alike."""
        return self.hardness == 0 and self.hardest is None


def block_losses(
    query: Tensor,
    keys: Tensor,
    own: Tensor,
    rival: Tensor | None,
    hard: Tensor | None,
    kappa: float | Tensor,
    weighting: Weighting,
    hard_valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each row (n,) and the summed weight of its rivals (n,).

    Args:
        query: (n, D) unit vectors.
        keys: (C, D) unit vectors.
        own: (n,) which key belongs to each row.
        rival: (n, C) bool or float: weight of each key as a rival; changed in place at `own`. None: no key is one.
        hard: (n, N, D) unit vectors, further rivals of each row; None for none.
        kappa: Temperature.
        weighting: Which rivals count, and how much.
        hard_valid: (n, N) bool, which of `hard` exist; None: all.
    """
    scaled = query / kappa
    more = None if hard is None else torch.einsum("nd,nkd->nk", scaled, hard)
    of_more = None
    if more is not None and (hard_valid is not None or not weighting.plain):
        exist = torch.ones_like(more) if hard_valid is None else hard_valid.to(more.dtype)
        of_more = exist.log()
    if rival is None:
        assert more is not None
        positive = (scaled * keys[own]).sum(dim=1)
        count = torch.full_like(positive, more.shape[1])
        if of_more is None:
            return _against(positive, torch.logsumexp(more, dim=1), count), count
        return _weighted(positive, more, of_more, weighting)
    logits = scaled @ keys.T
    here = own[:, None]
    rival.scatter_(1, here, 0)
    count = rival.sum(dim=1).to(logits.dtype)
    if weighting.plain and of_more is None:
        # With the positive in its own column one logsumexp gives the whole denominator, and no row is ever empty.
        rival.scatter_(1, here, 1)
        if rival.dtype == torch.bool:
            logits = logits.masked_fill_(~rival, -torch.inf)
        else:
            logits = logits + rival.to(logits.dtype).log()
        positive = logits.gather(1, here)[:, 0]
        denominator = torch.logsumexp(logits, dim=1)
        if more is not None:
            denominator = torch.logaddexp(denominator, torch.logsumexp(more, dim=1))
            count = count + more.shape[1]
        return denominator - positive, count
    positive = logits.gather(1, here)[:, 0]
    log_weight = rival.to(logits.dtype).log()
    if more is not None and of_more is not None:
        logits = torch.cat([logits, more], dim=1)
        log_weight = torch.cat([log_weight, of_more], dim=1)
    return _weighted(positive, logits, log_weight, weighting)


def _weighted(positive: Tensor, logits: Tensor, log_weight: Tensor, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """As `block_losses`, from the logits (n, K) of all candidates and their log weights (-inf: no rival)."""
    if weighting.hardest is not None and weighting.hardest < logits.shape[1]:
        allowed = torch.where(log_weight > -torch.inf, logits.detach(), torch.full_like(logits, -torch.inf))
        index = allowed.topk(weighting.hardest, dim=1).indices
        logits, log_weight = logits.gather(1, index), log_weight.gather(1, index)
    count = log_weight.exp().sum(dim=1)
    # A row without rivals gets harmless numbers here, so that no nan enters its gradient.
    alone = (count == 0)[:, None]
    log_weight = torch.where(alone, torch.zeros_like(log_weight), log_weight)
    beta = weighting.hardness
    rivals = torch.logsumexp((1 + beta) * logits + log_weight, dim=1)
    if beta:
        mean_importance = torch.logsumexp(beta * logits + log_weight, dim=1) - torch.logsumexp(log_weight, dim=1)
        rivals = rivals - mean_importance
    return _against(positive, rivals, count), count


def _against(positive: Tensor, rivals: Tensor, count: Tensor) -> Tensor:
    """Return log(1 + e^(rivals - positive)), or 0 where there are none."""
    apart = torch.where(count > 0, rivals - positive, torch.zeros_like(rivals))
    return torch.where(count > 0, torch.nn.functional.softplus(apart), torch.zeros_like(apart))
