"""Meaning of the columns of qpos and action: names, units, and whether an action is a target or a change."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from tactile_align.datasets.action_kinds import explained, guessed_kinds
from tactile_align.datasets.layout import ActionKind, Layout
from tactile_align.errors import InputError
from tactile_align.facts import Strict


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
        qpos, action = layouts[0].labels("qpos", width), layouts[0].labels("action", count)
        names = first.qpos_names, first.action_names
        kinds, source = cast(tuple[ActionKind, ...], layouts[0].each("action_is", count)), "stated"
        if all(names):
            state = tuple(names[0].index(name) if name in names[0] else None for name in names[1])
        else:
            state = tuple(range(count)) if width == count else (None,) * count
        if not kinds:
            kinds, source = guessed_kinds(episodes, state, action)
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
