"""Facts about every moment of an episode: contacts, openings of the grippers, and boxes of the sensors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.contact import contacts
from tactile_align.datasets.episodes import Episode
from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.geometry.images import ImageMap
from tactile_align.moments.ahead import contacts_ahead
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
    """Facts about one view in N moments.

    Attributes:
        frame_box: (N, 4) box of the sensor (moved forward by `Input.ahead_m`) in the recorded frame, px; nan if the box
            does not exist.
        box: (N, 4) the same box in the input image, px.
        visible: (N,) bool, whether the box exists.
        sigma: (N, 2) standard deviation of the box's position along u (right) and v (down) in the input image, px. None
            unless `Input.uncertain` is set.
        other_box: (N, 4) box of the other finger in the input image, px. None unless `Input.other_finger` is set.
    """

    frame_box: np.ndarray
    box: np.ndarray
    visible: np.ndarray
    sigma: np.ndarray | None
    other_box: np.ndarray | None


@dataclass(frozen=True)
class TouchFacts:
    """Facts about one touch sensor in N moments.

    Attributes:
        contact: (N,) bool, whether the sensor touches something.
        contact_index: (N,) int64, index of the contact in the episode; -1 without contact.
        opening: (N, 2) distance of each finger from the tool axis, m. None for an arm without a gripper.
    """

    contact: np.ndarray
    contact_index: np.ndarray
    opening: np.ndarray | None


def moment_facts(episode: Episode, rig: Rig, inputs: Sequence[Input]) -> dict[str, np.ndarray]:
    """Return the facts about all moments of an episode, by their names in the files of the cache.

    The names are qpos, action, FIELD/KEY for each field of `ViewFacts` (KEY is the key of the view), and FIELD/SENSOR
    for each field of `TouchFacts` (SENSOR is the name of the sensor). Where `Input.contacts` is set, FIELD/KEY for each
    field of `Ahead` follow, in px of the input image.

    Raises:
        InputError: The joints or gripper readings do not fit the rig. The message states the file and the key.
    """
    qpos = episode.qpos
    facts: dict[str, np.ndarray] = {"qpos": qpos, "action": episode.action}
    streams = {entry.stream for entry in inputs}
    sensors = {entry.sensor for entry in inputs if entry.sensor is not None}
    sensors |= {name for name, sensor in rig.sensors.items() if sensor.stream in streams}
    with _named(episode):
        contact = {name: contact_flags(episode, rig, rig.sensor(name).stream) for name in sorted(sensors)}
    for name, flags in contact.items():
        facts[f"contact/{name}"] = flags
        facts[f"contact_index/{name}"] = contacts(flags)
    # A commanded opening is held while any sensor of the hand is in contact, even one that belongs to no view.
    hands = {name: arm for name in sorted(sensors) if (arm := hand_of(rig, name))}
    holding = {name for arm in hands.values() for name in hold_sensors(rig, arm)}
    with _named(episode):
        contact |= recorded_contact(episode, rig, sorted(holding - sensors))
    for name, arm in hands.items():
        with _named(episode):
            facts[f"opening/{name}"] = held_opening(rig, arm, qpos, contact)
    for entry in inputs:
        if entry.sensor is None:
            continue
        with _named(episode):
            view = episode_boxes(rig, entry.stream, entry.sensor, qpos, contact, episode.fps, ahead_m=entry.ahead_m)
            boxes, visible = view.boxes.box, view.boxes.visible
        if entry.uncertain:
            boxes, visible = only_certain(boxes, visible, view.sigma_px)
        width, height = episode.width_height(entry.stream)
        maps = [entry.image_map(width, height, box) for box in boxes]
        arrays = {"frame_box": boxes, "visible": visible, "box": _mapped(maps, boxes)}
        if entry.uncertain:
            arrays["sigma"] = np.stack([np.abs(m.scale) * s for m, s in zip(maps, view.sigma_px, strict=True)])
        if entry.other_finger:
            arrays["other_box"] = _mapped(maps, view.other_finger.box)
        if entry.contacts:
            ahead = contacts_ahead(
                view, qpos, contact[entry.sensor], horizon=entry.horizon, most=entry.contacts, complete=entry.complete
            )
            arrays |= vars(ahead.through(entry.image_map(width, height)))
        facts |= {f"{name}/{entry.key}": array for name, array in arrays.items()}
    return facts


def _mapped(maps: Sequence[ImageMap], boxes: Array) -> np.ndarray:
    return np.stack([image_map.apply_to_box(box) for image_map, box in zip(maps, boxes, strict=True)])


def only_certain(box: Array, visible: Array, sigma: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (..., 4), and one bool for each box: whether it exists. A box with a nan in `sigma` becomes nan.

    `sigma` (..., 2) is the standard deviation of each box's position; nan if it is unknown. `visible` contains one bool
    for each box: whether it exists before this check.
    """
    known = np.asarray(visible) & np.isfinite(sigma).all(axis=-1)
    return np.where(known[..., None], np.asarray(box), np.nan), known


@contextmanager
def _named(episode: Episode) -> Iterator[None]:
    """Context that adds the file, and the key of joints that do not fit, to the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(episode.about(error)) from error
