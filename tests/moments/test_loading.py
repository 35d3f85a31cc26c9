"""Whatever the number of workers, every moment comes once, in one order, and memory stays where it was."""

import subprocess
import sys
from multiprocessing import get_all_start_methods
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.datasets.episodes import EpisodeRef
from tactile_align.moments.batch import collate
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tactile_align.training.loop import _loader

ROOT = Path(__file__).parents[2]
BATCH, SEED = 13, 6
INPUTS = (
    Input("wrist", "left_wrist", 96, 72, "stretch", "tactile1"),
    Input("zoom", "left_wrist", 40, 40, "stretch", "tactile1", zoom=2.0),
    Input("tactile1", "tactile1", 30, 40),
)
EPOCHS = """
import sys, torch
from pathlib import Path
from tests.moments.test_loading import BATCH, loader, moments_of
if __name__ == "__main__":
    torch.set_num_threads(1)
    moments = moments_of(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "packed", episodes=1)
    workers, batches = int(sys.argv[4]), len(moments) // BATCH + 1
    source = iter(loader(moments, workers, 0, 10 * batches))
    for epoch in range(10):
        for _ in range(batches):
            next(source)
        pids = ["self"] if not workers else [str(worker.pid) for worker in source._workers]
        print(sum(int(Path("/proc", pid, "statm").read_text().split()[1]) * 4096 for pid in pids), flush=True)
"""


def moments_of(recording: Path, cache: Path, packed: bool, episodes: int = 2) -> Moments:
    rig = load_rig(recording / "rig.toml")
    files = sorted(recording.glob("*.hdf5"))[:episodes]
    jobs = [Job(EpisodeRef(file), rig, INPUTS, packed) for file in files]
    return Moments(jobs, statistics=None, chunk=5, cache=cache, progress=False)


def loader(moments: Moments, workers: int, start: int, stop: int) -> Any:
    """Return the batches as a training run gets them."""
    data = SimpleNamespace(train=moments, contact=np.zeros(len(moments), bool))
    config = SimpleNamespace(batch_size=BATCH, contact_share=None, seed=SEED, steps=stop, workers=workers)
    group = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"))
    return _loader(data, config, start, group)  # type: ignore[arg-type]  # only what is read of them


def require_equal(these: list[Any], those: list[Any]) -> None:
    assert len(these) == len(those) > 0
    for a, b in zip((batch.tensors() for batch in these), (batch.tensors() for batch in those), strict=True):
        assert set(a) == set(b)
        for name in a:
            assert torch.equal(a[name].nan_to_num(-1e9), b[name].nan_to_num(-1e9)), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "decoded"])
def test_four_workers_bring_what_one_process_brings_and_a_resumed_run_goes_on(
    regrasp_folder: Path, tmp_path: Path, packed: bool
) -> None:
    moments = moments_of(regrasp_folder, tmp_path, packed)
    batches = 2 * len(moments) // BATCH
    alone = list(loader(moments, 0, 0, batches))
    drawn = np.stack(
        [torch.cat([getattr(batch, name) for batch in alone]).numpy() for name in ("episode", "time")], axis=1
    )
    every = np.stack([moments.episode, moments.time], axis=1)
    first, second = drawn[: len(moments)], drawn[len(moments) : 2 * len(moments)]
    assert np.array_equal(np.unique(first, axis=0), every)  # a pass: each moment once
    assert len(np.unique(second, axis=0)) == len(second) and not np.array_equal(first[: len(second)], second)
    require_equal(list(loader(moments, 4, 0, batches)), alone)  # the parent's files and maps are open by now
    require_equal(list(loader(moments, 2, 7, batches)), alone[7:])


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="this system cannot fork")
def test_a_forked_worker_opens_its_own_files(regrasp_folder: Path, tmp_path: Path) -> None:
    for packed in (True, False):
        moments = moments_of(regrasp_folder, tmp_path, packed, episodes=1)
        rows = [[3, 50], [50, 8], [4, 60]]
        before = [moments.batch(r) for r in rows]
        forked = torch.utils.data.DataLoader(
            moments, batch_sampler=rows, collate_fn=collate, num_workers=2, multiprocessing_context="fork"
        )
        require_equal(list(forked), before)
        require_equal([moments.batch(r) for r in rows], before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="this system does not tell a process's memory")
@pytest.mark.parametrize(("packed", "workers"), [("packed", 0), ("decoded", 0), ("packed", 2)])
def test_memory_is_flat_over_ten_epochs(regrasp_folder: Path, tmp_path: Path, packed: str, workers: int) -> None:
    args = [str(regrasp_folder), str(tmp_path), packed, str(workers)]
    run = subprocess.run([sys.executable, "-c", EPOCHS, *args], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    held = [int(line) / 1e6 for line in run.stdout.split()]
    print(f"{packed}, {workers} workers, MB after each epoch: {' '.join(f'{mb:.1f}' for mb in held)}")
    assert len(held) == 10
    assert held[9] - held[2] < 3  # one epoch of packed frames is 3 MB; after it their pages count as held
