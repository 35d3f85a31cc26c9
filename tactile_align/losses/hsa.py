"""HSA, the contrastive loss that pulls a touch to the image region where the sensor is.

Hierarchical Spatial Alignment of DreamTacVLA (arXiv 2512.23864): tactile features are pulled to the tokens inside
the sensor's box and pushed from negatives, which are other regions of the same image and other images.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.errors import InputError
from tactile_align.losses.gather import gather_facts, gather_rows, require_equal_rows, summed_over_ranks, world
from tactile_align.losses.negatives import Negatives
from tactile_align.losses.row_chunks import row_losses, spans, summed_loss


@dataclass(frozen=True)
class Weighting:
    """Which of a row's negatives count, and how much.

    Attributes:
        hardness: beta of arXiv 2010.04592: a negative weighs e^(beta s / kappa), on average 1. 0 weighs all alike.
        hardest: Only this many most similar negatives of each row count; None: all.
    """

    hardness: float = 0.0
    hardest: int | None = None

    def __post_init__(self) -> None:
        if not self.hardness >= 0:
            raise InputError(f"hardness must be 0 or more; got {self.hardness}. Common values are 0.5 to 1")
        if self.hardest is not None and self.hardest < 1:
            raise InputError(f"hardest must be at least 1, or None for all negatives; got {self.hardest}")

    @property
    def plain(self) -> bool:
        """Whether all negatives count alike."""
        return self.hardness == 0 and self.hardest is None


def block_losses(
    query: Tensor,
    keys: Tensor,
    own: Tensor,
    negative: Tensor | None,
    hard: Tensor | None,
    kappa: float | Tensor,
    weighting: Weighting,
    hard_valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each row (n,) and the summed weight of its negatives (n,).

    Args:
        query: (n, D) unit vectors.
        keys: (C, D) unit vectors.
        own: (n,) which key belongs to each row.
        negative: (n, C) bool or float: weight of each key as a negative, changed in place at `own`. None: none is one.
        hard: (n, N, D) unit vectors, further negatives of each row; None for none.
        kappa: Temperature.
        weighting: Which negatives count, and how much.
        hard_valid: (n, N) bool, which of `hard` exist; None: all.
    """
    scaled = query / kappa
    more = None if hard is None else torch.einsum("nd,nkd->nk", scaled, hard)
    of_more = None
    if more is not None and (hard_valid is not None or not weighting.plain):
        exist = torch.ones_like(more) if hard_valid is None else hard_valid.to(more.dtype)
        of_more = exist.log()
    if negative is None:
        assert more is not None
        positive = (scaled * keys[own]).sum(dim=1)
        count = torch.full_like(positive, more.shape[1])
        if of_more is None:
            return _against(positive, torch.logsumexp(more, dim=1), count), count
        return _weighted(positive, more, of_more, weighting)
    logits = scaled @ keys.T
    here = own[:, None]
    negative.scatter_(1, here, 0)
    count = negative.sum(dim=1).to(logits.dtype)
    if weighting.plain and of_more is None:
        # With the positive in its own column one logsumexp gives the whole denominator, and no row is ever empty.
        negative.scatter_(1, here, 1)
        if negative.dtype == torch.bool:
            logits = logits.masked_fill_(~negative, -torch.inf)
        else:
            logits = logits + negative.to(logits.dtype).log()
        positive = logits.gather(1, here)[:, 0]
        denominator = torch.logsumexp(logits, dim=1)
        if more is not None:
            denominator = torch.logaddexp(denominator, torch.logsumexp(more, dim=1))
            count = count + more.shape[1]
        return denominator - positive, count
    positive = logits.gather(1, here)[:, 0]
    log_weight = negative.to(logits.dtype).log()
    if more is not None and of_more is not None:
        logits = torch.cat([logits, more], dim=1)
        log_weight = torch.cat([log_weight, of_more], dim=1)
    return _weighted(positive, logits, log_weight, weighting)


def _weighted(positive: Tensor, logits: Tensor, log_weight: Tensor, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """As `block_losses`, from the logits (n, K) of all candidates and their log weights (-inf: no negative)."""
    if weighting.hardest is not None and weighting.hardest < logits.shape[1]:
        allowed = torch.where(log_weight > -torch.inf, logits.detach(), torch.full_like(logits, -torch.inf))
        index = allowed.topk(weighting.hardest, dim=1).indices
        logits, log_weight = logits.gather(1, index), log_weight.gather(1, index)
    count = log_weight.exp().sum(dim=1)
    # A row without negatives gets harmless numbers here, so that no nan enters its gradient.
    alone = (count == 0)[:, None]
    log_weight = torch.where(alone, torch.zeros_like(log_weight), log_weight)
    beta = weighting.hardness
    negatives = torch.logsumexp((1 + beta) * logits + log_weight, dim=1)
    if beta:
        mean_importance = torch.logsumexp(beta * logits + log_weight, dim=1) - torch.logsumexp(log_weight, dim=1)
        negatives = negatives - mean_importance
    return _against(positive, negatives, count), count


def _against(positive: Tensor, negatives: Tensor, count: Tensor) -> Tensor:
    """Return log(1 + e^(negatives - positive)), or 0 where there are none."""
    apart = torch.where(count > 0, negatives - positive, torch.zeros_like(negatives))
    return torch.where(count > 0, torch.nn.functional.softplus(apart), torch.zeros_like(apart))


def check_temperature(temperature: float | Tensor) -> None:
    """Refuse what is not positive; a tensor of nan passes, as training names the rows behind a loss that is nan."""
    good = not bool((temperature <= 0).any()) if isinstance(temperature, Tensor) else temperature > 0
    if not good:
        raise InputError(f"temperature must be positive; got {temperature}. Common values are 0.05 to 0.2")


def check_choices(reduction: str, explicit: str) -> None:
    """Refuse names that are not known; lists those that are."""
    for name, value, known in (
        ("reduction", reduction, ("mean", "sum", "none")),
        ("explicit", explicit, ("replace", "add")),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got '{value}'")


def check_pairs(h_tau: Tensor, h_w: Tensor, valid: Tensor | None) -> None:
    """Refuse features that do not pair and a `valid` of another shape or type."""
    if h_tau.ndim != 2 or h_tau.shape != h_w.shape:
        raise ValueError(f"h_tau and h_w must both have shape (B, D); got {tuple(h_tau.shape)} and {tuple(h_w.shape)}")
    batch = h_tau.shape[0]
    if valid is not None and (valid.shape != (batch,) or valid.dtype != torch.bool):
        raise ValueError(f"valid must be bool of shape ({batch},); got {valid.dtype} {tuple(valid.shape)}")


def check_negatives(
    h_tau: Tensor,
    hard: Tensor | None,
    hard_valid: Tensor | None,
    negative: object,
    bank: Tensor | None,
    ranks: int,
    in_batch: bool,
) -> None:
    """Refuse explicit negatives, masks and banks of another shape."""
    batch, dim = h_tau.shape
    if hard is not None and (hard.ndim != 3 or hard.shape[0] != batch or hard.shape[2] != dim or hard.shape[1] < 1):
        raise ValueError(f"hard_negatives must have shape ({batch}, N >= 1, {dim}); got {tuple(hard.shape)}")
    if hard_valid is not None and (
        hard is None or hard_valid.shape != hard.shape[:2] or hard_valid.dtype != torch.bool
    ):
        needed = "hard_negatives, which are not given" if hard is None else f"bool of shape {tuple(hard.shape[:2])}"
        raise ValueError(f"hard_valid needs {needed}; got {hard_valid.dtype} {tuple(hard_valid.shape)}")
    if bank is not None and (bank.ndim != 2 or bank.shape[1] != dim):
        raise ValueError(f"bank must have shape (M, {dim}); got {tuple(bank.shape)}")
    if bank is not None and not in_batch:
        raise InputError(
            "explicit hard negatives that replace the in-batch negatives would replace the bank too; got both. Use "
            "explicit='add', or leave the bank out"
        )
    if not isinstance(negative, Tensor):
        return
    wanted = (batch, batch + (0 if bank is None else len(bank)))
    if ranks > 1:
        raise ValueError(
            f"candidates of {ranks} ranks need a rule, which can be asked about any row; got a mask of shape "
            f"{tuple(negative.shape)}. Pass Negatives(...) or None"
        )
    if negative.shape != wanted:
        raise ValueError(f"negative must have shape {wanted}; got {tuple(negative.shape)}")


def require_negatives(count: Tensor, keep: Tensor, first_row: int, somewhere: bool) -> None:
    """Refuse valid rows without any negative.

    Args:
        count: (B,) summed negative weight of each row.
        keep: (B,) bool, valid rows.
        first_row: Number of the first row among the rows of all ranks.
        somewhere: Whether such a row exists on any rank; then all ranks raise, so that none waits for another.
    """
    if not somewhere:
        return
    rows = ((keep & ~(count > 0)).nonzero().flatten() + first_row).tolist()
    which = f"rows {rows[:20]} are" if rows else "rows of another rank are"
    raise InputError(
        f"{which} valid but have no negative, so their loss would say nothing. Needed: at least one "
        f"negative for each valid row. Use a larger batch, draw it from more episodes, or relax the negative rules"
    )


class NegativeRule(Protocol):
    """Anything that tells, a span of rows at a time, who is a negative of whom."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B + bank) bool or float, a new tensor: who is a negative of rows start..stop-1."""
        ...

    def columns(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, B): of whom rows start..stop-1 are negatives; asked for by `symmetric` only."""
        ...


@dataclass(frozen=True)
class MaskRule:
    """A (B, B + bank) tensor as a rule."""

    negative: Tensor
    batch: int

    def rows(self, start: int, stop: int) -> Tensor:
        """See NegativeRule."""
        return self.negative[start:stop].clone()

    def columns(self, start: int, stop: int) -> Tensor:
        """See NegativeRule."""
        return self.negative[:, start:stop].T[:, : self.batch].clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Direction:
    """The loss of a span of rows in one direction, to be called by `chunks`.

    Attributes:
        rule: Who is a negative of whom; None: everybody.
        forward: Touches ask and regions answer; otherwise the other way round.
        in_batch: Whether the batch's own rows and the bank are candidates, or explicit negatives alone.
        keep: (B,) bool, valid rows of this rank.
        candidates: (C,) bool, valid candidates.
        first_row: Number of this rank's first row among all candidates.
        weighting: Which negatives count, and how much.
    """

    rule: NegativeRule | None
    forward: bool
    in_batch: bool
    keep: Tensor
    candidates: Tensor
    first_row: int
    weighting: Weighting

    def __call__(
        self,
        start: int,
        stop: int,
        query: Tensor,
        hard: Tensor | None,
        hard_valid: Tensor | None,
        keys: Tensor,
        kappa: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the losses and the summed negative weights of rows start..stop-1; zeros where a row is not valid."""
        first, last = self.first_row + start, self.first_row + stop
        weight = self._weights(first, last) if self.in_batch else None
        own = torch.arange(first, last, device=query.device)
        losses, negatives = block_losses(query, keys, own, weight, hard, kappa, self.weighting, hard_valid)
        mine = self.keep[start:stop]
        return torch.where(mine, losses, torch.zeros_like(losses)), torch.where(
            mine, negatives, torch.zeros_like(negatives)
        )

    def _weights(self, first: int, last: int) -> Tensor:
        if self.rule is None:
            return self.candidates[None].repeat(last - first, 1)
        weight = self.rule.rows(first, last) if self.forward else self.rule.columns(first, last)
        wanted = (last - first, len(self.candidates))
        if weight.shape != wanted:
            raise ValueError(
                f"a negative rule must return shape {wanted} for rows {first}..{last - 1}: one column for each row of "
                f"the batch (of all ranks), then one for each row of the bank; got {tuple(weight.shape)}"
            )
        if weight.dtype == torch.bool:
            return weight.logical_and_(self.candidates)
        return torch.where(self.candidates, weight, torch.zeros_like(weight))


Reduction = Literal["mean", "sum", "none"]
Explicit = Literal["replace", "add"]


class HSAStats(NamedTuple):
    """What a loss value is to be read against; all scalars on the loss's device, over all ranks when gathered.

    Attributes:
        pairs: Number of valid rows.
        negatives: Mean number of negatives of a valid row.
        chance: Mean ln(1 + negatives of the row): the loss of features that know nothing.
    """

    pairs: Tensor
    negatives: Tensor
    chance: Tensor


def hsa_loss(
    h_tau: Tensor,
    h_w: Tensor,
    hard_negatives: Tensor | None = None,
    negative: Tensor | NegativeRule | None = None,
    *,
    temperature: float | Tensor = 0.07,
    reduction: Reduction = "mean",
    explicit: Explicit = "replace",
    symmetric: bool = False,
    valid: Tensor | None = None,
    stats: bool = False,
    bank: Tensor | None = None,
    weighting: Weighting | None = None,
    gather: bool = False,
    chunk: int | None = None,
    hard_valid: Tensor | None = None,
) -> Tensor | tuple[Tensor, HSAStats]:
    """Return -log( e^(h_tau.h_w/kappa) / (e^(h_tau.h_w/kappa) + sum over negatives of e^(h_tau.h_w_i/kappa)) ).

    Features are brought to unit length first; similarities are computed in float32 (float64 inputs stay float64),
    also under autocast. Large batches are worked through a span of rows at a time, so memory stays linear in B.

    Args:
        h_tau: (B, D) touch features, any length.
        h_w: (B, D) region features, any length; row i belongs to touch i.
        hard_negatives: (B, N, D) explicit negatives of each touch, or None.
        negative: Which rows of the batch are negatives of which: (B, B) bool, or float weights >= 0 that multiply
            the negative's exponential, or a rule evaluated by rows. The diagonal is ignored. None: every other row.
            With a bank of M there are M more columns.
        temperature: kappa > 0.
        reduction: "mean" over valid rows, "sum", or "none" for (B,) with zeros at invalid rows.
        explicit: Whether hard negatives replace the in-batch negatives (as the original did) or join them.
        symmetric: Average the touch-to-region and the region-to-touch direction; hard negatives and the bank enter
            the first.
        valid: (B,) bool. Rows without a box or contact stay in the call and give and receive nothing. None: all.
        stats: Also return HSAStats.
        bank: (M, D) past region features, further candidates of every touch; they receive no gradient.
        weighting: Which negatives count, and how much; None: all alike.
        gather: Take the candidates from all ranks of torch.distributed; every rank gets the loss of the whole batch.
            Gradients are to be AVERAGED over ranks, as DistributedDataParallel does; then they are exact.
        chunk: Rows of a span; None chooses, and takes small batches at once.
        hard_valid: (B, N) bool, which of the hard negatives exist: another region may be out of sight at some moments.
            The others count for nothing, whatever they hold. None: all.

    Returns:
        The loss, or (loss, stats). Without any valid row it is a zero connected to the graph.

    Raises:
        ValueError: Shapes that do not pair, an unknown `reduction` or `explicit`, a temperature <= 0, or a valid row
            that has no negative at all.
    """
    rank, ranks = world() if gather else (0, 1)
    in_batch = hard_negatives is None or explicit == "add"
    check_choices(reduction, explicit)
    check_temperature(temperature)
    check_pairs(h_tau, h_w, valid)
    check_negatives(h_tau, hard_negatives, hard_valid, negative, bank, ranks, in_batch)
    count, device = h_tau.shape[0], h_tau.device
    weighting = weighting or Weighting()
    with torch.autocast(device_type=device.type, enabled=False):
        tau, w = (_unit(h, valid) for h in (h_tau, h_w))
        of_pair = None if valid is None or hard_negatives is None else valid[:, None].expand(hard_negatives.shape[:2])
        if hard_valid is not None:
            of_pair = hard_valid if of_pair is None else of_pair & hard_valid
        hard = None if hard_negatives is None else _unit(hard_negatives, of_pair)
        keep = torch.ones(count, dtype=torch.bool, device=device) if valid is None else valid
        every_tau, every_w, every_keep = tau, w, keep
        if ranks > 1:
            require_equal_rows(count, device)
            every_tau, every_w = gather_rows(torch.stack([tau, w], dim=1)).unbind(1)
            every_keep = gather_facts(keep)
            negative = negative.gathered() if isinstance(negative, Negatives) else negative
        rule = MaskRule(negative, count) if isinstance(negative, Tensor) else negative
        keys, candidates = every_w, every_keep
        if bank is not None:
            keys = torch.cat([every_w, _unit(bank.detach(), None).to(every_w.dtype)])
            candidates = torch.cat([every_keep, every_keep.new_ones(len(bank))])
        kappa = torch.as_tensor(temperature, dtype=tau.dtype, device=device)
        run = row_losses if reduction == "none" else summed_loss
        parts = spans(count, len(keys), chunk)
        first_row = rank * count
        forward = Direction(rule, True, in_batch, keep, candidates, first_row, weighting)
        value, negatives = run(forward, parts, (tau, hard, hard_valid), (keys, kappa))
        fewest = negatives
        if symmetric:
            back = Direction(rule, False, True, keep, every_keep, first_row, weighting)
            back_value, back_negatives = run(back, parts, (w, None, None), (every_tau, kappa))
            value, fewest = (value + back_value) / 2, torch.minimum(negatives, back_negatives)
        return _finish(value, negatives, fewest, keep, first_row, reduction, stats, ranks)


def _unit(h: Tensor, keep: Tensor | None) -> Tensor:
    """Unit vectors in float32 or better; rows not kept become a constant, so no gradient and no nan leaves them."""
    h = h if h.dtype == torch.float64 else h.float()
    if keep is not None and not bool(keep.all()):
        h = torch.where(keep[..., None], h, torch.ones_like(h))
    return F.normalize(h, dim=-1)


def _finish(
    value: Tensor,
    negatives: Tensor,
    fewest: Tensor,
    keep: Tensor,
    first_row: int,
    reduction: Reduction,
    stats: bool,
    ranks: int,
) -> Tensor | tuple[Tensor, HSAStats]:
    """Reduce over rows and ranks and check that every valid row had a negative."""
    alone = (keep & ~(fewest > 0)).sum()
    sums = torch.stack([keep.sum(), alone, negatives.sum(), torch.log1p(negatives).sum(), value.detach().sum()]).to(
        value.dtype
    )
    if ranks > 1:
        sums = summed_over_ranks(sums)
    pairs, lonely, of_negatives, of_chance, total = sums.unbind()
    require_negatives(fewest, keep, first_row, bool(lonely > 0))
    at_least_one = pairs.clamp(min=1)
    if reduction != "none":
        shown = total
        # Each rank sends gradient for its own rows; averaged over the ranks, only `ranks` times that is the sum.
        value = value * ranks
        if reduction == "mean":
            value, shown = value / at_least_one, total / at_least_one
        if ranks > 1:
            value = value + (shown - value).detach()
    if not stats:
        return value
    return value, HSAStats(pairs, of_negatives / at_least_one, of_chance / at_least_one)


class HSALoss(nn.Module):
    """`hsa_loss` with its options kept; see there for shapes and errors."""

    def __init__(
        self,
        temperature: float = 0.07,
        reduction: Reduction = "mean",
        explicit: Explicit = "replace",
        symmetric: bool = False,
        weighting: Weighting | None = None,
        gather: bool = False,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        check_choices(reduction, explicit)
        check_temperature(temperature)
        self.temperature, self.reduction = temperature, reduction
        self.explicit, self.symmetric = explicit, symmetric
        self.weighting, self.gather, self.chunk = weighting or Weighting(), gather, chunk

    def forward(
        self,
        h_tau: Tensor,
        h_w: Tensor,
        hard_negatives: Tensor | None = None,
        negative: Tensor | NegativeRule | None = None,
        *,
        temperature: float | Tensor | None = None,
        valid: Tensor | None = None,
        stats: bool = False,
        bank: Tensor | None = None,
        hard_valid: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, HSAStats]:
        """Return the loss; `temperature` overrides the kept one, as a learnt temperature does."""
        return hsa_loss(
            h_tau,
            h_w,
            hard_negatives,
            negative,
            temperature=self.temperature if temperature is None else temperature,
            reduction=self.reduction,
            explicit=self.explicit,
            symmetric=self.symmetric,
            valid=valid,
            stats=stats,
            bank=bank,
            weighting=self.weighting,
            gather=self.gather,
            chunk=self.chunk,
            hard_valid=hard_valid,
        )
