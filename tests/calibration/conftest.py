"""Recordings that several tests of calibration read."""

from pathlib import Path

import pytest

from tactile_align.simulation.record import simulate


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One expert episode with its rig, by what the gripper reading is; read only."""
    folders = {}
    for reading in ("measured", "commanded"):
        folders[reading] = tmp_path_factory.mktemp(reading)
        simulate(folders[reading], episodes=1, seed=4, task="expert", gripper=reading, processes=1, progress=False)  # type: ignore[arg-type]
    return folders
