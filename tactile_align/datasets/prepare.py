"""Work an episode through once: boxes, contact, and frames packed at the size the model takes.

What comes out lies in a cache folder, one sub-folder an episode, named by a hash of everything it depends on:
the file, the rig and the inputs. It is built under a temporary name and renamed when whole; what a killed
process left under such a name goes when the next one starts.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.contact import contact_of, contacts
from tactile_align.datasets.episodes import Episode, EpisodeRef, open_episode
from tactile_align.datasets.frames import frame_of
from tactile_align.datasets.inputs import Input
from tactile_align.datasets.layout import load_layout
from tactile_align.datasets.packed import write_packed
from tactile_align.datasets.reference import difference, reference_of
from tactile_align.files import clear_parts, part_of
from tactile_align.geometry.frames import Array
from tactile_align.kinematics.arm import Arm
from tactile_align.kinematics.gripper import opening_in_contact
from tactile_align.projection.other_finger import other_finger_boxes
from tactile_align.projection.sensor_box import SensorBoxes, sensor_boxes
from tactile_align.projection.uncertainty import pixel_sigma
from tactile_align.workers import in_processes

FORMAT = 2
REFERENCE = "reference/"  # facts that hold one image for the whole episode
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass(frozen=True)
class Job:
    """One episode to prepare.

    Attributes:
        ref: The episode.
        rig: The rig that holds for it.
        inputs: What the model looks at.
        packed: Whether frames are stored at the inputs' sizes, or decoded again whenever they are used.
    """

    ref: EpisodeRef
    rig: Rig
    inputs: tuple[Input, ...]
    packed: bool

    def key(self) -> str:
        """Return the hash of everything the prepared episode depends on."""
        stat = self.ref.path.stat()
        facts = {
            "format": FORMAT,
            "file": [str(self.ref.path.resolve()), self.ref.group, stat.st_size, stat.st_mtime_ns],
            # Names of layouts and arms do not tell what their files say: a lab corrects them.
            "layout": None if self.ref.layout is None else load_layout(self.ref.layout).model_dump(mode="json"),
            "rig": self.rig.model_dump(mode="json", exclude={"verified", "override"}),
            "arms": {name: _steps(entry.arm) for name, entry in self.rig.arms.items()},
            # An option that is off leaves the name as it was before the option was there.
            "inputs": [{k: v for k, v in asdict(one).items() if v is not False} for one in self.inputs],
            "packed": self.packed,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _steps(arm: Arm) -> list[object]:
    """Return all that forward kinematics takes of an arm, as plain values."""
    return [arm.T_link_joint.tolist(), arm.T_link_flange.tolist(), list(arm.prismatic)]


def prepare(jobs: Sequence[Job], cache: Path, processes: int = 1, progress: bool = True) -> list[Path]:
    """Prepare episodes, several at a time, and return their folders in the order of the jobs.

    Episodes that are in the cache already are not touched.

    Raises:
        EpisodeError, ValueError: The first fault found, naming file, key and row.
        OSError: The disk is full.
        RuntimeError: A process was ended from outside.
    """
    cache.mkdir(parents=True, exist_ok=True)
    clear_parts(cache)
    bar = tqdm(total=len(jobs), desc="preparing episodes", unit="episode", disable=not progress)
    folders = []
    with bar:
        if processes <= 1 or len(jobs) <= 2:
            for job in jobs:
                folders.append(prepare_one(job, cache))
                bar.update()
            return folders
        for folder in in_processes(partial(prepare_one, cache=cache), jobs, processes):
            folders.append(folder)
            bar.update()
    return folders


def prepare_one(job: Job, cache: Path) -> Path:
    """Prepare one episode and return its folder."""
    folder = cache / job.key()
    if folder.is_dir():
        return folder
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        _fill(job, part)
        part.replace(folder)
    except OSError as error:
        if error.errno in _NO_ROOM:
            free = shutil.disk_usage(cache).free
            raise OSError(
                f"{cache}: preparing {job.ref} needs more room than the disk has ({error.strerror}, "
                f"{free / 1e6:,.0f} MB free). Make room, set `cache` to another disk, or packed = false"
            ) from error
        if not folder.is_dir():  # else another process finished the same episode first
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _fill(job: Job, folder: Path) -> None:
    with open_episode(job.ref) as episode:
        _require_streams(episode, job)
        facts = _facts(episode, job)
        for one in job.inputs:
            if one.difference:
                facts[f"{REFERENCE}{one.key}"] = reference_of(episode, one, facts[f"contact/{one.key}"])
        for one in job.inputs if job.packed else ():
            frames = (seen_frame(episode, one, t, facts) for t in range(len(episode)))
            write_packed(folder / f"{one.key}.npy", frames, (len(episode), one.height, one.width, 3))
    with (folder / "facts.npz").open("wb") as handle:
        np.savez(handle, **facts)  # type: ignore[arg-type]  # the stub takes no dict of arrays
        handle.flush()
        os.fsync(handle.fileno())


def seen_frame(episode: Episode, one: Input, t: int, facts: dict[str, np.ndarray]) -> np.ndarray:
    """Return moment t of an input as the model sees it, (height, width, 3) uint8: see `frame_of` and `difference`."""
    frame = frame_of(episode, one, t, facts)
    return difference(frame, facts[f"{REFERENCE}{one.key}"]) if one.difference else frame


def _require_streams(episode: Episode, job: Job) -> None:
    have = (*episode.cameras, *episode.sensors)
    for one in job.inputs:
        if one.stream not in have:
            raise ValueError(
                f"{episode.ref}: has no stream '{one.stream}', which input '{one.key}' needs; it has "
                f"{', '.join(have)}. Name another camera or sensor in the config"
            )
        if one.stream in job.rig.cameras:
            require_rig_size(episode, job.rig, one.stream)


def require_rig_size(episode: Episode, rig: Rig, camera: str) -> None:
    """Refuse an episode whose frames have another size than the rig's camera says.

    Raises:
        ValueError: Names file, stream and both sizes.
    """
    stored, found = rig.camera(camera).stored, episode.width_height(camera)
    if found != (stored.width, stored.height):
        raise ValueError(
            f"{episode.ref}: {episode.stream(camera).key} holds {found[0]}x{found[1]} frames but rig "
            f"{rig.name} "
            f"states {stored.width}x{stored.height} for camera '{camera}' (width x height, after image_map). "
            "A box "
            f"would land in the wrong place: give the camera the image_map of what the recorder did"
        )


def _facts(episode: Episode, job: Job) -> dict[str, np.ndarray]:
    """Return the arrays that hold for each moment of the episode, by name."""
    rig, qpos = job.rig, episode.qpos
    facts: dict[str, np.ndarray] = {"qpos": qpos, "action": episode.action}
    sensors = {one.sensor for one in job.inputs if one.sensor is not None}
    sensors |= {name for name, sensor in rig.sensors.items() if any(sensor.stream == one.stream for one in job.inputs)}
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
    for one in job.inputs:
        if one.sensor is None:
            continue
        stands = facts.get(f"opening/{one.sensor}")
        found = boxes_of(rig, one.stream, one.sensor, episode, stands)
        seen, visible = found.box, found.visible
        sigma = None
        if one.uncertain:
            sigma = pixel_sigma(rig, one.stream, one.sensor, _at_exposure(rig, one.stream, episode), stands)
            seen, visible = only_certain(seen, visible, sigma)
        facts[f"frame_box/{one.key}"] = seen
        facts[f"visible/{one.key}"] = visible
        width, height = episode.width_height(one.stream)
        maps = [one.image_map(width, height, box) for box in seen]
        facts[f"box/{one.key}"] = np.stack([m.apply_to_box(b) for m, b in zip(maps, seen, strict=True)])
        if sigma is not None:
            facts[f"sigma/{one.key}"] = np.stack([np.abs(m.scale) * s for m, s in zip(maps, sigma, strict=True)])
        if one.other_finger:
            other = other_finger_boxes(rig, one.stream, one.sensor, _at_exposure(rig, one.stream, episode), stands)
            facts[f"other_box/{one.key}"] = np.stack([m.apply_to_box(b) for m, b in zip(maps, other.box, strict=True)])
    return facts


def only_certain(box: Array, visible: Array, sigma: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (..., 4) and whether they exist (...), without those whose uncertainty (..., 2) is not known."""
    known = np.asarray(visible) & np.isfinite(sigma).all(axis=-1)
    return np.where(known[..., None], np.asarray(box), np.nan), known


def boxes_of(rig: Rig, camera: str, sensor: str, episode: Episode, opening: np.ndarray | None) -> SensorBoxes:
    """Return a sensor's boxes in every frame of an episode; errors name the file."""
    with _named(episode):
        return sensor_boxes(rig, camera, sensor, _at_exposure(rig, camera, episode), opening)


@contextmanager
def _named(episode: Episode) -> Iterator[None]:
    """Say of which file and key the joints or gripper readings were that geometry refused."""
    try:
        yield
    except ValueError as error:
        key = f"/{episode.ref.group}/{episode.layout.state.qpos[0]}".replace("//", "/")
        raise ValueError(f"{episode.ref}: {key}: {error}") from error


def _at_exposure(rig: Rig, camera: str, episode: Episode) -> np.ndarray:
    """Return qpos when the frames of a camera were exposed: `delay_s` after the row's joints were read."""
    delay = rig.camera(camera).delay_s
    if delay == 0.0:
        return episode.qpos
    if episode.fps is None:
        raise ValueError(
            f"camera '{camera}' has delay_s = {delay}, which needs the recording's rate; "
            f"state fps in the layout file or in the episode's attributes"
        )
    rows = np.arange(len(episode), dtype=np.float64)
    shifted = np.clip(rows + delay * episode.fps, 0, len(episode) - 1)
    return np.stack([np.interp(shifted, rows, column) for column in episode.qpos.T], axis=-1)
