"""The cache of prepared episodes: whole or not there, whoever is killed and however full the disk is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import EpisodeRef
from tactile_align.errors import InputError
from tactile_align.files import part_of
from tactile_align.moments.cache import Job, prepare, read_packed, write_packed
from tactile_align.moments.inputs import Input
from tests.datasets.making import xtrainer_file

ROOT = Path(__file__).parents[2]
INPUTS = (Input("wrist", "left_wrist", 96, 72, "stretch", "tactile1"), Input("tactile1", "tactile1", 30, 40))
PREPARE = """
import sys
from tests.moments.test_cache import cached
if __name__ == "__main__":
    print("go", flush=True)
    print(len(cached(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
"""
MANY_FILES = """
import resource, sys
from pathlib import Path
from tactile_align.moments.cache import read_packed
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
frames = [read_packed(Path(sys.argv[1]) / f"{n}.npy", (2, 3, 4, 3), 1) for n in range(200)]
print(sum(bool((frame == n).all()) for n, frame in enumerate(frames)))
"""


def cached(recording: Path | str, cache: Path | str, processes: int = 1) -> list[Path]:
    folder = Path(recording)
    rig = load_rig(folder / "rig.toml")
    jobs = [Job(EpisodeRef(file), rig, INPUTS, True) for file in sorted(folder.glob("*.hdf5"))]
    return prepare(jobs, Path(cache), processes, progress=False)


def require_whole(cache: Path) -> int:
    """Check that everything behind a good name is whole, and count it."""
    found = [folder for folder in cache.iterdir() if not folder.name.startswith(".")]
    for folder in found:
        with np.load(folder / "facts.npz") as facts:
            steps = len(facts["qpos"])
        for one in INPUTS:
            assert read_packed(folder / f"{one.key}.npy", (steps, one.height, one.width, 3), steps - 1).any()
    return len(found)


def start(*args: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", PREPARE, *args], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.slow
def test_a_killed_build_leaves_no_half_folder_and_a_second_one_finishes(regrasp_folder: Path, tmp_path: Path) -> None:
    begun = time.perf_counter()
    cached(regrasp_folder, tmp_path / "once")
    whole = time.perf_counter() - begun
    cache, left = tmp_path / "cache", 0
    for share in (0.1, 0.3, 0.2, 0.4):
        process = start(str(regrasp_folder), str(cache), "1")
        time.sleep(share * whole)
        process.kill()
        process.wait()
        left += len(list(cache.glob(".*.part")))
        require_whole(cache)
    assert left  # it was killed in the middle of an episode
    assert len(cached(regrasp_folder, cache)) == require_whole(cache) == 4
    assert not list(cache.glob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not list a process's children")
def test_the_helpers_of_a_killed_build_end_by_themselves(regrasp_folder: Path, tmp_path: Path) -> None:
    process = start(str(regrasp_folder), str(tmp_path), "2")
    listing, children = Path("/proc", str(process.pid), "task", str(process.pid), "children"), ""
    until = time.monotonic() + 60
    while len(children.split()) < 3 and time.monotonic() < until:  # two helpers and Python's resource tracker
        children = listing.read_text()
        time.sleep(0.05)
    while not list(tmp_path.glob(".*.part")) and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while any(Path("/proc", pid).is_dir() for pid in children.split()) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(children.split()) >= 3
    assert not [pid for pid in children.split() if Path("/proc", pid).is_dir()]
    require_whole(tmp_path)


def test_only_parts_of_processes_that_are_gone_are_removed(regrasp_folder: Path, tmp_path: Path) -> None:
    mine = part_of(tmp_path / "abc")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = mine.with_name(mine.name.replace(str(os.getpid()), str(ended.pid)))
    young, old = (tmp_path / f".{name}.other.machine.1.part" for name in ("young", "old"))
    for part in (mine, dead, young, old):
        part.mkdir()
    os.utime(old, (0, 0))
    prepare([], tmp_path, progress=False)
    assert sorted(tmp_path.iterdir()) == sorted([mine, young])


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(regrasp_folder: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system cannot limit the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # less than the wrist's frames, more than the facts
    try:
        with pytest.raises(OSError, match=r"disk space .*episode_init_0\.hdf5 .*MB free\).*`cache`") as caught:
            cached(regrasp_folder, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_packed_frames_are_read_back_and_a_file_cut_short_is_named(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    path = tmp_path / "top.npy"
    write_packed(path, iter(frames), frames.shape)
    assert np.array_equal([read_packed(path, frames.shape, t) for t in range(5)], frames)
    assert np.array_equal(np.load(path), frames)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"top\.npy: expected frames.*delete"):
        read_packed(path, frames.shape, 0)
    write_packed(path, iter(frames), frames.shape)
    with pytest.raises(ValueError, match=r"\(4, 3, 4, 3\) and dtype uint8; found uint8 \(5, 3, 4, 3\)"):
        read_packed(path, (4, 3, 4, 3), 0)
    path.unlink()
    with pytest.raises(InputError, match=r"top\.npy: expected frames.*No such file.*delete"):
        read_packed(path, frames.shape, 0)


def test_more_episodes_than_file_descriptors_are_read_in_turn(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system cannot limit open files")
    for n in range(200):
        write_packed(tmp_path / f"{n}.npy", np.full((2, 3, 4, 3), n, np.uint8), (2, 3, 4, 3))
    run = subprocess.run([sys.executable, "-c", MANY_FILES, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "200\n", run.stderr[-500:]


def test_the_cache_does_not_outlive_the_facts_in_files_that_are_only_named(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    episode = xtrainer_file(tmp_path)
    layout, arm = tmp_path / "own.toml", tmp_path / "arm.toml"
    rig = load_rig("cell").model_dump(mode="json", exclude_none=True)
    rig["arms"]["left"]["model"] = str(arm)

    def key(order: str = "bgr", reach: str = "0.1175") -> str:
        text = (root / "datasets" / "xtrainer.toml").read_text(encoding="utf-8")
        layout.write_text(text.replace('raw = "bgr"', f'raw = "{order}"'), encoding="utf-8")
        text = (root / "kinematics" / "nova2.toml").read_text(encoding="utf-8")
        arm.write_text(text.replace("0.1175", reach), encoding="utf-8")
        ref = EpisodeRef(episode, "", str(layout))
        return Job(ref, Rig.model_validate(rig), INPUTS, True).key()

    assert key() == key()
    assert len({key(), key(order="rgb"), key(reach="0.1275")}) == 3


def test_the_cache_does_not_outlive_the_content_of_a_no_contact_reference(tmp_path: Path) -> None:
    image, layout, episode = tmp_path / "rest.png", tmp_path / "own.toml", xtrainer_file(tmp_path)
    text = (Path(__file__).parents[2] / "datasets" / "xtrainer.toml").read_text(encoding="utf-8")
    layout.write_text(text.replace("[touches]", '[touches]\nno_contact = { file = "rest.png" }'), encoding="utf-8")
    plain, named = load_rig("cell"), load_rig("cell").with_sensor("tactile1", no_contact={"file": str(image)})
    for rig, own in ((named, None), (plain, str(layout))):
        keys = []
        for content in (b"", b"one", b"two"):
            image.write_bytes(content)
            keys.append(Job(EpisodeRef(episode, "", own), rig, INPUTS, True).key())
        assert len(set(keys)) == 3
    cv2.imwrite(str(image), np.full((4, 5, 3), 7, np.uint8))
    copy = tmp_path / "copy.bmp"
    cv2.imwrite(str(copy), cv2.imread(str(image)))
    moved = plain.with_sensor("tactile1", no_contact={"file": str(copy)})
    assert len({Job(EpisodeRef(episode, "", None), rig, INPUTS, True).key() for rig in (named, moved)}) == 1


def test_two_episodes_of_one_file_are_different_no_contact_references(tmp_path: Path) -> None:
    episode, rest = EpisodeRef(xtrainer_file(tmp_path), "", None), tmp_path / "rest.hdf5"
    rest.touch()
    places = [{"file": f"{rest}#{name}", "frames": 0} for name in ("demo_0", "demo_1")]
    rigs = [load_rig("cell").with_sensor("tactile1", no_contact=place) for place in places]
    assert len({Job(episode, rig, INPUTS, True).key() for rig in rigs}) == 2
