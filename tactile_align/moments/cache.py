"""Cache of prepared episodes: facts about all moments (joints, boxes, contacts), and decoded frames.

The decoded frames of an input are packed into one file, at the model's input size.

A prepared episode is a sub-folder of the cache folder. The name of the sub-folder is a hash of everything on which its
content depends: the episode file, the rig and the inputs. The sub-folder is written under a temporary name and renamed
when it is complete. Files that a killed process left behind are removed at the next start.
"""

import hashlib
import io
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, EpisodeRef, open_episode, row_count
from tactile_align.datasets.handles import Stamp
from tactile_align.datasets.layout import NoContact, load_layout
from tactile_align.errors import EpisodeError, InputError
from tactile_align.files import NO_ROOM, clear_parts, part_of, read_text, write_text_atomically
from tactile_align.kinematics.arm import Arm
from tactile_align.moments.facts import moment_facts
from tactile_align.moments.inputs import Input, frame_of, input_image, reference_of
from tactile_align.projection.episode_boxes import require_rig_size
from tactile_align.workers import in_processes

logger = logging.getLogger(__name__)


def write_packed(path: Path, frames: Iterable[np.ndarray], shape: tuple[int, int, int, int]) -> None:
    """Write frames (height, width, 3) to one file in NumPy's format: a uint8 array of `shape` (T, height, width, 3).

    T is the number of frames.

    The file is not written through a memory map: on a full disk, a memory map kills the process with a bus error.
    """
    with path.open("wb") as handle:
        handle.write(_header(shape))
        for frame in frames:
            handle.write(np.ascontiguousarray(frame, dtype=np.uint8).data)
        handle.flush()
        os.fsync(handle.fileno())


def read_packed(path: Path, shape: tuple[int, int, int, int], t: int) -> np.ndarray:
    """Return frame number t, (height, width, 3) uint8, of a file that `write_packed` wrote with the same `shape`.

    The file is opened for this one read, so any number of episodes can be read in turn.

    Raises:
        InputError: The file is missing or truncated, or contains another shape.
    """
    header, frame = _header(shape), np.empty(shape[1:], np.uint8)
    try:
        with path.open("rb", buffering=0) as handle:
            whole = os.fstat(handle.fileno()).st_size == len(header) + math.prod(shape)
            if whole and handle.read(len(header)) == header:
                handle.seek(t * frame.nbytes, os.SEEK_CUR)
                if handle.readinto(frame.data) == frame.nbytes:
                    return frame
        frames = np.load(path, mmap_mode="r")
        content = f"{frames.dtype} {frames.shape}"
    except (FileNotFoundError, ValueError, EOFError) as error:
        content = " ".join(str(error).split())
    raise InputError(
        f"{path}: expected frames of shape {shape} and dtype uint8; found {content}. "
        f"The cache is damaged: delete {path.parent} and run again"
    )


@cache
def _header(shape: tuple[int, int, int, int]) -> bytes:
    """Return the header of a file in NumPy's format with uint8 values of a shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


FORMAT = 7
"""Version of the cache, part of `Job.key`. Raise it whenever the computation of facts, frames or boxes changes."""
NAMES = {"state": {"action_is", "qpos_names", "action_names", "qpos_units", "action_units"}}
"""Keys of a layout that change no prepared episode."""
CONTENT = "content.sha256"  # file with the content hash of the episode
REFERENCE = "reference/"  # prefix of facts that are one image for the whole episode


@dataclass(frozen=True)
class Job:
    """Task to prepare one episode for the cache.

    Attributes:
        ref: Reference to the episode.
        rig: Rig that recorded the episode.
        inputs: Inputs of the model.
        packed: Whether frames are stored at the sizes of the inputs. Otherwise they are decoded at each use.
    """

    ref: EpisodeRef
    rig: Rig
    inputs: tuple[Input, ...]
    packed: bool

    def key(self) -> str:
        """Return the hash of everything on which the prepared episode depends."""
        stamp = Stamp.of_episode(self.ref.path, self.ref.group)
        layout = None if self.ref.layout is None else load_layout(self.ref.layout)
        places = [] if layout is None else [layout.touches.no_contact]
        places += [sensor.no_contact for sensor in self.rig.sensors.values()]
        rig = self.rig.model_dump(mode="json", exclude={"verified", "fitted", "override"})
        for sensor in rig["sensors"].values():
            sensor.get("no_contact", {}).pop("file", None)  # a copy of the file has another path
        facts: dict[str, object] = {
            "format": FORMAT,
            "file": [str(self.ref.path.resolve()), self.ref.group, stamp.length, stamp.modified_ns],
            # The contents of layouts, arms and references, not their names, because a lab may correct its files.
            "layout": None if layout is None else layout.model_dump(mode="json", exclude=NAMES),
            "rig": rig,
            "arms": {name: _steps(mounted.arm) for name, mounted in self.rig.arms.items()},
            # Options that are off are left out, so that a new option does not change existing hashes.
            # A window reads the frames of several moments, so it changes nothing in the cache.
            "inputs": [
                {k: v for k, v in asdict(entry).items() if (v is None or v) and k != "earlier"} for entry in self.inputs
            ],
            "packed": self.packed,
        }
        if references := [_content(place) for place in places if place is not None]:
            facts["references"] = references
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _content(place: NoContact) -> str | list[str | int] | None:
    """Return what identifies the content of a no-contact reference's file; None if no file is named or it is missing.

    It is the hash of an image's pixels. Of an episode, which may be large, it is its group in the file, and the size
    and the time of the last change of the file.
    """
    if place.file is None:
        return None
    file, _, group = (place.file, "", "") if place.is_image else place.file.partition("#")
    path = Path(file)
    if not path.exists():
        return None
    if place.is_image:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return hashlib.sha256(path.read_bytes() if image is None else image.tobytes()).hexdigest()
    stamp = Stamp.of(path)
    return [group, stamp.length, stamp.modified_ns]


def _steps(arm: Arm) -> list[object]:
    """Return the values of an arm that forward kinematics uses, as JSON types."""
    return [arm.T_link_joint.tolist(), arm.T_link_flange.tolist(), list(arm.prismatic)]


def prepare(jobs: Sequence[Job], cache: Path, processes: int = 1, progress: bool = True) -> list[Path]:
    """Prepare the episodes that are not yet in the cache, and return the folders of all episodes in order of `jobs`.

    Args:
        jobs: Episodes to prepare.
        cache: Folder of the cache; created if it does not exist.
        processes: Number of processes that prepare episodes at the same time.
        progress: Whether to show a progress bar on stderr.

    Raises:
        EpisodeError, ValueError: An episode does not fit its rig or inputs. The message states file, key and row of the
            first error that was found.
        OSError: The disk is full, or has less room than the frames need.
        ChildProcessError: A process was killed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    clear_parts(cache)
    folders = [cache / job.key() for job in jobs]
    missing = [i for i, folder in enumerate(folders) if not folder.is_dir()]
    todo = [jobs[i] for i in missing]
    _require_room(todo, cache)
    work = partial(prepare_one, cache=cache)
    alone = processes <= 1 or len(todo) <= 2
    prepared = map(work, todo) if alone else in_processes(work, todo, processes)
    bar = tqdm(prepared, "preparing episodes", len(todo), unit="episode", disable=not progress)
    for i, folder in zip(missing, bar, strict=True):
        folders[i] = folder
    return folders


def packed_bytes(job: Job) -> int:
    """Return the size of the packed frames of a prepared episode, bytes; 0 if they are not packed.

    Raises:
        EpisodeError: The episode cannot be read.
    """
    if not job.packed:
        return 0
    rows = row_count(job.ref)
    shapes = [(rows, entry.height, entry.width, 3) for entry in job.inputs]
    return sum(len(_header(shape)) + math.prod(shape) for shape in shapes)


def _require_room(jobs: Sequence[Job], cache: Path) -> None:
    needed = 0
    for job in jobs:
        with suppress(EpisodeError):  # preparing the episode names the fault
            needed += packed_bytes(job)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise OSError(
            f"{cache}: the packed frames of {len(jobs)} episodes need {needed / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB "
            f"are free. Free some space, set `cache` to another disk, or set packed = false"
        )
    if needed:
        logger.info(f"the packed frames of {len(jobs)} episodes need {needed / 1e6:,.1f} MB in {cache}")


def prepare_one(job: Job, cache: Path) -> Path:
    """Prepare one episode, unless it is in the cache already, and return its folder."""
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
        if error.errno in NO_ROOM:
            free = shutil.disk_usage(cache).free
            raise OSError(
                f"{cache}: not enough disk space to prepare {job.ref} ({error.strerror}, {free / 1e6:,.0f} MB free). "
                f"Free some space, set `cache` to another disk, or set packed = false"
            ) from error
        if not folder.is_dir():  # otherwise another process finished the same episode first
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _fill(job: Job, folder: Path) -> None:
    with open_episode(job.ref) as episode:
        _require_streams(episode, job)
        facts = moment_facts(episode, job.rig, job.inputs)
        for entry in job.inputs:
            if entry.difference:
                facts[f"{REFERENCE}{entry.key}"] = reference_of(episode, entry, facts[f"contact/{entry.key}"])
        for entry in job.inputs if job.packed else ():
            frames = (input_frame(episode, entry, t, facts) for t in range(len(episode)))
            write_packed(folder / f"{entry.key}.npy", frames, (len(episode), entry.height, entry.width, 3))
        write_text_atomically(folder / CONTENT, episode.content_hash())
    with (folder / "facts.npz").open("wb") as handle:
        np.savez(handle, **facts)  # type: ignore[arg-type]  # the stub does not accept a dict of arrays
        handle.flush()
        os.fsync(handle.fileno())


def input_frame(episode: Episode, entry: Input, t: int, facts: dict[str, np.ndarray]) -> np.ndarray:
    """Return the image of an input at frame number t, (height, width, 3) uint8; see `frame_of`, `input_image`."""
    return input_image(entry, frame_of(episode, entry, t, facts), lambda: facts[f"{REFERENCE}{entry.key}"])


def content_hash_of(folder: Path) -> str:
    """Return `Episode.content_hash` of the episode that is prepared in a folder of the cache.

    Raises:
        InputError: The file with the hash is missing or empty.
    """
    file = folder / CONTENT
    text = read_text(file) if file.is_file() else ""
    if not text:
        raise InputError(f"{file}: found no hash of the episode. The cache is damaged: delete {folder} and run again")
    return text


def _require_streams(episode: Episode, job: Job) -> None:
    have = (*episode.cameras, *episode.sensors)
    for entry in job.inputs:
        if entry.stream not in have:
            raise InputError(
                f"{episode.ref}: the episode has no stream '{entry.stream}', which the input '{entry.key}' of the "
                f"model needs; streams of the episode: {', '.join(have)}. Choose another camera or sensor in the "
                f"config"
            )
        if entry.stream in job.rig.cameras:
            require_rig_size(episode, job.rig, entry.stream)
