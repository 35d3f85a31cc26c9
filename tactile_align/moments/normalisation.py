"""Mean and standard deviation of joints and actions, over the training episodes and no others."""

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

STD_FLOOR = 0.01  # original ACT: a joint that hardly moves must not be blown up


class Statistics(Strict):
    """Per-column mean and standard deviation, in the units of the recording.

    A standard deviation below `std_floor` is raised to it when applied; the file keeps what was measured.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants", allow_inf_nan=False)

    qpos_mean: tuple[float, ...]
    qpos_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    std_floor: float = Field(default=STD_FLOOR, ge=0)
    episodes: int = Field(ge=1)
    steps: int = Field(ge=1)

    @model_validator(mode="after")
    def _check(self) -> "Statistics":
        for what, mean, std in (("qpos", self.qpos_mean, self.qpos_std), ("action", self.action_mean, self.action_std)):
            if len(mean) != len(std) or not mean:
                raise InputError(f"{what} needs one mean and one std a column; got {len(mean)} and {len(std)}")
            if min(std) < 0:
                raise InputError(f"{what}_std must not be negative; got {min(std)}")
            if min(std) == 0 and self.std_floor == 0:
                raise InputError(f"{what} has a constant column, so std_floor must be positive; got 0")
        return self

    @classmethod
    def of(cls, episodes: Iterable[tuple[np.ndarray, np.ndarray]], std_floor: float = STD_FLOOR) -> "Statistics":
        """Return the statistics of raw qpos (T, D) and action (T, A) of the training episodes, and of no others.

        Raises:
            InputError: No episode, or episodes of different widths.
        """
        qpos, action = _Moments("qpos"), _Moments("action")
        count = 0
        for states, actions in episodes:
            qpos.add(states)
            action.add(actions)
            count += 1
        if count == 0:
            raise InputError("statistics need at least one training episode; got none")
        return cls(
            qpos_mean=tuple(qpos.mean.tolist()),
            qpos_std=tuple(qpos.std.tolist()),
            action_mean=tuple(action.mean.tolist()),
            action_std=tuple(action.std.tolist()),
            std_floor=std_floor,
            episodes=count,
            steps=qpos.steps,
        )

    def normalise_qpos(self, qpos: Any) -> Any:
        """Return (qpos - mean) / std; (..., D) numpy or torch, same dtype and device."""
        return self._scaled("qpos", qpos)

    def normalise_action(self, action: Any) -> Any:
        """Return (action - mean) / std; (..., A) numpy or torch, same dtype and device."""
        return self._scaled("action", action)

    def restore_action(self, normalised: Any) -> Any:
        """Return actions in robot units from the policy's; the inverse of `normalise_action`."""
        return self._scaled("action", normalised, inverse=True)

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        write_text_atomically(Path(path), json.dumps(self.model_dump(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: No such file.
            InputError: Not JSON, or a key is unknown, missing or wrong.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; statistics are written beside a run's checkpoints")
        return parse(cls, read_json(file, "Train again or copy the file again"), str(file))

    def _scaled(self, what: str, values: Any, inverse: bool = False) -> Any:
        mean, std = getattr(self, f"{what}_mean"), getattr(self, f"{what}_std")
        if values.shape[-1:] != (len(mean),):
            raise InputError(
                f"{what} statistics have {len(mean)} columns, so {what} must have shape (..., {len(mean)}); "
                f"got {tuple(values.shape)}. Do run and recording belong to the same robot?"
            )
        xp = array_namespace(values)
        kind = {"dtype": values.dtype, "device": values.device}
        middle = xp.asarray(mean, **kind)
        spread = xp.asarray([max(s, self.std_floor) for s in std], **kind)
        return values * spread + middle if inverse else (values - middle) / spread


class _Moments:
    """Mean and variance over episodes, one at a time (Chan, Golub and LeVeque 1983)."""

    def __init__(self, what: str) -> None:
        self.what, self.steps = what, 0
        self.mean = self._squares = np.zeros(0)

    def add(self, values: np.ndarray) -> None:
        values = np.asarray(values, np.float64)
        if self.steps == 0:
            self.mean, self._squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        if values.shape[1] != len(self.mean):
            raise InputError(
                f"{self.what} of one episode has {values.shape[1]} columns, of another {len(self.mean)}; statistics "
                f"need episodes of one robot"
            )
        mean, total = values.mean(axis=0), self.steps + len(values)
        ahead = mean - self.mean
        self._squares += ((values - mean) ** 2).sum(axis=0)
        self._squares += ahead**2 * self.steps * len(values) / total
        self.mean = self.mean + ahead * len(values) / total
        self.steps = total

    @property
    def std(self) -> np.ndarray:
        return np.asarray(np.sqrt(self._squares / self.steps))
