"""A small simulated recording that several tests read."""

import signal
from pathlib import Path

import pytest

from tactile_align.simulation.record import simulate

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Tests that a script starts in the background inherit an ignored Ctrl-C, and so would the programs they stop by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def regrasp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four regrasp episodes with measured openings, about 60 contacts, and their rig.toml."""
    folder = tmp_path_factory.mktemp("recording") / "regrasp"
    simulate(folder, episodes=4, seed=5, task="regrasp", gripper="measured", processes=1, progress=False)
    return folder


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One expert episode with its rig, by what the gripper reading is; read only."""
    folders = {}
    for reading in ("measured", "commanded"):
        folders[reading] = tmp_path_factory.mktemp(reading)
        simulate(folders[reading], episodes=1, seed=4, task="expert", gripper=reading, processes=1, progress=False)  # type: ignore[arg-type]
    return folders
