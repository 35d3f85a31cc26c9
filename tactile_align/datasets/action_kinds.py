"""Kind of an action column, absolute (a target) or delta (a change of the state), as data show it."""

from collections.abc import Sequence

import numpy as np

from tactile_align.datasets.layout import ActionKind, State

EXPLAINED = 0.5
"""Smallest share of a column's variance that the state, or its change, must explain to guess the kind of an action."""

HOLDS, LEVELS = 0.1, 3
"""A column that has at most LEVELS values and changes in at most a share HOLDS of the rows is a command that holds."""
HARDLY_MOVES = 0.02
"""Largest standard deviation of a column that hardly moves, as a share of the largest of all columns but commands."""
STATE_IT = "State `action_is` (absolute, delta, or one of both per column) in [state] of the layout"


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


def guessed_kinds(
    episodes: Sequence[tuple[np.ndarray, np.ndarray]], state: tuple[int | None, ...], labels: tuple[str, ...]
) -> tuple[tuple[ActionKind, ...], str]:
    """Return the guessed kind of each action column and the guess in words; () and the reason if one is undecided.

    Args:
        episodes: Pairs (qpos, action) of episodes, as recorded, (T, D) and (T, A).
        state: For each action column the index of its qpos column; None if there is none.
        labels: A labels of the action columns, for the text.
    """
    kinds: list[ActionKind | None] = []
    commands = np.zeros(len(state), bool)
    actions = np.concatenate([action for _, action in episodes])
    changes = np.mean(np.concatenate([action[1:] != action[:-1] for _, action in episodes]), axis=0)
    for i, c in enumerate(state):
        absolute, delta = explained(episodes, i, c)
        commands[i] = len(np.unique(actions[:, i])) <= LEVELS and 0 < changes[i] <= HOLDS
        kinds.append("absolute" if absolute else "delta" if delta else "absolute" if commands[i] else None)
    known = [kind for kind in kinds if kind is not None]
    # A command of 0 or 1 moves far more than a delta in metres, which moves nevertheless.
    moves = actions.std(axis=0) > HARDLY_MOVES * actions.std(axis=0)[~commands].max(initial=0.0)
    if known:
        most = max(dict.fromkeys(known), key=known.count)
        kinds = [most if kind is None and not moves[i] else kind for i, kind in enumerate(kinds)]
    unknown = [label for label, kind in zip(labels, kinds, strict=True) if kind is None]
    if unknown:
        return (), f"left out: {', '.join(unknown)} of action match neither the state nor its change. {STATE_IT}"
    decided = [(label, kind) for label, kind in zip(labels, kinds, strict=True) if kind is not None]
    parts = [f"{', '.join(n for n, k in decided if k == kind)} {kind}" for kind in dict.fromkeys(k for _, k in decided)]
    return tuple(kind for _, kind in decided), f"guessed: {'; '.join(parts)}"


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
