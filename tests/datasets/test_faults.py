"""Every planted fault gives one clear error that names file, key and row."""

import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import EpisodeError
from tests.datasets.making import xtrainer_file
from tests.datasets.planting import ON_OPENING, ON_READING, missing_stream, short_action, unequal_lengths

ROOT = Path(__file__).parents[2]
Plant = Callable[[Path], None]


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "guessed"])
@pytest.mark.parametrize(("plant", "message"), ON_OPENING, ids=[p.__name__ for p, _ in ON_OPENING])
def test_a_fault_of_structure_is_named_on_opening(tmp_path: Path, plant: Plant, message: str, stated: bool) -> None:
    path = xtrainer_file(tmp_path)
    if not stated:
        with h5py.File(path, "r+") as file:
            del file.attrs["layout"]
    plant(path)
    tracemalloc.start()
    with pytest.raises(EpisodeError, match=message) as caught:
        open_episode(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24  # whatever a file claims
    assert str(caught.value).startswith(f"{path}: /")
    assert caught.value.faults[0].file == path


@pytest.mark.parametrize(("plant", "stream", "row", "message"), ON_READING, ids=[p[0].__name__ for p in ON_READING])
def test_a_damaged_frame_is_named_when_it_is_read(
    tmp_path: Path, plant: Plant, stream: str, row: int, message: str
) -> None:
    path = xtrainer_file(tmp_path)
    plant(path)
    episode = open_episode(path)
    episode.image(stream, row - 1)
    with pytest.raises(EpisodeError, match=message) as caught:
        episode.image(stream, row)
    assert caught.value.faults[0].row == row


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_link_is_refused_without_a_look_at_where_it_leads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")  # opening it would wait for ever
    path = xtrainer_file(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["observations/images/top"]
        file["observations/images/top"] = h5py.ExternalLink(str(tmp_path / "pipe.h5"), "/x")
    script = f"from tactile_align.datasets.episodes import open_episode; open_episode({str(path)!r})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, cwd=ROOT)
    assert "is a link to another file" in run.stderr


def test_all_faults_of_a_file_are_known_and_survive_a_pickle(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    short_action(path)
    unequal_lengths(path)
    with pytest.raises(EpisodeError, match=r"1 more: tactile-align inspect") as caught:
        open_episode(path)
    assert {fault.kind for fault in caught.value.faults} == {"length"}
    assert len(pickle.loads(pickle.dumps(caught.value)).faults) == 2


def test_opening_with_the_wrong_layout_says_what_is_missing(tmp_path: Path) -> None:
    path = xtrainer_file(tmp_path)
    missing_stream(path)
    with pytest.raises(EpisodeError, match=r"/observations/qpos is missing.*action"):
        open_episode(path, "aloha")
