"""A rig travels with a recording, and comes back as it was."""

import json
from pathlib import Path

import numpy as np
import pytest

from tactile_align.calibration.rig import Override, carry_rig, load_rig, rig_beside
from tactile_align.cli import run
from tactile_align.config.data import DataConfig
from tactile_align.datasets.draft import draft
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.datasets.inspect import inspect_path
from tactile_align.errors import FactError, InputError
from tests.datasets.containers.twins import zarr_store
from tests.datasets.making import frames, parts


@pytest.mark.parametrize("form", [2, 3])
def test_a_zarr_store_carries_a_rig_beside_its_own_attributes(tmp_path: Path, form: int) -> None:
    pytest.importorskip("zarr")
    arrays = {"robot_joint": np.zeros((3, 7)), "action": np.zeros((3, 7)), "top": frames(1, 3)}
    path, rig = zarr_store(tmp_path / "a.zarr", arrays, [3], form, chunk=3, attributes={"fps": 20}), load_rig("cell")
    assert rig_beside(path) is None
    with pytest.raises(FactError, match=r"a\.zarr: carries no rig\. Put rig\.toml beside"):
        load_rig(path)
    assert carry_rig(rig, path) == ()
    assert load_rig(path) == rig == rig_beside(f"{path}#episode_0")
    assert load_rig(DataConfig(path=str(path)).rig_source) == rig
    with open_episode(f"{path}#episode_0") as episode:
        assert (episode.fps, set(episode.attributes)) == (20, {"fps"})
    load_rig("xtrainer").save(tmp_path / "rig.toml")
    assert rig_beside(path) == load_rig("xtrainer")  # what lies beside the recording was put there on purpose
    assert load_rig(DataConfig(path=str(path)).rig_source) == load_rig("xtrainer"), "verified and trained with one rig"
    rig.save(path / "rig.toml")
    assert load_rig(DataConfig(path=str(path)).rig_source) == rig == rig_beside(path)


def test_a_rig_goes_to_a_lerobot_dataset_and_back(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_episode(tmp_path / "in/episode_init_0.hdf5", **parts(3), fps=20)
    rig = load_rig("cell").with_camera("top", image_map=(("resize", 160, 120),))
    rig.save(tmp_path / "in/rig.toml")
    assert run(["convert", str(tmp_path / "in"), str(tmp_path / "set"), "--to", "lerobot"]) == 0
    assert load_rig(tmp_path / "set") == rig
    top = json.loads((tmp_path / "set/meta/cameras.json").read_text())["cameras"]["top"]
    assert np.allclose(np.array(top["stored"]["K"])[0, 0], rig.camera("top").K[0][0] / 4)
    np.testing.assert_allclose(top["T_parent_camera"], rig.camera("top").T_parent_this)
    checks = {check.id: check.measured for check in inspect_path(tmp_path / "set", timing=False).report.checks}
    assert checks["carried-rig"] == "set carries the rig that recorded it"
    assert run(["convert", str(tmp_path / "set"), str(tmp_path / "back"), "--to", "xtrainer"]) == 0
    assert load_rig(tmp_path / "back/rig.toml") == rig
    (tmp_path / "set/meta/rig.toml").unlink()  # as LeRobot's tools leave it out
    remark = next(c for c in inspect_path(tmp_path / "set", timing=False).report.checks if c.id == "carried-rig")
    assert "carries no rig" in str(remark.measured) and "split, merge or delete" in str(remark.advice)


def test_a_recording_that_cannot_carry_a_rig_is_named(tmp_path: Path) -> None:
    write_episode(tmp_path / "e.hdf5", **parts(3))
    with pytest.raises(InputError, match=r"e\.hdf5: only a LeRobotDataset and a Zarr store in a folder"):
        carry_rig(load_rig("cell"), tmp_path / "e.hdf5")


def convert_with_rig(folder: Path, *options: str) -> int:
    return run(["convert", str(folder / "in"), str(folder / "out"), "--to", "aloha", *options])


def test_the_rig_of_converted_episodes_is_replaced_only_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_episode(tmp_path / "in/episode_init_0.hdf5", **parts(3), fps=20)
    rig, xtrainer, copy = load_rig("cell"), load_rig("xtrainer"), tmp_path / "out/rig.toml"
    changed = Override(episodes="episode_init_*.hdf5", cameras={"top": {"delay_s": 0.1}})
    rig.model_copy(update={"override": (changed,)}).save(tmp_path / "in/rig.toml")
    caplog.set_level("INFO")
    assert convert_with_rig(tmp_path) == 0 and load_rig(copy) == rig
    assert "not kept: the [[override]] of the rig for episode_init_*.hdf5" in caplog.text
    caplog.clear()
    assert convert_with_rig(tmp_path) == 0 and "exists" not in caplog.text, "the same rig once more"
    assert convert_with_rig(tmp_path, "--rig", "xtrainer") == 0 and load_rig(copy) == rig
    assert f"not kept: the rig: {copy} exists" in caplog.text
    assert convert_with_rig(tmp_path, "--rig", "xtrainer", "--overwrite") == 0 and load_rig(copy) == xtrainer
    (tmp_path / "in/rig.toml").rename(copy)
    command = ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "aloha", "--overwrite"]
    assert run([*command, "--rig", str(copy)]) == 0 and load_rig(copy).override == (changed,), "its own file"


def test_episodes_beside_the_draft_of_a_rig_are_converted_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_episode(tmp_path / "in/episode_init_0.hdf5", **parts(3), fps=20)
    draft(tmp_path / "in", tmp_path / "in").write(tmp_path / "in")
    assert convert_with_rig(tmp_path) == 0 and not (tmp_path / "out/rig.toml").exists()
    assert f"the rig is not copied: {tmp_path / 'in/rig.toml'}: " in caplog.text
    assert convert_with_rig(tmp_path, "--rig", str(tmp_path / "in/rig.toml")) == 2
