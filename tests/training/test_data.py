"""What a config may name as data, and checkpoints that are none."""

from pathlib import Path

import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.errors import InputError
from tactile_align.policies.checkpoint import FORMAT, load_checkpoint
from tactile_align.training.data import load_data
from tests.datasets.making import xtrainer_file
from tests.training.conftest import small_training


def config_of(tmp_path: Path, *entries: str, held_out: float = 1) -> TrainConfig:
    data = [{"path": str(tmp_path / entry), "rig": "cell"} for entry in entries]
    return small_training(tmp_path, tmp_path / "run", data=data, held_out=held_out)


def test_an_episode_named_twice_by_two_paths_could_be_trained_on_and_held_out(tmp_path: Path) -> None:
    for day in ("one", "two"):
        xtrainer_file(tmp_path / "all" / day)
    (tmp_path / "link").symlink_to(tmp_path / "all", target_is_directory=True)
    for again in ("all/two/../one", "link", "all/one/episode_init_0.hdf5"):
        with pytest.raises(ValueError, match=r"episode_init_0\.hdf5: \[\[data\]\] contains this episode twice.*once"):
            load_data(config_of(tmp_path, "all", again), progress=False)


def test_a_number_of_held_out_episodes_is_a_whole_one(tmp_path: Path) -> None:
    for day in ("one", "two", "three"):
        xtrainer_file(tmp_path / "all" / day)
    with pytest.raises(ValueError, match=r"whole number of episodes; got 1\.5"):
        load_data(config_of(tmp_path, "all", held_out=1.5), progress=False)


def test_what_is_no_whole_checkpoint_is_named_without_torchs_advice_to_run_its_code(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    torch.save({"format": FORMAT, "model": {"a": torch.zeros(1000)}, "step": 1}, path)
    whole = path.read_bytes()
    assert load_checkpoint(path)["step"] == 1
    for damaged in (whole[: len(whole) // 2], b"garbage", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"step_00000001\.pt: expected a file of tensors") as caught:
            load_checkpoint(path)
        assert "weights_only" not in str(caught.value)
    for other, held in ((torch.zeros(3), "Tensor"), ({"weights": 1}, "weights")):
        torch.save(other, path)
        with pytest.raises(ValueError, match=f"expected a training checkpoint; found: {held}"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("stated", "came"), [({}, "none"), ({"format": 1}, "1"), ({"format": 2}, "2"), ({"format": 4}, "4")]
)
def test_a_checkpoint_of_another_version_is_refused_in_one_sentence(
    tmp_path: Path, stated: dict[str, int], came: str
) -> None:
    path = tmp_path / "step_00000001.pt"
    torch.save({"model": {}, "step": 1, **stated}, path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path}: written by another version of tactile-align (format {came}, expected {FORMAT}). Train again, or use "
        f"version 0.1 to read it"
    )


def test_a_policy_cannot_read_regions_where_none_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"region = 'opening'.*policy.region_tokens = false"):
        small_training(tmp_path, tmp_path / "run", region="opening")
    assert small_training(tmp_path, tmp_path / "run", region="opening", policy={"region_tokens": False}).train_policy
