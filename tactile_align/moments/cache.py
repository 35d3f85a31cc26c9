"""The cache of prepared episodes: facts of all moments, and frames packed at the model's input size.

A prepared episode is a sub-folder of the cache folder, named by a hash of everything it depends on: the file, the rig
and the inputs. It is written under a temporary name and renamed when whole; remains of a killed process are removed at
the next start.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from tqdm import tqdm

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, EpisodeRef, open_episode
from tactile_align.datasets.layout import load_layout
from tactile_align.errors import InputError
from tactile_align.files import clear_parts, part_of
from tactile_align.kinematics.arm import Arm
from tactile_align.moments.facts import moment_facts
from tactile_align.moments.frames import frame_of, input_image, reference_of
from tactile_align.moments.inputs import Input
from tactile_align.projection.episode_boxes import require_rig_size
from tactile_align.workers import in_processes

MAX_MAPS = 128  # each holds a file descriptor; macOS grants a process 256

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values used last, each made at its first use; a copy in another process starts empty."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"at least one value must be kept; got limit {limit}")
        self.limit = limit
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value at `key`, from `make()` where it is not kept; the least recently used one is dropped."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def __reduce__(self) -> tuple[type["Recent[K, V]"], tuple[int]]:
        return type(self), (self.limit,)


def write_packed(path: Path, frames: Iterable[np.ndarray], shape: tuple[int, int, int, int]) -> None:
    """Write T frames as one uint8 array of `shape` (T, height, width, 3) in NumPy's file format.

    Written row by row, not through a memory map: on a full disk a map ends the process with a bus error.
    """
    with path.open("wb") as handle:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)
        for frame in frames:
            handle.write(np.ascontiguousarray(frame, dtype=np.uint8).data)
        handle.flush()
        os.fsync(handle.fileno())


def open_packed(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return the frames as a read-only memory map.

    Raises:
        InputError: Missing, cut short or of another shape.
    """
    try:
        frames: np.ndarray = np.load(path, mmap_mode="r")
        if frames.shape == shape and frames.dtype == np.uint8:
            return frames
        content = f"{frames.dtype} {frames.shape}"
    except (OSError, ValueError, EOFError) as error:
        content = " ".join(str(error).split())
    raise InputError(
        f"{path}: must hold packed frames, uint8 {shape}; got {content}. "
        f"The cache was changed from outside: delete {path.parent} and run again"
    )


FORMAT = 3
"""Part of a prepared episode's key: raise it whenever its facts, frames or boxes change."""
REFERENCE = "reference/"  # facts that hold one image for the whole episode
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass(frozen=True)
class Job:
    """One episode to prepare.

    Attributes:
        ref: The episode.
        rig: The rig that holds for it.
        inputs: The inputs of the model.
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
            # The contents of layouts and arms, not their names: a lab corrects its files.
            "layout": None if self.ref.layout is None else load_layout(self.ref.layout).model_dump(mode="json"),
            "rig": self.rig.model_dump(mode="json", exclude={"verified", "override"}),
            "arms": {name: _steps(mounted.arm) for name, mounted in self.rig.arms.items()},
            # An option that is off leaves the name as it was before the option was there.
            "inputs": [{k: v for k, v in asdict(entry).items() if v is None or v} for entry in self.inputs],
            "packed": self.packed,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _steps(arm: Arm) -> list[object]:
    """Return what forward kinematics needs of an arm, as plain values."""
    return [arm.T_link_joint.tolist(), arm.T_link_flange.tolist(), list(arm.prismatic)]


def prepare(jobs: Sequence[Job], cache: Path, processes: int = 1, progress: bool = True) -> list[Path]:
    """Prepare episodes, several at a time, and return their folders in the order of the jobs.

    Episodes that are in the cache already are not touched.

    Raises:
        EpisodeError, ValueError: The first fault found, naming file, key and row.
        OSError: The disk is full.
        ChildProcessError: A process was ended from outside.
    """
    cache.mkdir(parents=True, exist_ok=True)
    clear_parts(cache)
    work = partial(prepare_one, cache=cache)
    alone = processes <= 1 or len(jobs) <= 2
    folders = map(work, jobs) if alone else in_processes(work, jobs, processes)
    return list(tqdm(folders, "preparing episodes", len(jobs), unit="episode", disable=not progress))


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
        facts = moment_facts(episode, job.rig, job.inputs)
        for entry in job.inputs:
            if entry.difference:
                facts[f"{REFERENCE}{entry.key}"] = reference_of(episode, entry, facts[f"contact/{entry.key}"])
        for entry in job.inputs if job.packed else ():
            frames = (input_frame(episode, entry, t, facts) for t in range(len(episode)))
            write_packed(folder / f"{entry.key}.npy", frames, (len(episode), entry.height, entry.width, 3))
    with (folder / "facts.npz").open("wb") as handle:
        np.savez(handle, **facts)  # type: ignore[arg-type]  # the stub takes no dict of arrays
        handle.flush()
        os.fsync(handle.fileno())


def input_frame(episode: Episode, entry: Input, t: int, facts: dict[str, np.ndarray]) -> np.ndarray:
    """Return moment t of an input, (height, width, 3) uint8: see `frame_of` and `input_image`."""
    return input_image(entry, frame_of(episode, entry, t, facts), lambda: facts[f"{REFERENCE}{entry.key}"])


def _require_streams(episode: Episode, job: Job) -> None:
    have = (*episode.cameras, *episode.sensors)
    for entry in job.inputs:
        if entry.stream not in have:
            raise InputError(
                f"{episode.ref}: has no stream '{entry.stream}', which input '{entry.key}' needs; it has "
                f"{', '.join(have)}. Name another camera or sensor in the config"
            )
        if entry.stream in job.rig.cameras:
            require_rig_size(episode, job.rig, entry.stream)
