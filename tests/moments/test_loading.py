"""Whatever the number of workers, every moment comes once, in one order, and memory stays where it was."""

from multiprocessing import get_all_start_methods
from pathlib import Path

import numpy as np
import pytest
import torch

from tactile_align.moments.batch import collate
from tests.benchmarks.loading import BATCH, MOST_GROWTH_MB, equal, growth_mb, loader, moments_of


@pytest.mark.slow
@pytest.mark.parametrize(("packed", "start"), [(True, 0), (False, 7)], ids=["packed", "decoded and resumed"])
def test_workers_bring_what_one_process_brings_and_a_resumed_run_goes_on(
    regrasp_folder: Path, tmp_path: Path, packed: bool, start: int
) -> None:
    moments = moments_of(regrasp_folder, tmp_path, packed, episodes=1)
    batches = 2 * len(moments) // BATCH
    alone = list(loader(moments, 0, 0, batches))
    drawn = np.stack(
        [torch.cat([getattr(batch, name) for batch in alone]).numpy() for name in ("episode", "time")], axis=1
    )
    every = np.stack([moments.episode, moments.time], axis=1)
    first, second = drawn[: len(moments)], drawn[len(moments) : 2 * len(moments)]
    assert np.array_equal(np.unique(first, axis=0), every)  # a pass: each moment once
    assert len(np.unique(second, axis=0)) == len(second) and not np.array_equal(first[: len(second)], second)
    assert equal(list(loader(moments, 2, start, batches)), alone[start:])  # the parent's files are open by now


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="this system cannot fork")
def test_a_forked_worker_opens_its_own_files(regrasp_folder: Path, tmp_path: Path) -> None:
    for packed in (True, False):
        moments = moments_of(regrasp_folder, tmp_path, packed, episodes=1)
        rows = [[3, 50], [50, 8], [4, 60]]
        before = [moments.batch(r) for r in rows]
        forked = torch.utils.data.DataLoader(
            moments, batch_sampler=rows, collate_fn=collate, num_workers=2, multiprocessing_context="fork"
        )
        assert equal(list(forked), before)
        assert equal([moments.batch(r) for r in rows], before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="this system does not tell a process's memory")
@pytest.mark.parametrize(("packed", "workers"), [("decoded", 0), ("packed", 2)])
def test_memory_is_flat_over_ten_epochs(regrasp_folder: Path, tmp_path: Path, packed: str, workers: int) -> None:
    assert growth_mb(regrasp_folder, tmp_path, packed, workers) < MOST_GROWTH_MB
