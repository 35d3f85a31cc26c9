"""What the alignment losses refuse."""

import torch
from torch import Tensor

from tactile_align.errors import InputError


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


def check_rivals(
    h_tau: Tensor,
    hard: Tensor | None,
    hard_valid: Tensor | None,
    rival: object,
    bank: Tensor | None,
    ranks: int,
    in_batch: bool,
) -> None:
    """Refuse explicit rivals, masks and banks of another shape."""
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
            "explicit hard negatives that replace the in-batch rivals would replace the bank too; got both. Use "
            "explicit='add', or leave the bank out"
        )
    if not isinstance(rival, Tensor):
        return
    wanted = (batch, batch + (0 if bank is None else len(bank)))
    if ranks > 1:
        raise ValueError(
            f"candidates of {ranks} ranks need a rule, which can be asked about any row; got a mask of shape "
            f"{tuple(rival.shape)}. Pass Rivals(...) or None"
        )
    if rival.shape != wanted:
        raise ValueError(f"rival must have shape {wanted}; got {tuple(rival.shape)}")


def require_rivals(count: Tensor, keep: Tensor, first_row: int, somewhere: bool) -> None:
    """Refuse valid rows without any rival.

    Args:
        count: (B,) summed rival weight of each row.
        keep: (B,) bool, valid rows.
        first_row: Number of the first row among the rows of all ranks.
        somewhere: Whether such a row exists on any rank; then all ranks raise, so that none waits for another.
    """
    if not somewhere:
        return
    rows = ((keep & ~(count > 0)).nonzero().flatten() + first_row).tolist()
    which = f"rows {rows[:20]} are" if rows else "rows of another rank are"
    raise InputError(
        f"{which} valid but have no rival, so their loss would say nothing. Needed: at least one "
        f"rival for each valid row. Use a larger batch, draw it from more episodes, or relax the rival rules"
    )
