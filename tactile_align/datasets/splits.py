"""Which episodes train and which are held out: whole episodes, the same for the same seed."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from tactile_align.errors import InputError


class _Sortable(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


Ref = TypeVar("Ref", bound=_Sortable)


def split_episodes(
    refs: Sequence[Ref], seed: int, held_out: float | int = 0.1
) -> tuple[tuple[Ref, ...], tuple[Ref, ...]]:
    """Split by episode: neighbouring frames are near copies, so no episode is ever on both sides.

    Args:
        refs: Episodes; their order does not matter.
        seed: Equal seed, equal split.
        held_out: A share below 1 (rounded, at least one episode), or a whole number of episodes.

    Returns:
        (train, held_out), each sorted.

    Raises:
        InputError: An episode is listed twice, `held_out` is neither share nor number, or one of the sides would be
            empty.
    """
    ordered = sorted(refs)
    if len(set(ordered)) != len(ordered):
        raise InputError("an episode is listed twice, so it could land on both sides; list each once")
    if held_out >= 1 and held_out != int(held_out):
        raise InputError(
            f"held_out is a share below 1 or a whole number of episodes; got {held_out}. State one of them"
        )
    count = max(1, round(held_out * len(ordered))) if 0 < held_out < 1 else int(held_out)
    if not 0 < count < len(ordered):
        raise InputError(
            f"held_out={held_out} of {len(ordered)} episodes leaves {len(ordered) - count} to train and "
            f"{count} "
            f"held out; both need at least one. Record more, or hold out fewer"
        )
    chosen = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    train = tuple(ref for i, ref in enumerate(ordered) if i not in chosen)
    return train, tuple(ref for i, ref in enumerate(ordered) if i in chosen)
