"""Sources of recorded episodes in a config."""

import pytest

from tactile_align.config.data import DataConfig


@pytest.mark.parametrize(
    ("path", "rig"),
    [
        ("runs/my recordings", "runs/my recordings/rig.toml"),
        ("runs/cell/episode_0.hdf5", "runs/cell/rig.toml"),
        ("runs/cell/all.h5#demo_3", "runs/cell/rig.toml"),
    ],
)
def test_the_rig_of_a_source_is_the_one_beside_its_episodes_unless_another_is_stated(path: str, rig: str) -> None:
    assert DataConfig(path=path).rig_source == rig
    assert DataConfig(path=path, rig="cell").rig_source == "cell"
    moved = DataConfig(path="elsewhere").model_copy(update={"path": path})
    assert moved.rig_source == rig, "a flag may change the path"
