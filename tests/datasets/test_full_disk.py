"""A full disk stops a writer with one sentence; the interpreter lives on and nothing is left behind."""

import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.mend import trim_episode
from tests.datasets.making import parts, xtrainer_file

ROOT = Path(__file__).parents[2]
SENTENCE = r"episode\S*: not enough disk space \(.+\): [\d.]+ MB or more are needed, [\d,.]+ MB are free\. Free some"
# A limit of the file size stands in for the disk: both give an OSError at the write that no longer fits.
WRITE = """
import resource, sys
from pathlib import Path
from tactile_align.datasets.episodes import write_episode
from tests.datasets.making import parts
path, layout = Path(sys.argv[1]), sys.argv[2]
whole = write_episode(path, **parts(), layout=layout).stat().st_size
path.unlink()
for limit in (0, 1000, 3000, whole // 3, whole // 2, whole - 3000, whole - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_episode(path, **parts(), layout=layout)
    except OSError as error:
        print(error)
    assert not list(path.parent.iterdir()), limit
resource.setrlimit(resource.RLIMIT_FSIZE, (whole, resource.RLIM_INFINITY))
write_episode(path, **parts(), layout=layout)
"""


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limit the size of the files that this process writes, bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("layout", ["xtrainer", "aloha"])
def test_a_disk_that_fills_at_any_byte_of_an_episode_is_named(tmp_path: Path, layout: str) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path / "episode_0.hdf5"), layout]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(SENTENCE, done.stdout)) == len(done.stdout.splitlines()) == 7
    assert not done.stderr
    assert len(open_episode(tmp_path / "episode_0.hdf5")) == 7


def test_an_episode_larger_than_the_free_space_is_refused_before_its_frames_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = xtrainer_file(tmp_path)
    needed = (tmp_path / "episode_init_0.hdf5").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=needed // 3))
    with pytest.raises(OSError, match=SENTENCE):
        trim_episode(source, tmp_path / "out" / "episode_1.hdf5")
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_leaves_no_part_of_a_lerobot_dataset(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from tactile_align.datasets.containers.lerobot import export_lerobot

    write_episode(tmp_path / "in" / "episode_0.hdf5", **parts())
    with file_size_limit(2000), pytest.raises(OSError, match=SENTENCE.replace(r"episode\S*", "out")):
        export_lerobot(tmp_path / "in", tmp_path / "out", fps=10, cameras="image")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
