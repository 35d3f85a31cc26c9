"""Growth of cost and memory with the number and the length of episodes: `python -m tests.benchmarks.scale FOLDER`.

    python -m tests.benchmarks.scale FOLDER [--episodes 100 1000 10000] [--parts listing inspect ...] [--long 12000]

Small HDF5 episodes (20 rows, 48x36 px, three streams) are written into FOLDER/NUMBER unless they are there. Each part
runs in a process of its own, so that its peak memory is its own. One line is printed per part and number of episodes,
then the line through the times, and what is over a bar: exit status 1.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import load_rig
from tactile_align.datasets import codec
from tactile_align.datasets.episodes import list_episodes, write_episode
from tactile_align.datasets.inspect import inspect_path

ROOT = Path(__file__).parents[2]
STEPS, WIDTH, HEIGHT, FEW = 20, 48, 36, 8
STREAMS = ("top", "left_wrist", "tactile1")
LISTING_S, INDEX_MB, LONG_MB = 2.0, 200.0, 300.0
"""Bars: listing 10,000 episodes again, index of 10,000 episodes beyond the imports, inspection of one long episode."""
OFF_LINE = 1.5
"""Largest ratio of a time to the line through all times above which growth is not linear."""


def record(path: Path, seed: int, steps: int = STEPS) -> None:
    """Write one episode: random joints, and a few frames that repeat; the touch is pressed in some of them."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(60, 120, (HEIGHT, WIDTH, 3))
    few = [(base + rng.normal(0, 1, base.shape)).astype(np.uint8) for _ in range(FEW)]
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    dent = 60 * np.exp(-((u - 24) ** 2 + (v - 18) ** 2) / 20)[..., None]
    pressed = [(frame + dent).astype(np.uint8) for frame in few]
    scene, gel, touched = ([codec.encode_jpeg(frame, 95) for frame in frames] for frames in (few, few, pressed))
    rows = [scene[t % FEW] for t in range(steps)]
    touch = [(touched if t // 8 % 2 else gel)[t % FEW] for t in range(steps)]
    qpos = np.cumsum(rng.normal(0, 0.01, (steps, 14)), axis=0)
    write_episode(
        path,
        qpos=qpos,
        action=qpos + 0.01,
        images=dict.fromkeys(STREAMS[:2], rows),
        touches={STREAMS[2]: touch},
        fps=30.0,
    )


def written(folder: Path, episodes: int) -> Path:
    """Return FOLDER/NUMBER with that many episodes; those that are missing are written."""
    for number in range(episodes):
        path = folder / str(episodes) / f"episode_init_{number}.hdf5"
        if not path.exists():
            record(path, number)
    return folder / str(episodes)


def listing(folder: Path) -> None:
    """List the episodes."""
    list_episodes(folder)


def inspection(folder: Path) -> None:
    """Inspect every episode, as `tactile-align inspect` does, without the measurement of reading times."""
    inspect_path(folder, timing=False)


def index(folder: Path) -> None:
    """Make the index of a training run from prepared episodes, or prepare them first."""
    from tactile_align.moments.cache import Job
    from tactile_align.moments.dataset import Moments
    from tactile_align.moments.inputs import Input

    rig = load_rig("xtrainer")
    rig = rig.model_copy(update={"cameras": {}})
    inputs = (Input("top", "top", 24, 18), Input("tactile1", "tactile1", 24, 18))
    jobs = [Job(ref, rig, inputs, packed=True) for ref in list_episodes(folder)]
    before = _peak_mb()
    moments = Moments(jobs, chunk=10, cache=folder.with_name(f"{folder.name}.cache"), progress=False)
    print(f"index {len(moments)} moments, {_peak_mb() - before:.1f} MB")


PARTS: dict[str, Callable[[Path], None]] = {"listing": listing, "inspect": inspection, "prepare": index, "index": index}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    pass
