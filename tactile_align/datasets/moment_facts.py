"""What is worked out once for every moment of an episode: contact, opening of the gripper, boxes of the sensors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.contact import contact_of, contacts
from tactile_align.datasets.episodes import Episode
from tactile_align.datasets.exposure import qpos_at_exposure
from tactile_align.datasets.inputs import Input
from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.kinematics.gripper import opening_in_contact
from tactile_align.projection.other_finger import other_finger_boxes
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.projection.uncertainty import pixel_sigma


def moment_facts(episode: Episode, rig: Rig, inputs: Sequence[Input]) -> dict[str, np.ndarray]:
    """Return the arrays that hold for each moment of the episode, by name."""
    qpos = episode.qpos
    facts: dict[str, np.ndarray] = {"qpos": qpos, "action": episode.action}
    sensors = {one.sensor for one in inputs if one.sensor is not None}
    sensors |= {name for name, sensor in rig.sensors.items() if any(sensor.stream == one.stream for one in inputs)}
    for name in sorted(sensors):
        sensor = rig.sensor(name)
        touches = (episode.image(sensor.stream, t) for t in range(len(episode)))
        flags = contact_of(touches).flags
        facts[f"contact/{name}"] = flags
        facts[f"contact_index/{name}"] = contacts(flags)
        arm = rig.sensor_arm(name)
        if arm and rig.arms[arm].gripper is not None:
            with _named(episode):
                facts[f"opening/{name}"] = opening_in_contact(rig, arm, qpos, flags)
    for one in inputs:
        if one.sensor is None:
            continue
        stands = facts.get(f"opening/{one.sensor}")
        with _named(episode):
            then = qpos_at_exposure(rig, one.stream, qpos, episode.fps)
            found = sensor_boxes(rig, one.stream, one.sensor, then, stands, ahead_m=one.ahead_m)
        seen, visible = found.box, found.visible
        sigma = None
        if one.uncertain:
            sigma = pixel_sigma(rig, one.stream, one.sensor, then, stands, one.ahead_m)
            seen, visible = only_certain(seen, visible, sigma)
        facts[f"frame_box/{one.key}"] = seen
        facts[f"visible/{one.key}"] = visible
        width, height = episode.width_height(one.stream)
        maps = [one.image_map(width, height, box) for box in seen]
        facts[f"box/{one.key}"] = np.stack([m.apply_to_box(b) for m, b in zip(maps, seen, strict=True)])
        if sigma is not None:
            facts[f"sigma/{one.key}"] = np.stack([np.abs(m.scale) * s for m, s in zip(maps, sigma, strict=True)])
        if one.other_finger:
            other = other_finger_boxes(rig, one.stream, one.sensor, then, stands)
            facts[f"other_box/{one.key}"] = np.stack([m.apply_to_box(b) for m, b in zip(maps, other.box, strict=True)])
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
    except ValueError as error:
        key = f"/{episode.ref.group}/{episode.layout.state.qpos[0]}".replace("//", "/")
        raise InputError(f"{episode.ref}: {key}: {error}") from error
