"""A writer that is killed leaves nothing behind a good name, and running it again finishes the job."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tactile_align.datasets.convert import convert_episodes
from tactile_align.datasets.episodes import list_episodes, open_episode, write_episode
from tests.datasets.making import parts

ROOT = Path(__file__).parents[2]
WRITE = """
import sys, numpy as np
from pathlib import Path
from tactile_align.datasets.episodes import write_episode
rng = np.random.default_rng(0)
def frames():
    for t in range(40):
        yield rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
print("go", flush=True)
for i in range(1000):
    path = Path(sys.argv[1]) / f"episode_init_{i}.hdf5"
    if not path.exists():
        write_episode(path, qpos=np.zeros((40, 7)), action=np.zeros((40, 7)), images={"top": frames()},
        layout=sys.argv[2])
"""
CONVERT = """
import sys
from tactile_align.datasets.containers.lerobot import export_lerobot
print("go", flush=True)
while True:
    export_lerobot(sys.argv[1], sys.argv[2], fps=10, cameras="image")
"""

CONVERT_LAYOUT = """
import sys
from tactile_align.datasets.convert import convert_episodes
print("go", flush=True)
convert_episodes(sys.argv[1], sys.argv[2], to="aloha")
"""


def kill_while_running(script: str, *args: str, after: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", script, *args], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["xtrainer", "aloha"])
def test_every_file_behind_a_good_name_is_whole(tmp_path: Path, layout: str) -> None:
    for attempt in range(4):
        kill_while_running(WRITE, str(tmp_path), layout, after=0.3 + 0.25 * attempt)
    left = [f.name for f in tmp_path.iterdir() if not f.name.startswith(".")]
    assert left
    for ref in list_episodes(tmp_path):
        with open_episode(ref, layout) as episode:
            assert len(episode) == 40
            episode.image("top", 39)


@pytest.mark.slow
def test_a_killed_export_leaves_no_dataset_and_a_second_run_makes_one(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from tactile_align.datasets.containers.lerobot import export_lerobot

    for i in range(12):
        write_episode(tmp_path / "in" / f"e_{i}.hdf5", **parts(40))
    kill_while_running(CONVERT, str(tmp_path / "in"), str(tmp_path / "out"), after=0.5)
    assert not (tmp_path / "out").exists()
    assert export_lerobot(tmp_path / "in", tmp_path / "out", fps=10, cameras="image").lossy == ()


@pytest.mark.slow
def test_a_killed_conversion_goes_on_without_a_word(tmp_path: Path) -> None:
    for i in range(12):
        write_episode(tmp_path / "in" / f"e_{i:02}.hdf5", **{**parts(40), "qpos": np.full((40, 14), i / 8)})
    out, left = tmp_path / "out", 0
    for _ in range(5):
        kill_while_running(CONVERT_LAYOUT, str(tmp_path / "in"), str(out), after=0.3)
        left = len(list(out.glob("*.hdf5")))
        if left > 2:
            break
    done = convert_episodes(tmp_path / "in", out, to="aloha")
    assert (len(done.paths), done.kept) == (12, left) and left > 0
    for i, path in enumerate(done.paths):
        with open_episode(path, "aloha") as episode:
            assert (episode.qpos == i / 8).all()


def test_what_is_not_the_episode_is_replaced_only_when_told_so(tmp_path: Path) -> None:
    for i in range(3):
        write_episode(tmp_path / "in" / f"e_{i}.hdf5", **parts())
    write_episode(tmp_path / "out" / "episode_0.hdf5", **parts(2), layout="aloha")  # what a stopped run had done
    done = convert_episodes(tmp_path / "in", tmp_path / "out", to="aloha", overwrite=True)
    assert [len(open_episode(p, "aloha")) for p in done.paths] == [7, 7, 7]
