"""Torch Dataset of moments. A moment is one synchronised instant of an episode, with images, joints and actions."""

import copy
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tactile_align.datasets.episodes import Episode, open_episode
from tactile_align.errors import InputError
from tactile_align.files import read_npz
from tactile_align.moments.batch import MomentBatch, TouchBatch, ViewBatch
from tactile_align.moments.cache import REFERENCE, Job, content_hash_of, prepare, read_packed
from tactile_align.moments.facts import TouchFacts, ViewFacts
from tactile_align.moments.inputs import Input, frame_of, input_image, window
from tactile_align.moments.normalisation import Statistics

Facts = TypeVar("Facts", ViewFacts, TouchFacts)


class Moments(Dataset[MomentBatch]):
    """Dataset of all moments of the given episodes.

    Small arrays are kept in memory. Frames are read from the cache or decoded at each use, at a cost that does not
    depend on the number of episodes. Forked and spawned workers open the files themselves.

    Args:
        jobs: Episodes with their rigs and inputs.
        chunk: Number of actions of one moment: its own action and the following ones.
        cache: Folder of the prepared episodes.
        processes: Number of processes that prepare episodes at the same time.
        progress: Whether to show a progress bar on stderr.

    Attributes:
        statistics: Statistics that normalise qpos and action. None: both are returned as recorded. See `normalised`.
        views: `ViewFacts` about all N moments, by the key of the view.
        touches: `TouchFacts` about all N moments, by sensor name.
        hashes: `Episode.content_hash` of each episode.

    Raises:
        InputError: There is no episode, or the episodes differ in their columns, sensors or grippers.
    """

    def __init__(
        self, jobs: Sequence[Job], *, chunk: int, cache: Path, processes: int = 1, progress: bool = True
    ) -> None:
        if not jobs:
            raise InputError("no episodes were given; a dataset needs at least one. Check the path in [[data]]")
        self.jobs, self.chunk = tuple(jobs), chunk
        self.statistics: Statistics | None = None
        self.folders = prepare(jobs, cache, processes, progress)
        self.hashes = tuple(content_hash_of(folder) for folder in self.folders)
        self._facts = []
        for folder in self.folders:
            stored = read_npz(folder / "facts.npz", f"Delete {folder} and run again")
            self._facts.append({name: array for name, array in stored.items() if not name.startswith(REFERENCE)})
        widths = {(f["qpos"].shape[1], f["action"].shape[1]) for f in self._facts}
        if len(widths) != 1:
            raise InputError(
                f"the episodes differ in their numbers of (qpos, action) columns: "
                f"{', '.join(map(str, sorted(widths)))}. All episodes must have equal numbers. Use only episodes of "
                f"one robot"
            )
        for job, facts in zip(self.jobs, self._facts, strict=True):
            if set(facts) != set(self._facts[0]):
                only = ", ".join(sorted(set(facts) ^ set(self._facts[0])))
                raise InputError(
                    f"{job.ref} and {self.jobs[0].ref} differ in: {only}. All episodes need the same sensors and "
                    f"grippers. Use only rigs with the same sensors and grippers"
                )
        lengths = [len(f["qpos"]) for f in self._facts]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        names = sorted(set(self._facts[0]) - {"qpos", "action"})
        table = {name: np.concatenate([f[name] for f in self._facts]) for name in names}
        keys = (entry.key for entry in self.jobs[0].inputs if entry.sensor is not None)
        self.views = {key: _facts(ViewFacts, table, key) for key in keys}
        sensors = (name.removeprefix("contact/") for name in names if name.startswith("contact/"))
        self.touches = {sensor: _facts(TouchFacts, table, sensor) for sensor in sensors}
        self._episodes: dict[int, Episode] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def state_width(self) -> tuple[int, int]:
        """(number of columns of qpos, number of columns of action)."""
        first = self._facts[0]
        return first["qpos"].shape[1], first["action"].shape[1]

    @property
    def episode(self) -> np.ndarray:
        """(N,) index of the episode of each of the N moments."""
        return np.repeat(np.arange(len(self.jobs)), np.diff(self._starts))

    @property
    def time(self) -> np.ndarray:
        """(N,) frame number of each of the N moments in its episode."""
        return np.arange(len(self)) - self._starts[self.episode]

    def low_dim(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return qpos (T, D) and action (T, A) of the T moments of each episode, as recorded, not normalised."""
        return [(facts["qpos"], facts["action"]) for facts in self._facts]

    def last_actions(self, first: np.ndarray) -> np.ndarray:
        """Return the action before each of N moments, (N, A) as recorded; at the start of an episode `first` (A,)."""
        return np.concatenate([np.vstack([first, facts["action"][:-1]]) for facts in self._facts])

    def normalised(self, statistics: Statistics) -> "Moments":
        """Return a dataset of the same moments with qpos and action normalised by `statistics`.

        Use the statistics of the training episodes. No episode is prepared or read again.
        """
        other = copy.copy(self)
        other.statistics = statistics
        return other

    def __getitem__(self, index: int) -> MomentBatch:
        return self.batch([index])

    def __getitems__(self, indices: Sequence[int]) -> MomentBatch:
        return self.batch(indices)

    def batch(self, indices: Sequence[int] | np.ndarray) -> MomentBatch:
        """Return the batch of the moments with the given indices, in this order."""
        chosen = np.asarray(indices)
        episode = np.searchsorted(self._starts, chosen, side="right") - 1
        time = chosen - self._starts[episode]
        raw = np.stack([self._facts[e]["qpos"][t] for e, t in zip(episode, time, strict=True)])
        qpos, (action, is_pad) = raw, self._chunks(episode, time)
        if self.statistics is not None:
            qpos, action = self.statistics.normalise_qpos(qpos), self.statistics.normalise_action(action)
        views, touches, frames = {}, {}, {}
        for entry in self.jobs[0].inputs:
            images = [self._window(int(e), entry, int(t)) for e, t in zip(episode, time, strict=True)]
            image = torch.from_numpy(np.stack(images))
            if entry.key in self.views:
                views[entry.key] = ViewBatch(image=image, **_rows(self.views[entry.key], chosen))
            elif entry.key in self.touches:
                touches[entry.key] = TouchBatch(image=image, **_rows(self.touches[entry.key], chosen))
            else:
                frames[entry.stream] = image
        return MomentBatch(
            qpos=torch.from_numpy(qpos.astype(np.float32)),
            views=views,
            touches=touches,
            frames=frames,
            qpos_raw=torch.from_numpy(raw),
            action=torch.from_numpy(action.astype(np.float32)),
            is_pad=torch.from_numpy(is_pad),
            episode=torch.from_numpy(episode),
            time=torch.from_numpy(time),
        )

    def _chunks(self, episode: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `MomentBatch.action` and `MomentBatch.is_pad`. Padding repeats the last action of the episode."""
        rows = time[:, None] + np.arange(self.chunk)
        actions = [self._facts[e]["action"] for e in episode]
        chunks = [a[np.minimum(row, len(a) - 1)] for a, row in zip(actions, rows, strict=True)]
        return np.stack(chunks), rows >= np.array([len(a) for a in actions])[:, None]

    def _window(self, episode: int, entry: Input, t: int) -> np.ndarray:
        return window(entry, lambda row: self._frame(episode, entry.key, row), t)

    def _frame(self, episode: int, key: str, t: int) -> np.ndarray:
        job, facts = self.jobs[episode], self._facts[episode]
        entry = next(entry for entry in job.inputs if entry.key == key)
        if job.packed:
            path, shape = self.folders[episode] / f"{key}.npy", (len(facts["qpos"]), entry.height, entry.width, 3)
            return read_packed(path, shape, t)
        if episode not in self._episodes:
            opened = self._episodes[episode] = open_episode(job.ref)
            # The facts hold these arrays already; a second copy of all episodes would fill the memory.
            opened.qpos, opened.action, opened.qvel = facts["qpos"], facts["action"], None
        frame = frame_of(self._episodes[episode], entry, t, facts)
        return input_image(entry, frame, lambda: self.reference(episode, key))

    def reference(self, episode: int, key: str) -> np.ndarray:
        """Return the no-contact reference image (height, width, 3) uint8 of a touch input in an episode."""
        name = f"{REFERENCE}{key}"
        return read_npz(self.folders[episode] / "facts.npz", only=(name,))[name]


def _facts(kind: type[Facts], table: dict[str, np.ndarray], name: str) -> Facts:
    """Return the facts of one view or sensor from the table of all facts, whose names are those of the cache."""
    return kind(*(table.get(f"{field.name}/{name}") for field in fields(kind)))  # type: ignore[arg-type]  # all fields that are not optional exist


def _rows(facts: ViewFacts | TouchFacts, chosen: np.ndarray) -> dict[str, Tensor]:
    """Return the facts of the chosen moments that a batch contains, as tensors; float64 becomes float32."""
    arrays = {field.name: getattr(facts, field.name) for field in fields(facts) if field.name != "frame_box"}
    rows = {name: array[chosen] for name, array in arrays.items() if array is not None}
    return {name: torch.from_numpy(a.astype(np.float32) if a.dtype == np.float64 else a) for name, a in rows.items()}
