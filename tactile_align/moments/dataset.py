"""The torch Dataset of moments: images, touches, joints, action chunk, box, contact, the facts for negatives."""

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
from tactile_align.moments.cache import MAX_MAPS, REFERENCE, Job, Recent, open_packed, prepare
from tactile_align.moments.facts import TouchFacts, ViewFacts
from tactile_align.moments.frames import frame_of, input_image
from tactile_align.moments.normalisation import Statistics

Facts = TypeVar("Facts", ViewFacts, TouchFacts)
MAX_EPISODES = 512  # whose joints are kept twice while their frames are decoded when used


class Moments(Dataset[MomentBatch]):
    """Every moment of some episodes.

    Small arrays are in memory; frames come from the packed cache through memory maps, or are decoded when used.
    Maps and files are opened when first used, a limited number at a time, by each process for itself: a copy in a
    worker, forked or spawned, opens its own.

    Args:
        jobs: The episodes with their rigs and inputs.
        chunk: C, actions of one moment.
        cache: Folder of the prepared episodes.
        processes: How many prepare episodes at the same time.
        progress: Show a progress bar on stderr.

    Attributes:
        statistics: Normalise qpos and action; None leaves both as recorded. See `normalised`.
        views: Facts of all N moments by the key of a view.
        touches: Facts of all N moments by sensor.
    """

    def __init__(
        self, jobs: Sequence[Job], *, chunk: int, cache: Path, processes: int = 1, progress: bool = True
    ) -> None:
        if not jobs:
            raise InputError("a dataset of moments needs at least one episode; got none")
        self.jobs, self.chunk = tuple(jobs), chunk
        self.statistics: Statistics | None = None
        self.folders = prepare(jobs, cache, processes, progress)
        self._facts = []
        for folder in self.folders:
            stored = read_npz(folder / "facts.npz", f"Delete {folder}: it is prepared again")
            self._facts.append({name: array for name, array in stored.items() if not name.startswith(REFERENCE)})
        widths = {(f["qpos"].shape[1], f["action"].shape[1]) for f in self._facts}
        if len(widths) != 1:
            raise InputError(
                f"episodes differ in their columns of qpos and action: {sorted(widths)}; train on one robot at a time"
            )
        for job, facts in zip(self.jobs, self._facts, strict=True):
            if set(facts) != set(self._facts[0]):
                raise InputError(
                    f"{job.ref}: its rig gives {', '.join(sorted(facts))}; that of {self.jobs[0].ref} gives "
                    f"{', '.join(sorted(self._facts[0]))}. Train on rigs with the same sensors and grippers"
                )
        lengths = [len(f["qpos"]) for f in self._facts]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        names = sorted(set(self._facts[0]) - {"qpos", "action"})
        table = {name: np.concatenate([f[name] for f in self._facts]) for name in names}
        keys = (entry.key for entry in self.jobs[0].inputs if entry.sensor is not None)
        self.views = {key: _facts(ViewFacts, table, key) for key in keys}
        sensors = (name.removeprefix("contact/") for name in names if name.startswith("contact/"))
        self.touches = {sensor: _facts(TouchFacts, table, sensor) for sensor in sensors}
        self._maps: Recent[tuple[int, str], np.ndarray] = Recent(MAX_MAPS)
        self._episodes: Recent[int, Episode] = Recent(MAX_EPISODES)
        self._references: Recent[tuple[int, str], np.ndarray] = Recent(MAX_EPISODES)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def state_width(self) -> tuple[int, int]:
        """Columns of qpos and of action."""
        first = self._facts[0]
        return first["qpos"].shape[1], first["action"].shape[1]

    @property
    def episode(self) -> np.ndarray:
        """(N,) which episode each moment is of."""
        return np.repeat(np.arange(len(self.jobs)), np.diff(self._starts))

    @property
    def time(self) -> np.ndarray:
        """(N,) which moment of its episode each one is."""
        return np.arange(len(self)) - self._starts[self.episode]

    def low_dim(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return raw qpos (T, D) and action (T, A) of each episode."""
        return [(facts["qpos"], facts["action"]) for facts in self._facts]

    def normalised(self, statistics: Statistics) -> "Moments":
        """Return the same moments with qpos and action normalised by the training episodes' statistics.

        Nothing is prepared or read again.
        """
        other = copy.copy(self)
        other.statistics = statistics
        return other

    def __getitem__(self, index: int) -> MomentBatch:
        return self.batch([index])

    def __getitems__(self, indices: Sequence[int]) -> MomentBatch:
        return self.batch(indices)

    def batch(self, indices: Sequence[int] | np.ndarray) -> MomentBatch:
        """Return some moments, in the order of the indices."""
        chosen = np.asarray(indices)
        episode = np.searchsorted(self._starts, chosen, side="right") - 1
        time = chosen - self._starts[episode]
        raw = np.stack([self._facts[e]["qpos"][t] for e, t in zip(episode, time, strict=True)])
        qpos, (action, is_pad) = raw, self._chunks(episode, time)
        if self.statistics is not None:
            qpos, action = self.statistics.normalise_qpos(qpos), self.statistics.normalise_action(action)
        views, touches, frames = {}, {}, {}
        for entry in self.jobs[0].inputs:
            images = [self._frame(int(e), entry.key, int(t)) for e, t in zip(episode, time, strict=True)]
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
        """Return (B, C, A) actions, the last one repeated past the end, and (B, C) where that is."""
        rows = time[:, None] + np.arange(self.chunk)
        actions = [self._facts[e]["action"] for e in episode]
        chunks = [a[np.minimum(row, len(a) - 1)] for a, row in zip(actions, rows, strict=True)]
        return np.stack(chunks), rows >= np.array([len(a) for a in actions])[:, None]

    def _frame(self, episode: int, key: str, t: int) -> np.ndarray:
        job, facts = self.jobs[episode], self._facts[episode]
        entry = next(entry for entry in job.inputs if entry.key == key)
        if job.packed:
            path, shape = self.folders[episode] / f"{key}.npy", (len(facts["qpos"]), entry.height, entry.width, 3)
            return self._maps.get((episode, key), lambda: open_packed(path, shape))[t]
        frame = frame_of(self._episodes.get(episode, lambda: open_episode(job.ref)), entry, t, facts)
        return input_image(entry, frame, lambda: self.reference(episode, key))

    def reference(self, episode: int, key: str) -> np.ndarray:
        """Return the no-contact reference (height, width, 3) uint8 of an episode's differences."""
        path = self.folders[episode] / "facts.npz"
        return self._references.get((episode, key), lambda: read_npz(path)[f"{REFERENCE}{key}"])


def _facts(kind: type[Facts], table: dict[str, np.ndarray], name: str) -> Facts:
    """Return the facts of one view or sensor from the table of the cache's names."""
    return kind(*(table.get(f"{field.name}/{name}") for field in fields(kind)))  # type: ignore[arg-type]  # all but the optional ones are there


def _rows(facts: ViewFacts | TouchFacts, chosen: np.ndarray) -> dict[str, Tensor]:
    """Return the chosen moments of all facts that a batch holds and that exist, floats in single precision."""
    arrays = {field.name: getattr(facts, field.name) for field in fields(facts) if field.name != "frame_box"}
    rows = {name: array[chosen] for name, array in arrays.items() if array is not None}
    return {name: torch.from_numpy(a.astype(np.float32) if a.dtype == np.float64 else a) for name, a in rows.items()}
