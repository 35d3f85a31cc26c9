"""Kind of an action column, absolute (a target) or delta (a change of the state), as data show it."""

from collections.abc import Sequence

import numpy as np

from tactile_align.datasets.layout import State

EXPLAINED = 0.5
"""Smallest share of a column's variance that the state, or its change, must explain to guess the kind of an action."""


def explained(episodes: Sequence[tuple[np.ndarray, np.ndarray]], i: int, c: int | None) -> tuple[bool, bool]:
    """Return whether action column i equals the next state of qpos column c, and whether it follows its change.

    Args:
        episodes: Pairs (qpos, action) of episodes, as recorded, (T, D) and (T, A).
        i: Column of action.
        c: Column of qpos; None: no column, which explains nothing.
    """
    if c is None:
        return False, False
    now, after, action = (
        np.concatenate(parts) for parts in zip(*((q[:-1, c], q[1:, c], a[:-1, i]) for q, a in episodes), strict=True)
    )
    if not len(action):
        return False, False
    error, scale = np.mean((action - after) ** 2), np.var(after) + (1e-3 * np.abs(after).max()) ** 2
    change, spread = after - now, action.std() * (after - now).std()
    follows = spread > 0 and np.mean((action - action.mean()) * (change - change.mean())) > EXPLAINED * spread
    zero = not action.any() and not change.any()
    return bool(error <= (1 - EXPLAINED) * scale), bool(follows or zero)


def is_target(state: State, qpos: np.ndarray, action: np.ndarray, column: int) -> bool:
    """Return whether the action in a column is a target for the same column of qpos: as stated, or else guessed.

    Args:
        state: Table [state] of the episode's layout.
        qpos: (T, D) recorded states.
        action: (T, D) recorded actions.
        column: The column.
    """
    if state.action_is is None:
        return explained([(qpos, action)], column, column)[0]
    kinds = state.action_is
    return (kinds if isinstance(kinds, str) else "".join(kinds[column : column + 1])) == "absolute"
