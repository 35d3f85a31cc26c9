"""Meaning of the columns of qpos and action: names, units, and whether an action is a target or a change."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from tactile_align.datasets.action_kinds import explained
from tactile_align.datasets.layout import ActionKind, Layout
from tactile_align.errors import InputError
from tactile_align.facts import Strict

HOLDS, LEVELS = 0.1, 3
"""A column that has at most LEVELS values and changes in at most a share HOLDS of the rows is a command that holds."""
HARDLY_MOVES = 0.02
"""Largest standard deviation of a column that hardly moves, as a share of the largest of all action columns."""
Word = TypeVar("Word", bound=str)
STATE_IT = "State `action_is` (absolute, delta, or one of both per column) in [state] of the layout"


class Columns(Strict):
    """Meaning of the D columns of qpos and the A columns of action.

    Attributes:
        qpos: D labels, such as "joint1 [rad]"; "column 0" and so on if the layout states no names.
        action: A labels.
        action_is: Kind of each action column. absolute: a target. delta: a change of the state. Empty if unknown.
        state: For each action column the index of the qpos column that takes its value; None if there is none.
        source: "stated", "guessed: ..." with the guess, or "left out: ..." with the reason why the kinds are unknown.
    """

    qpos: tuple[str, ...]
    action: tuple[str, ...]
    action_is: tuple[ActionKind, ...] = ()
    state: tuple[int | None, ...] = ()
    source: str

    @classmethod
    def of(cls, layouts: Sequence[Layout], episodes: Sequence[tuple[np.ndarray, np.ndarray]]) -> "Columns":
        """Return the meaning that layouts state, with kinds of action guessed from episodes where none are stated.

        Args:
            layouts: Layouts of the episodes, at least one.
            episodes: Pairs (qpos, action) of the training episodes, as recorded, (T, D) and (T, A).

        Raises:
            InputError: The layouts differ in the meaning of the columns, or state another number of columns.
        """
        first, keys = layouts[0].state, ("qpos_names", "action_names", "qpos_units", "action_units", "action_is")
        for other in layouts[1:]:
            if differs := [key for key in keys if getattr(first, key) != getattr(other.state, key)]:
                raise InputError(
                    f"the layouts {layouts[0].name} and {other.name} differ in {', '.join(differs)}; all episodes of a "
                    f"run need columns of one meaning. State the same in [state] of both layouts"
                )
        width, count = (array.shape[1] for array in episodes[0])
        qpos, action = (_labels(layouts[0], what, n) for what, n in (("qpos", width), ("action", count)))
        names = first.qpos_names, first.action_names
        kinds, source = _each(layouts[0], "action_is", first.action_is, count), "stated"
        if all(names):
            state = tuple(names[0].index(name) if name in names[0] else None for name in names[1])
        else:
            state = tuple(range(count)) if width == count else (None,) * count
        if not kinds:
            kinds, source = _guessed(episodes, state, action)
        # A target in another unit than the state, such as a gripper's command, has no state column.
        state = tuple(c if explained(episodes, i, c)[0] else None for i, c in enumerate(state))
        return cls(qpos=qpos, action=action, action_is=kinds, state=state, source=source)

    @property
    def named(self) -> bool:
        """Whether the layout states names or units."""
        return any(label != f"column {i}" for labels in (self.qpos, self.action) for i, label in enumerate(labels))

    def still(self, qpos: np.ndarray, last: np.ndarray) -> np.ndarray | None:
        """Return the actions that keep the robot still, (R, A), robot units; None if the kinds of action are unknown.

        A change is 0. A target is the state; a target without a state column is the last action.

        Args:
            qpos: (R, D) states.
            last: (R, A) actions before these moments.
        """
        if not self.action_is:
            return None
        columns = [
            np.zeros(len(qpos)) if kind == "delta" else last[:, i] if c is None else qpos[:, c]
            for i, (kind, c) in enumerate(zip(self.action_is, self.state, strict=True))
        ]
        return np.stack(columns, axis=1)


def _each(layout: Layout, key: str, value: Word | tuple[Word, ...] | None, count: int) -> tuple[Word, ...]:
    """Return a value of [state] for each of `count` columns; () if it is not stated."""
    if not value:
        return ()
    values = (value,) * count if isinstance(value, str) else tuple(value)
    if len(values) != count:
        what = key.partition("_")[0]
        raise InputError(
            f"layout {layout.name}: [state] {key} has {len(values)} entries, but {what} has {count} columns; one entry "
            f"for each column is needed. Correct {key}"
        )
    return values


def _labels(layout: Layout, what: str, count: int) -> tuple[str, ...]:
    names, units = (
        _each(layout, f"{what}_{k}", getattr(layout.state, f"{what}_{k}"), count) for k in ("names", "units")
    )
    plain = names or tuple(f"column {i}" for i in range(count))
    return tuple(f"{name} [{unit}]" for name, unit in zip(plain, units, strict=True)) if units else plain


def _guessed(
    episodes: Sequence[tuple[np.ndarray, np.ndarray]], state: tuple[int | None, ...], labels: tuple[str, ...]
) -> tuple[tuple[ActionKind, ...], str]:
    """Return the guessed kind of each action column and the guess in words; () and the reason if one is undecided."""
    kinds: list[ActionKind | None] = []
    actions = np.concatenate([action for _, action in episodes])
    changes = np.mean(np.concatenate([action[1:] != action[:-1] for _, action in episodes]), axis=0)
    for i, c in enumerate(state):
        absolute, delta = explained(episodes, i, c)
        holds = len(np.unique(actions[:, i])) <= LEVELS and 0 < changes[i] <= HOLDS
        kinds.append("absolute" if absolute else "delta" if delta else "absolute" if holds else None)
    known = [kind for kind in kinds if kind is not None]
    moves = actions.std(axis=0) > HARDLY_MOVES * actions.std(axis=0).max()
    if known:
        most = max(dict.fromkeys(known), key=known.count)
        kinds = [most if kind is None and not moves[i] else kind for i, kind in enumerate(kinds)]
    unknown = [label for label, kind in zip(labels, kinds, strict=True) if kind is None]
    if unknown:
        return (), f"left out: {', '.join(unknown)} of action match neither the state nor its change. {STATE_IT}"
    decided = [(label, kind) for label, kind in zip(labels, kinds, strict=True) if kind is not None]
    parts = [f"{', '.join(n for n, k in decided if k == kind)} {kind}" for kind in dict.fromkeys(k for _, k in decided)]
    return tuple(kind for _, kind in decided), f"guessed: {'; '.join(parts)}"
