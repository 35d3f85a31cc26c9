"""Grippers: conversion of a gripper reading to the distance of each finger from the tool axis."""

from itertools import pairwise
from typing import Annotated, Literal, Protocol

import numpy as np
from array_api_compat import array_namespace
from pydantic import Field, model_validator

from tactile_align.errors import ColumnError, InputError
from tactile_align.facts import Strict
from tactile_align.geometry.frames import Array


class Law(Strict):
    """Base class of the laws that give a finger's position: finger1 moves along `axis`, finger2 mirrors finger1."""

    axis: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """Unit vector in the flange frame along which finger1 moves when it opens; finger2 moves the other way."""

    @model_validator(mode="after")
    def _axis_is_a_unit_vector(self) -> "Law":
        if abs(float(np.linalg.norm(self.axis)) - 1.0) > 1e-6:
            raise InputError(f"axis = {list(self.axis)} is not a unit vector. Divide it by its length")
        return self


class Linear(Law):
    """Linear law: the opening changes linearly with the reading, as in a parallel gripper with a spindle or a belt."""

    kind: Literal["linear"] = "linear"
    closed_m: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """One finger's distance from the tool axis when fully closed, m."""
    open_m: Annotated[float, Field(gt=0.0, le=0.5)]
    """One finger's distance from the tool axis when fully open, m."""

    def opening(self, fraction: Array) -> Array:
        """Return one finger's distance from the tool axis, m, for opening fractions (0: closed, 1: open)."""
        return self.closed_m + fraction * (self.open_m - self.closed_m)


class SliderCrank(Law):
    """Slider-crank law: a servo crank pushes each finger through a rod, as in the X-Trainer's gripper.

    A finger has the distance w = crank cos(theta) + sqrt(rod^2 - crank^2 sin^2(theta)) from the tool axis. The crank
    angle theta is linear in the reading (X-Trainer control code: 30 mm, 40 mm, 2.3818 rad closed, 88.2 deg of travel).
    """

    kind: Literal["slider_crank"] = "slider_crank"
    crank_m: Annotated[float, Field(gt=0.0, le=0.5)] = 0.030
    rod_m: Annotated[float, Field(gt=0.0, le=0.5)] = 0.040
    theta_closed_rad: float = 2.3818
    theta_open_rad: float = 0.8417
    servo_counts: tuple[int, int] | None = None
    """Servo positions (closed, open), 4096 counts per turn. If given, they and theta_open_rad set theta_closed_rad."""

    @model_validator(mode="after")
    def _rod_reaches(self) -> "SliderCrank":
        if self.rod_m <= self.crank_m:
            raise InputError(f"rod_m = {self.rod_m} must exceed crank_m = {self.crank_m}. Measure both again")
        if not 0.0 <= self.theta_open_rad < self._closed() <= np.pi:
            got = f"theta_open is {self.theta_open_rad:.4g} rad and theta_closed is {self._closed():.4g} rad"
            needed = "the crank needs 0 <= theta_open < theta_closed <= pi"
            raise InputError(f"{got}, but {needed}. Correct theta_open_rad, theta_closed_rad or servo_counts")
        return self

    def _closed(self) -> float:
        if self.servo_counts is None:
            return self.theta_closed_rad
        return self.theta_open_rad + abs(self.servo_counts[1] - self.servo_counts[0]) * 2 * np.pi / 4096

    def opening(self, fraction: Array) -> Array:
        """Return one finger's distance from the tool axis, m, for opening fractions (0: closed, 1: open)."""
        xp = array_namespace(fraction)
        theta = self._closed() + fraction * (self.theta_open_rad - self._closed())
        reach = xp.sqrt(self.rod_m**2 - (self.crank_m * xp.sin(theta)) ** 2)
        return self.crank_m * xp.cos(theta) + reach


class Table(Law):
    """Table law: openings measured at several readings, linearly interpolated, and extrapolated beyond the ends."""

    kind: Literal["table"] = "table"
    fraction: Annotated[tuple[float, ...], Field(min_length=2)]
    """Opening fractions (0: closed, 1: open), increasing from 0 to 1."""
    opening_m: tuple[Annotated[float, Field(ge=0.0, le=0.5)], ...]
    """One finger's distance from the tool axis at each fraction, m, never decreasing."""

    @model_validator(mode="after")
    def _rises(self) -> "Table":
        if len(self.fraction) != len(self.opening_m):
            got = f"got {len(self.fraction)} fractions, {len(self.opening_m)} openings"
            raise InputError(f"{got}; expected one opening per fraction. Complete the shorter list")
        if self.fraction[0] != 0.0 or self.fraction[-1] != 1.0 or not np.all(np.diff(self.fraction) > 0):
            ends = f"runs from {self.fraction[0]:g} to {self.fraction[-1]:g}. Scale it, or add the missing end"
            fault = ends if np.all(np.diff(self.fraction) > 0) else "does not always increase. Sort the table"
            raise InputError(f"fraction must increase from 0 to 1, but it {fault}")
        if not np.all(np.diff(self.opening_m) >= 0) or self.opening_m[0] == self.opening_m[-1]:
            fault = "is constant" if len({*self.opening_m}) == 1 else "decreases somewhere"
            raise InputError(f"opening_m must increase with fraction, but it {fault}. Measure the openings again")
        return self

    def opening(self, fraction: Array) -> Array:
        """Return one finger's distance from the tool axis, m, for opening fractions (0: closed, 1: open)."""
        xp = array_namespace(fraction)
        total, count = self.opening_m[0] + xp.zeros_like(fraction), len(self.fraction) - 1
        lines = pairwise(zip(self.fraction, self.opening_m, strict=True))
        for i, ((start, below), (end, above)) in enumerate(lines, start=1):
            within = xp.clip(fraction, start if i > 1 else None, end if i < count else None)
            total = total + (above - below) / (end - start) * (within - start)
        return total


class Gripper(Strict):
    """Gripper of a rig: the column of qpos with its reading, the meaning of the reading, and the law of its fingers."""

    column: Annotated[int, Field(ge=0)]
    """Column of qpos that holds the reading."""
    open: float
    """The reading when fully open."""
    closed: float
    """The reading when fully closed."""
    reading: Literal["measured", "commanded"]
    """measured: the position of the fingers. commanded: the last command (the X-Trainer records commands)."""
    tolerance: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    """Largest accepted distance of a reading outside [closed, open], as a fraction of that range."""
    law: Annotated[Linear | SliderCrank | Table, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "Gripper":
        if self.open == self.closed:
            raise InputError(f"open and closed must differ; both are {self.open}. Record both readings again")
        return self

    def opening(self, qpos: Array) -> Array:
        """Return the opening (..., 2) of the gripper: the distance of each finger from the tool axis, m.

        Args:
            qpos: (..., D) raw state as recorded: joint and gripper readings, D numbers.

        Raises:
            InputError: A reading lies outside [closed, open] by more than `tolerance`. The message contains row
                and value.
        """
        xp = array_namespace(qpos)
        if qpos.shape[-1] <= self.column:
            text = f"the gripper reads column {self.column} of qpos, whose last column is {qpos.shape[-1] - 1}"
            hint = "Correct it in the rig file, or add the gripper's array in state.qpos of the layout"
            raise ColumnError(f"{text}. {hint}", qpos.shape[-1] - 1, gripper_missing=True)
        reading = qpos[..., self.column]
        fraction = (reading - self.closed) / (self.open - self.closed)
        bad = self._out_of_range(fraction)
        if bool(xp.any(bad)):
            row = int(xp.nonzero(xp.reshape(bad, (-1,)))[0][0])
            value, (low, high) = float(xp.reshape(reading, (-1,))[row]), sorted((self.open, self.closed))
            margin = self.tolerance * (high - low)
            text = f"gripper reading {value:.4g} lies more than {margin:.3g} outside [{low:g}, {high:g}]"
            hint = "is raw (not normalised), and that the gripper's column, open and closed in the rig are right."
            raise ColumnError(f"row {row}: {text}. Check that qpos {hint}{self._others(qpos)}", self.column)
        distance = self.law.opening(fraction)
        return xp.stack([distance, distance], axis=-1)

    def _out_of_range(self, fraction: Array) -> Array:
        return ~((fraction >= -self.tolerance) & (fraction <= 1 + self.tolerance))

    def _others(self, qpos: Array) -> str:
        """Return a hint that lists the columns that could be the gripper's: in range in all rows, not constant."""
        xp = array_namespace(qpos)
        rows = (xp.reshape(qpos, (-1, qpos.shape[-1])) - self.closed) / (self.open - self.closed)
        inside, moving = ~xp.any(self._out_of_range(rows), axis=0), xp.any(rows != rows[:1], axis=0)
        fits = [str(int(column)) for column in xp.nonzero(inside & moving)[0]]
        return f" Columns that change and are in range in all rows: {', '.join(fits)}." if fits else ""


class HasGrippers(Protocol):
    """Object that has a gripper for each arm, such as a rig."""

    def gripper(self, arm: str) -> Gripper:
        """Return the gripper of an arm; raise InputError if the arm has no gripper."""


def opening_in_contact(rig: HasGrippers, arm: str, qpos: Array, contact: Array) -> Array:
    """Return the distance of each finger from the tool axis, corrected in contact if the gripper records commands.

    During contact the command closes further while the finger stands still. So within each period of contact the
    opening is never less than the commanded opening at the start of that period. A command to open takes effect at
    once. A measured opening is returned unchanged.

    Args:
        rig: The rig.
        arm: Name of the arm that carries the gripper.
        qpos: (..., T, D) raw state (joint and gripper readings) of an episode of T frames in order.
        contact: (..., T) bool, whether any sensor on this gripper touches something.

    Returns:
        (..., T, 2) distance of each finger from the tool axis, metres.

    Raises:
        InputError: The shapes of `qpos` and `contact` do not match, or a reading is out of range.
    """
    gripper = rig.gripper(arm)
    if tuple(contact.shape) != tuple(qpos.shape[:-1]):
        needed = f"but needs one flag per frame of qpos, shape {tuple(qpos.shape[:-1])}"
        raise InputError(f"contact has shape {tuple(contact.shape)}, {needed}. Give the flags of this episode")
    opening = gripper.opening(qpos)
    if gripper.reading == "measured":
        return opening
    xp = array_namespace(qpos)
    onset = xp.concat([contact[..., :1], contact[..., 1:] & ~contact[..., :-1]], axis=-1)
    frames = xp.broadcast_to(xp.arange(contact.shape[-1], device=contact.device), contact.shape)
    first = _running_maximum(xp.where(onset, frames, xp.zeros_like(frames)))
    held = xp.take_along_axis(opening, xp.stack([first, first], axis=-1), axis=-2)
    return xp.where(contact[..., None], xp.maximum(opening, held), opening)


def _running_maximum(x: Array) -> Array:
    """Return the running maximum of integers (..., T) along the last axis by doubling."""
    xp = array_namespace(x)
    step = 1
    while step < x.shape[-1]:
        x = xp.concat([x[..., :step], xp.maximum(x[..., step:], x[..., :-step])], axis=-1)
        step *= 2
    return x
