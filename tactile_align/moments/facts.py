"""What is worked out once for every moment of an episode: contact, opening of the gripper, boxes of the sensors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.contact import contacts
from tactile_align.datasets.episodes import Episode
from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.moments.inputs import Input
from tactile_align.projection.episode_boxes import (
    contact_flags,
    episode_boxes,
    hand_of,
    held_opening,
    hold_sensors,
    recorded_contact,
)


@dataclass(frozen=True)
class ViewFacts:
    """Facts of one view in N moments.

    Attributes:
        frame_box: (N, 4) the sensor's box in the recorded frame, or that before its pad, px; nan where there is none.
        box: (N, 4) the same in the input.
        visible: (N,) bool, whether that box exists.
        sigma: (N, 2) standard deviation of its place in the input, px; None unless the input is `uncertain`.
        other_box: (N, 4) the other finger's box in the input, px; None unless the input has `other_finger`.
    """

    frame_box: np.ndarray
    box: np.ndarray
    visible: np.ndarray
    sigma: np.ndarray | None
    other_box: np.ndarray | None


@dataclass(frozen=True)
class TouchFacts:
    """Facts of one sensor in N moments.

    Attributes:
        contact: (N,) bool, whether it touches something.
        contact_index: (N,) int64, which contact of the episode, -1 between.
        opening: (N, 2) where the fingers stand, m; None for an arm without a gripper.
    """

    contact: np.ndarray
    contact_index: np.ndarray
    opening: np.ndarray | None


def moment_facts(episode: Episode, rig: Rig, inputs: Sequence[Input]) -> dict[str, np.ndarray]:
    """Return the arrays that hold for each moment of the episode, by the names they have in the cache's files.

    These are qpos and action, FIELD/KEY for each field of `ViewFacts` and FIELD/SENSOR for each of `TouchFacts`.
    """
    qpos = episode.qpos
    facts: dict[str, np.ndarray] = {"qpos": qpos, "action": episode.action}
    sensors = {one.sensor for one in inputs if one.sensor is not None}
    sensors |= {name for name, sensor in rig.sensors.items() if any(sensor.stream == one.stream for one in inputs)}
    contact = {name: contact_flags(episode, rig.sensor(name).stream) for name in sorted(sensors)}
    for name, flags in contact.items():
        facts[f"contact/{name}"] = flags
        facts[f"contact_index/{name}"] = contacts(flags)
    # A command is held while any sensor of the hand touches, also one that no view looks at.
    hands = {name: arm for name in sorted(sensors) if (arm := hand_of(rig, name))}
    holding = {name for arm in hands.values() for name in hold_sensors(rig, arm)}
    contact |= recorded_contact(episode, rig, sorted(holding - sensors))
    for name, arm in hands.items():
        with _named(episode):
            facts[f"opening/{name}"] = held_opening(rig, arm, qpos, contact)
    for one in inputs:
        if one.sensor is None:
            continue
        with _named(episode):
            view = episode_boxes(rig, one.stream, one.sensor, qpos, contact, episode.fps, ahead_m=one.ahead_m)
            seen, visible = view.boxes.box, view.boxes.visible
        if one.uncertain:
            seen, visible = only_certain(seen, visible, view.sigma_px)
        facts[f"frame_box/{one.key}"] = seen
        facts[f"visible/{one.key}"] = visible
        width, height = episode.width_height(one.stream)
        maps = [one.image_map(width, height, box) for box in seen]
        facts[f"box/{one.key}"] = np.stack([m.apply_to_box(b) for m, b in zip(maps, seen, strict=True)])
        if one.uncertain:
            scaled = [np.abs(m.scale) * sigma for m, sigma in zip(maps, view.sigma_px, strict=True)]
            facts[f"sigma/{one.key}"] = np.stack(scaled)
        if one.other_finger:
            other = view.other_finger.box
            facts[f"other_box/{one.key}"] = np.stack([m.apply_to_box(b) for m, b in zip(maps, other, strict=True)])
    return facts


def only_certain(box: Array, visible: Array, sigma: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (..., 4) and whether they exist (...), without those whose uncertainty (..., 2) is not known."""
    known = np.asarray(visible) & np.isfinite(sigma).all(axis=-1)
    return np.where(known[..., None], np.asarray(box), np.nan), known


@contextmanager
def _named(episode: Episode) -> Iterator[None]:
    """Say of which file and key the joints or gripper readings were that geometry refused."""
    try:
        yield
    except InputError as error:
        key = f"/{episode.ref.group}/{episode.layout.state.qpos[0]}".replace("//", "/")
        raise InputError(f"{episode.ref}: {key}: {error}") from error
