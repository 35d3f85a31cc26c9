"""A torch Dataset of moments: images, touches, joints, action chunk, box, contact, the facts for negatives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tactile_align.datasets.episodes import Episode, open_episode
from tactile_align.errors import InputError
from tactile_align.files import read_npz
from tactile_align.moments.cache import MAX_MAPS, REFERENCE, Job, Recent, open_packed, prepare
from tactile_align.moments.frames import difference, frame_of
from tactile_align.moments.normalisation import Statistics

MAX_EPISODES = 512  # whose joints are kept twice while their frames are decoded when used

Batch = dict[str, Tensor]
"""A batch of B moments. KEY is an input's key, SENSOR a sensor's name.

| key | shape | what |
|---|---|---|
| qpos | (B, D) float32 | normalised state |
| qpos_raw | (B, D) float64 | state as recorded |
| action | (B, C, A) float32 | normalised actions of this moment and the next C - 1 |
| is_pad | (B, C) bool | True past the end of the episode |
| episode | (B,) int64 | which episode |
| time | (B,) int64 | which moment of it |
| image/KEY | (B, H, W, 3) uint8 | the input, RGB |
| box/KEY | (B, 4) float32 | the sensor's box in the input, or that before its pad, px; nan where there is none |
| visible/KEY | (B,) bool | whether that box exists |
| sigma/KEY | (B, 2) float32 | how uncertain its place is along u and v, px; for inputs that are `uncertain` |
| other_box/KEY | (B, 4) float32 | the other finger's box in the input, px; for inputs with `other_finger` |
| contact/SENSOR | (B,) bool | whether the sensor touches something |
| contact_index/SENSOR | (B,) int64 | which contact of the episode, -1 between |
| opening/SENSOR | (B, 2) float32 | where the fingers stand, m |
"""


class Moments(Dataset[Batch]):
    """Every moment of some episodes.

    Small arrays are in memory; frames come from the packed cache through memory maps, or are decoded when used.
    Maps and files are opened when first used, a limited number at a time, by each process for itself: a copy in a
    worker, forked or spawned, opens its own. Indices may be asked for one by one or, faster, as a list.

    Args:
        jobs: The episodes with their rigs and inputs.
        statistics: For normalising; from training episodes only. None leaves qpos and action as recorded.
        chunk: C, actions of one moment.
        cache: Folder of the prepared episodes.
        processes: How many prepare episodes at the same time.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        statistics: Statistics | None,
        chunk: int,
        cache: Path,
        processes: int = 1,
        progress: bool = True,
    ) -> None:
        if not jobs:
            raise InputError("a dataset of moments needs at least one episode; got none")
        self.jobs, self.statistics, self.chunk = tuple(jobs), statistics, chunk
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
        names = set(self._facts[0]) - {"qpos", "action"}
        self._table = {name: np.concatenate([f[name] for f in self._facts]) for name in sorted(names)}
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

    def column(self, name: str) -> np.ndarray:
        """Return one column of the table for all N moments: "visible/KEY", "contact/SENSOR", ..."""
        if name not in self._table:
            raise KeyError(f"no column '{name}'; there are {', '.join(self._table)}")
        return self._table[name]

    def __getitem__(self, index: int) -> Batch:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = np.asarray(indices)
        episode = np.searchsorted(self._starts, chosen, side="right") - 1
        time = chosen - self._starts[episode]
        batch: Batch = {"episode": torch.from_numpy(episode), "time": torch.from_numpy(time)}
        qpos = np.stack([self._facts[e]["qpos"][t] for e, t in zip(episode, time, strict=True)])
        action, is_pad = self._chunks(episode, time)
        batch["qpos_raw"] = torch.from_numpy(qpos)
        if self.statistics is not None:
            qpos, action = self.statistics.normalise_qpos(qpos), self.statistics.normalise_action(action)
        batch["qpos"] = torch.from_numpy(qpos.astype(np.float32))
        batch["action"] = torch.from_numpy(action.astype(np.float32))
        batch["is_pad"] = torch.from_numpy(is_pad)
        for name, values in self._table.items():
            if name.startswith("frame_box/"):
                continue
            value = values[chosen]
            batch[name] = torch.from_numpy(value.astype(np.float32) if value.dtype == np.float64 else value)
        for one in self.jobs[0].inputs:
            frames = [self._frame(int(e), one.key, int(t)) for e, t in zip(episode, time, strict=True)]
            batch[f"image/{one.key}"] = torch.from_numpy(np.stack(frames))
        return batch

    def _chunks(self, episode: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (B, C, A) actions, the last one repeated past the end, and (B, C) where that is."""
        chunks, pads = [], []
        for e, t in zip(episode, time, strict=True):
            actions = self._facts[e]["action"]
            rows = t + np.arange(self.chunk)
            pads.append(rows >= len(actions))
            chunks.append(actions[np.minimum(rows, len(actions) - 1)])
        return np.stack(chunks), np.stack(pads)

    def _frame(self, episode: int, key: str, t: int) -> np.ndarray:
        job, facts = self.jobs[episode], self._facts[episode]
        one = next(one for one in job.inputs if one.key == key)
        if job.packed:
            path, shape = self.folders[episode] / f"{key}.npy", (len(facts["qpos"]), one.height, one.width, 3)
            return self._maps.get((episode, key), lambda: open_packed(path, shape))[t]
        frame = frame_of(self._episodes.get(episode, lambda: open_episode(job.ref)), one, t, facts)
        return difference(frame, self.reference(episode, key)) if one.difference else frame

    def reference(self, episode: int, key: str) -> np.ndarray:
        """Return the touch of nothing (height, width, 3) uint8 that an episode's differences are taken to."""

        def read() -> np.ndarray:
            return read_npz(self.folders[episode] / "facts.npz")[f"{REFERENCE}{key}"]

        return self._references.get((episode, key), read)


def as_it_is(batch: Any) -> Any:
    """Collate a batch for a DataLoader: `Moments` hands out whole ones, so nothing is left to do.

    It lives here because a spawned worker imports the module of its collate function: the training loop would bring
    every encoder library into each worker.
    """
    return batch
