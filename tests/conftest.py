"""Small simulated recordings that several tests read, made once a run whatever the number of its processes."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tactile_align.simulation.record import Reading, simulate

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Tests that a script starts in the background inherit an ignored Ctrl-C, and so would the programs they stop by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Start the server of processes in a run that has collected a test with processes."""
    if "tests.processes" in sys.modules:
        sys.modules["tests.processes"].start_server()


def shared_folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return a folder that `fill` has filled, the same one in every process of a run; the first to come fills it."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            unfinished = folder.with_suffix(".unfinished")
            fill(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def regrasp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four regrasp episodes with measured openings, about 60 contacts, and their rig.toml; read only."""
    return shared_folder(
        tmp_path_factory,
        "regrasp",
        lambda folder: simulate(
            folder, episodes=4, seed=5, task="regrasp", gripper="measured", processes=1, progress=False
        ),
    )


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One expert episode with its rig, by what the gripper reading is; read only."""

    def folder(gripper: Reading) -> Path:
        return shared_folder(
            tmp_path_factory,
            f"expert_{gripper}",
            lambda at: simulate(at, episodes=1, seed=4, task="expert", gripper=gripper, processes=1, progress=False),
        )

    return {"measured": folder("measured"), "commanded": folder("commanded")}
