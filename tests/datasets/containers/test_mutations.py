"""Damaged and hostile LeRobotDatasets and Zarr stores: one named error each, in bounded memory."""

import shutil
from pathlib import Path

import pytest

from tactile_align.datasets.containers.lerobot import export_lerobot
from tactile_align.datasets.episodes import write_episode
from tests.conftest import shared_folder
from tests.datasets.containers.mutating import mutate, read_everything
from tests.datasets.containers.twins import buffer_of, lerobot_2, zarr_store
from tests.datasets.making import frames, parts

for library in ("pyarrow", "av", "zarr", "numcodecs"):
    pytest.importorskip(library, reason=f"{library} is not installed")
CONTAINERS = ("lerobot2", "lerobot3", "zarr2", "zarr3", "zarr2.zip")
SHARDS = "zarr3.shards"


def record(root: Path) -> None:
    for i in range(2):
        small = {"images": {"top": frames(i, 4, 32, 24)}, "touches": {"tactile1": frames(9, 4, 32, 24)}}
        write_episode(root / f"in/episode_init_{i}.hdf5", **{**parts(4), **small}, fps=20)
    lerobot_2(root / "in", root / "lerobot2", 20, "video")
    export_lerobot(root / "in", root / "lerobot3")
    arrays, ends = buffer_of(root / "in")
    for form, name in ((2, "zarr2"), (3, "zarr3"), (2, "zarr2.zip")):
        zarr_store(root / name, arrays, ends, form, chunk=2, attributes={"fps": 20})
    zarr_store(root / SHARDS, arrays, ends, 3, chunk=1, attributes={"fps": 20}, shard=4)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_mutated_recording_is_read_or_gives_one_named_error(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, container: str
) -> None:
    require_named(shared_folder(tmp_path_factory, "mutated", record), container, range(20), tmp_path)


# `tests.benchmarks.sweeps` calls it with 300 seeds, and with shards, too.
def require_named(root: Path, container: str, seeds: range, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system does not report its memory")
    if not root.exists():
        record(root)
    good = root / container
    assert read_everything(good) == "read"
    before, named = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for seed in seeds:
        path = tmp_path / f"{seed}.{container}"
        shutil.copy(good, path) if good.is_file() else shutil.copytree(good, path)
        done = mutate(path, seed)
        said = read_everything(path)
        if said != "read":
            assert said.startswith(f"{path}: "), f"{done}: {said}"
            assert "\n" not in said and len(said) > len(str(path)) + 20, f"{done}: {said}"
            named += 1
    assert named > len(seeds) / 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
