"""Normalisation of joints and actions by statistics of the training episodes.

Joints are scaled by mean and standard deviation. Actions are scaled the same way, or to -1..1 by their smallest and
largest values, which heads that clip their samples at 1 need.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from pydantic import ConfigDict, Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict, parse
from tactile_align.files import read_json, write_text_atomically
from tactile_align.moments.columns import Columns

STD_FLOOR = 0.01  # as in the original ACT: noise of a joint that hardly moves must not be amplified


class Statistics(Strict):
    """Mean and standard deviation of each column of qpos and action, in the units of the recording.

    A standard deviation below `std_floor` is replaced by `std_floor` when it is used. The file that `save` writes
    contains the measured value. `columns` is the meaning of the columns; None in files of runs that did not record it.
    `action_range` is the smallest and the largest value of each action column, by which actions are then scaled to
    -1..1; None: they are scaled by mean and standard deviation. Half a range below `std_floor` is replaced by
    `std_floor`, and the range of a constant column by 1.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants", allow_inf_nan=False)

    qpos_mean: tuple[float, ...]
    qpos_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    action_range: tuple[tuple[float, float], ...] | None = None
    std_floor: float = Field(default=STD_FLOOR, ge=0)
    columns: Columns | None = None
    episodes: int = Field(ge=1)
    steps: int = Field(ge=1)

    @model_validator(mode="after")
    def _check(self) -> "Statistics":
        for what, mean, std in (("qpos", self.qpos_mean, self.qpos_std), ("action", self.action_mean, self.action_std)):
            if len(mean) != len(std) or not mean:
                raise InputError(
                    f"{what}_mean has {len(mean)} values and {what}_std has {len(std)}; expected one of each for each "
                    f"column. Use the statistics.json that training wrote"
                )
            if min(std) < 0:
                raise InputError(
                    f"{what}_std must not be negative; got {min(std)}. Use the statistics.json that training wrote"
                )
            if self.action_range is not None and len(self.action_range) != len(self.action_mean):
                raise InputError(
                    f"action_range has {len(self.action_range)} entries; expected one of each of the "
                    f"{len(self.action_mean)} action columns. Use the statistics.json that training wrote"
                )
            if wrong := [pair for pair in self.action_range or () if pair[0] > pair[1]]:
                raise InputError(
                    f"action_range must have pairs of the smallest and the largest value; got {list(wrong[0])}. Use "
                    f"the statistics.json that training wrote"
                )
            if min(std) == 0 and self.std_floor == 0:
                raise InputError(
                    f"std_floor is 0, but a column of {what} is constant, so std_floor must be positive. Set "
                    f"std_floor = {STD_FLOOR}"
                )
        return self

    @classmethod
    def of(
        cls,
        episodes: Iterable[tuple[np.ndarray, np.ndarray]],
        std_floor: float = STD_FLOOR,
        scale_to_range: bool = False,
    ) -> "Statistics":
        """Return the statistics of the training episodes.

        Args:
            episodes: Pairs (qpos, action), one for each training episode, as recorded. qpos (T, D) has one row for each
                of T moments and D columns; action (T, A) has A columns.
            std_floor: Smallest standard deviation that is used for normalisation.
            scale_to_range: Whether actions are scaled to -1..1 by their range.

        Raises:
            InputError: There is no episode, or the episodes differ in their number of columns.
        """
        qpos, action = _Moments("qpos"), _Moments("action")
        count = 0
        for states, actions in episodes:
            qpos.add(states)
            action.add(actions)
            count += 1
        if count == 0:
            raise InputError("no training episodes were given; statistics need at least one. Pass episodes")
        return cls(
            qpos_mean=tuple(qpos.mean.tolist()),
            qpos_std=tuple(qpos.std.tolist()),
            action_mean=tuple(action.mean.tolist()),
            action_std=tuple(action.std.tolist()),
            action_range=tuple(zip(action.low.tolist(), action.high.tolist(), strict=True)) if scale_to_range else None,
            std_floor=std_floor,
            episodes=count,
            steps=qpos.steps,
        )

    def normalise_qpos(self, qpos: Any) -> Any:
        """Return the normalised state (qpos - mean) / std, (..., D) as `qpos` with its D columns, in NumPy or torch.

        Dtype and device do not change.
        """
        return self._scaled("qpos", qpos)

    def normalise_action(self, action: Any) -> Any:
        """Return normalised actions (..., A) as `action` with its A columns, in NumPy or torch.

        They are (action - mean) / std or, with `action_range`, the place of the action in this range, from -1 to 1.
        Dtype and device do not change.
        """
        return self._scaled("action", action)

    def restore_action(self, normalised: Any) -> Any:
        """Return actions (..., A) of A columns in the units of the recording, from normalised actions. Inverse of
        `normalise_action`."""
        return self._scaled("action", normalised, inverse=True)

    def save(self, path: str | Path) -> None:
        """Write the statistics to a JSON file."""
        write_text_atomically(Path(path), json.dumps(self.model_dump(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Return the statistics in a file that `save` wrote.

        Raises:
            FileNotFoundError: The file does not exist.
            InputError: The file is not JSON, or a key is unknown, missing or has a wrong value.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file. Use the statistics file beside the checkpoints of a run")
        return parse(cls, read_json(file, "Train again, or copy the file again"), str(file))

    def _scaled(self, what: str, values: Any, inverse: bool = False) -> Any:
        mean, scale = self._scale(what)
        if values.shape[-1:] != (len(mean),):
            raise InputError(
                f"{what} must have shape (..., {len(mean)}), because the {what} statistics have {len(mean)} columns; "
                f"got {tuple(values.shape)}. Use data and statistics of the same robot"
            )
        xp = array_namespace(values)
        kind = {"dtype": values.dtype, "device": values.device}
        middle = xp.asarray(mean, **kind)
        spread = xp.asarray(scale, **kind)
        return values * spread + middle if inverse else (values - middle) / spread

    def _scale(self, what: str) -> tuple[tuple[float, ...] | list[float], list[float]]:
        """Return the values that normalisation moves to 0, and those that it divides by, of each column."""
        if what == "action" and self.action_range is not None:
            halves = [(high - low) / 2 for low, high in self.action_range]
            middle = [(low + high) / 2 for low, high in self.action_range]
            return middle, [max(half, self.std_floor) if half > 0 else 0.5 for half in halves]
        return getattr(self, f"{what}_mean"), [max(s, self.std_floor) for s in getattr(self, f"{what}_std")]


class _Moments:
    """Running mean, variance and range, updated with one episode at a time (Chan, Golub and LeVeque 1983)."""

    def __init__(self, what: str) -> None:
        self.what, self.steps = what, 0
        self.mean = self._squares = self.low = self.high = np.zeros(0)

    def add(self, values: np.ndarray) -> None:
        values = np.asarray(values, np.float64)
        if self.steps == 0:
            self.mean, self._squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
            self.low, self.high = values[0], values[0]
        if values.shape[1] != len(self.mean):
            raise InputError(
                f"the episodes differ in their number of {self.what} columns: {len(self.mean)} and {values.shape[1]}. "
                f"All episodes must have equal numbers. Use only episodes of one robot"
            )
        mean, total = values.mean(axis=0), self.steps + len(values)
        ahead = mean - self.mean
        self._squares += ((values - mean) ** 2).sum(axis=0)
        self._squares += ahead**2 * self.steps * len(values) / total
        self.mean = self.mean + ahead * len(values) / total
        self.low, self.high = np.minimum(self.low, values.min(axis=0)), np.maximum(self.high, values.max(axis=0))
        self.steps = total

    @property
    def std(self) -> np.ndarray:
        return np.asarray(np.sqrt(self._squares / self.steps))
