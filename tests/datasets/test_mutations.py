"""Damaged and hostile files: one clear error each, in bounded memory, and never a crash of ours."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.making import xtrainer_file
from tests.datasets.mutating import mutate, read_everything

ROOT = Path(__file__).parents[2]


# `tests.benchmarks.sweeps` calls both with 500 seeds.
def test_a_mutated_structure_is_read_or_gives_one_clear_error(tmp_path: Path, seeds: range = range(20)) -> None:
    resource = pytest.importorskip("resource", reason="this system does not report its memory")
    good = xtrainer_file(tmp_path)
    read_everything(good)
    named = grown = 0
    for seed in seeds:
        path = tmp_path / f"{seed}.hdf5"
        shutil.copy(good, path)
        done = mutate(path, seed)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = read_everything(path)
        grown += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if said != "read":
            assert said.startswith(f"{path}: /"), f"{done}: {said}"
            assert "\n" not in said
            assert len(said) > len(str(path)) + 20
            named += 1
        path.unlink()
    assert named > len(seeds) / 2
    assert grown < 300_000  # kB on Linux: a chunk of at most 256 MiB may have to be unpacked


def test_flipped_bytes_never_give_an_unnamed_error(tmp_path: Path, seeds: range = range(20)) -> None:
    good = xtrainer_file(tmp_path)
    content = np.frombuffer(good.read_bytes(), np.uint8)
    crashes, todo = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        flipped = content.copy()
        # Half of the flips hit the first 8 kB, where the structure is.
        where = rng.integers(0, 8192 if seed % 2 else len(flipped), rng.integers(1, 6))
        flipped[where] ^= rng.integers(1, 256, len(where)).astype(np.uint8)
        path = tmp_path / f"{seed}.hdf5"
        path.write_bytes(flipped.tobytes())
        todo.append(path)
    answers: dict[Path, str] = {}
    while todo:
        run = subprocess.run(
            [sys.executable, "-m", "tests.datasets.mutating"],
            input="\n".join(map(str, todo)),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=300,
            check=False,
        )
        lines = run.stdout.splitlines()
        answers.update(zip(todo, lines, strict=False))
        todo = todo[len(lines) :]
        if todo:  # the process died on this one
            assert "Traceback" not in run.stderr, f"{todo[0].name}: {run.stderr[-2000:]}"
            crashes.append(todo.pop(0).name)
    print(f"{len(crashes)} of {len(seeds)} flipped files crash the HDF5 library itself: {crashes}")
    assert all(said == "read" or said.startswith(f"{path}: /") for path, said in answers.items())
    assert len(answers) + len(crashes) == len(seeds)
    assert sum(said != "read" for said in answers.values()) > len(seeds) / 5
    assert len(crashes) <= 1 + len(seeds) // 100
