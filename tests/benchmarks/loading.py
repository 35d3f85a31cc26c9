"""Do workers bring what one process brings, in memory that stays flat: `python -m tests.benchmarks.loading RECORDING`.

RECORDING is a folder of simulated episodes with its rig.toml. Two and four workers, from the start and resumed, packed
and decoded; then the memory after each of ten epochs; then a batch of 32 from 20 and from 1,000 episodes. Exits 1 where
a batch differs, memory grows by 3 MB after the third epoch, or a packed batch of many episodes costs over 1.3 times one
of few.
"""

import os
import sys
import tempfile
import time
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.datasets.episodes import EpisodeRef
from tactile_align.moments.cache import Job, prepare
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tactile_align.training.loop import _loader
from tests.processes import CONTEXT

BATCH, SEED = 13, 6
MOST_GROWTH_MB = 3.0  # one epoch of packed frames is 3 MB; after it their pages count as held
FEW, MANY, MOST_TIMES = 20, 1000, 1.3
INPUTS = (
    Input("wrist", "left_wrist", 96, 72, "stretch", "tactile1"),
    Input("zoom", "left_wrist", 40, 40, "stretch", "tactile1", zoom=2.0),
    Input("tactile1", "tactile1", 30, 40),
)


def moments_of(recording: Path, cache: Path, packed: bool, episodes: int) -> Moments:
    """Return the moments of the first episodes of a recording."""
    rig = load_rig(recording / "rig.toml")
    files = sorted(recording.glob("*.hdf5"))[:episodes]
    jobs = [Job(EpisodeRef(file), rig, INPUTS, packed) for file in files]
    return Moments(jobs, chunk=5, cache=cache, progress=False)


def loader(moments: Moments, workers: int, start: int, stop: int) -> Any:
    """Return the batches as a training run gets them."""
    data = SimpleNamespace(train=moments, contact=np.zeros(len(moments), bool))
    config = SimpleNamespace(batch_size=BATCH, contact_share="natural", seed=SEED, steps=stop, workers=workers)
    group = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"))
    return _loader(data, config, start, group)  # type: ignore[arg-type]  # only what is read of them


def equal(these: list[Any], those: list[Any]) -> bool:
    """Tell whether two lists of batches are the same, where NaN equals NaN."""
    pairs = [(a.tensors(), b.tensors()) for a, b in zip(these, those, strict=True)]
    return len(pairs) > 0 and all(
        set(a) == set(b) and all(torch.equal(a[name].nan_to_num(-1e9), b[name].nan_to_num(-1e9)) for name in a)
        for a, b in pairs
    )


def growth_mb(recording: Path, cache: Path, packed: str, workers: int) -> float:
    """Return by how many MB the memory of a new process and its workers grows from the third epoch to the tenth."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_epochs, args=(there, recording, cache, packed, workers))
    process.start()
    there.close()
    held = here.recv()
    process.join()
    print(f"{packed}, {workers} workers, MB after each epoch: {' '.join(f'{mb:.1f}' for mb in held)}")
    assert len(held) == 10
    return held[9] - held[2]


def _epochs(told: Connection, recording: Path, cache: Path, packed: str, workers: int) -> None:
    """Load ten epochs, and send the memory in MB after each: of the workers, or of this process if it has none."""
    torch.set_num_threads(1)
    moments = moments_of(recording, cache, packed == "packed", episodes=1)
    batches, held = len(moments) // BATCH + 1, list[float]()
    source = iter(loader(moments, workers, 0, 10 * batches))
    for _ in range(10):
        for _ in range(batches):
            next(source)
        pids = [str(worker.pid) for worker in source._workers] if workers else ["self"]
        held.append(sum(int(Path("/proc", pid, "statm").read_text().split()[1]) * 4096 / 1e6 for pid in pids))
    told.send(held)


def linked(recording: Path, folder: Path, packed: bool, episodes: int) -> Moments:
    """Return the moments of many names of one episode, which is prepared once."""
    rig = load_rig(recording / "rig.toml")
    source = min(recording.glob("*.hdf5"))
    cache = folder / "cache"
    names = [folder / f"{number}.hdf5" for number in range(episodes)]
    for name in names:
        os.link(source, name)
    jobs = [Job(EpisodeRef(name), rig, INPUTS, packed) for name in names]
    (first,) = prepare(jobs[:1], cache, progress=False)
    for job in jobs[1:]:
        (cache / job.key()).mkdir()
        for file in first.iterdir():
            os.link(file, cache / job.key() / file.name)
    return Moments(jobs, chunk=5, cache=cache, progress=False)


def batch_ms(kinds: list[Moments]) -> list[float]:
    """Return the median milliseconds of processor time of a batch of 32 of each kind; the kinds take turns."""
    rng, spent = np.random.default_rng(0), np.empty((60, len(kinds)))
    for moments in kinds:
        for start in range(0, len(moments.jobs), 32):  # every episode is opened once before the clock runs
            moments.batch(np.searchsorted(moments.episode, np.arange(start, min(start + 32, len(moments.jobs)))))
    for turn, (number, moments) in product(range(len(spent)), enumerate(kinds)):
        rows = rng.choice(len(moments), 32, replace=False)
        began = time.process_time()
        moments.batch(rows)
        spent[turn, number] = time.process_time() - began
    return [float(ms) for ms in 1000 * np.median(spent, axis=0)]


def many_episodes(recording: Path, packed: bool) -> bool:
    """Print the cost of a batch from few and from many episodes; tell whether it is within the bar."""
    with tempfile.TemporaryDirectory(dir=recording) as few, tempfile.TemporaryDirectory(dir=recording) as many:
        kinds = [linked(recording, Path(place), packed, n) for place, n in ((few, FEW), (many, MANY))]
        one, other = batch_ms(kinds)
    bar = f" (bar {MOST_TIMES})" if packed else ""
    print(f"packed = {packed}, batch of 32: {FEW} episodes {one:.2f} ms, {MANY} {other:.2f} ms, {other / one:.2f}{bar}")
    return not packed or other <= MOST_TIMES * one


def main(recording: Path) -> int:
    """Print a line each; return 1 where a batch differs, memory grows, or many episodes cost too much."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for packed in (True, False):
            moments = moments_of(recording, Path(folder), packed, episodes=2)
            batches = 2 * len(moments) // BATCH
            alone = list(loader(moments, 0, 0, batches))
            for workers, start in product((2, 4), (0, 7)):
                same = equal(list(loader(moments, workers, start, batches)), alone[start:])
                print(f"packed = {packed}, {workers} workers, from batch {start}: {'equal' if same else 'DIFFERENT'}")
                bad += not same
        for packed, workers in product(("packed", "decoded"), (0, 2)):
            bad += growth_mb(recording, Path(folder), packed, workers) >= MOST_GROWTH_MB
    bad += sum(not many_episodes(recording, packed) for packed in (True, False))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
