"""Data of a config and of a run: which episodes are trained on, held out, tested and refused; damaged checkpoints."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.checks import Report
from tactile_align.config.train import TrainConfig, config_text, load_config
from tactile_align.datasets.mend import trim_episode
from tactile_align.diagnostics.doctor import diagnose
from tactile_align.diagnostics.evaluation import evaluate
from tactile_align.errors import InputError
from tactile_align.moments import sampling
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.checkpoint import FORMAT, load_checkpoint, save_best
from tactile_align.training.data import (
    Data,
    EpisodeEntry,
    EpisodeLists,
    contact_moments,
    contact_share,
    load_data,
    run_beside,
    with_initial_weights,
)
from tactile_align.training.loop import train
from tactile_align.verbs.training import doctor
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
    many = {f"w{i}": torch.zeros(1) for i in range(9)}
    for other, held in ((torch.zeros(3), "Tensor"), ({"weights": 1}, "weights"), (many, r".*w4 and 4 more\. Use")):
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


def recording(source: Path, folder: Path, *numbers: int) -> Path:
    """Copy some episodes of a simulated recording, with its rig."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("rig.toml", *(f"episode_init_{number}.hdf5" for number in numbers)):
        shutil.copy(source / name, folder / name)
    return folder


def acting(folder: Path, **changes: object) -> TrainConfig:
    """Return the config of one step of a policy on joints alone, which is quick."""
    plain = {"vision": "none", "region_tokens": False, "touch_tokens": False}
    entries = {"steps": 1, "hsa": {"weight": 0.0}, "policy": plain, "views": [], "contact_share": "natural", **changes}
    return small_training(folder, folder.parent / "run", **entries)


def names_of(data: Data) -> list[list[str]]:
    parts = (data.train, data.held_out, data.test)
    return [[] if part is None else [job.ref.path.name for job in part.jobs] for part in parts]


def test_a_run_is_judged_on_its_own_held_out_episodes_after_more_were_recorded(
    regrasp_folder: Path, tmp_path: Path
) -> None:
    config = acting(recording(regrasp_folder, tmp_path / "data", 0, 1))
    out, before = train(config, progress=False), load_data(config, progress=False)
    statistics = (out / "statistics.json").read_text()
    recording(regrasp_folder, tmp_path / "data", 2, 3)
    assert names_of(load_data(config, progress=False)) != names_of(before)
    after = load_data(config, progress=False, run=run_beside(out / "config.toml"))
    assert names_of(after) == names_of(before) and after.statistics == before.statistics
    assert after.episodes == before.episodes == EpisodeLists.load(out)
    assert EpisodeLists.model_validate_json(load_checkpoint(out / "checkpoints/step_00000001.pt")["episodes"])
    summary = evaluate(out, progress=False)
    assert summary.action_error is not None and summary.action_error.moments == len(before.held_out)
    assert summary.judged_on == "held-out" and "selected on these episodes" in summary.text()
    assert (out / "statistics.json").read_text() == statistics


def test_the_doctor_of_a_run_folder_checks_the_data_of_that_run(
    regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train(acting(recording(regrasp_folder, tmp_path / "data", 0, 1)), progress=False)
    recording(regrasp_folder, tmp_path / "data", 2, 3)
    (tmp_path / "elsewhere.toml").write_text((out / "config.toml").read_text())
    checked: list[Data] = []

    def recorder(config: TrainConfig, *, data: Data, progress: bool) -> Report:
        checked.append(data)
        return Report("doctor", "run", ())

    monkeypatch.setattr(diagnose, "diagnose", recorder)
    assert doctor(out / "config.toml") == doctor(tmp_path / "elsewhere.toml") == 0
    assert checked[0].episodes == EpisodeLists.load(out) != checked[1].episodes


def test_a_run_is_judged_on_its_own_rig_after_the_rig_file_was_edited(regrasp_folder: Path, tmp_path: Path) -> None:
    folder = recording(regrasp_folder, tmp_path / "data", 0, 1)
    config = small_training(folder, tmp_path / "run", steps=1)
    out = train(config, progress=False)
    moved(folder / "rig.toml")
    old, new = load_data(config, progress=False, run=out), load_data(config, progress=False)
    assert old.rigs[0] == load_rig(regrasp_folder / "rig.toml") != new.rigs[0]
    key = "left_wrist-tactile1"
    assert not np.array_equal(old.train.views[key].box, new.train.views[key].box, equal_nan=True)


def moved(rig_file: Path) -> None:
    """Move the principal point of the wrist camera by 60 px."""
    rig = load_rig(rig_file)
    camera = rig.cameras["left_wrist"]
    K = [list(row) for row in camera.K]
    K[0][2] += 60
    edited = camera.model_copy(update={"K": tuple(map(tuple, K))})
    rig.model_copy(update={"cameras": {**rig.cameras, "left_wrist": edited}}).save(rig_file)


def test_a_resumed_run_refuses_other_episodes_other_statistics_and_another_rig_by_name(
    regrasp_folder: Path, tmp_path: Path
) -> None:
    folder = recording(regrasp_folder, tmp_path / "data", 0, 1, 2)
    config = acting(folder)
    out = train(config, progress=False)
    kept = (out / "rig.toml").read_text(), (out / "episodes.json").read_text()
    longer = config.model_copy(update={"validate_every": 1})
    train(longer, resume=True, progress=False)
    recording(regrasp_folder, folder, 3)
    with pytest.raises(InputError, match=r"init_\d\.hdf5 (is new among|left) the .* episodes.*statistics\.json"):
        train(longer, resume=True, progress=False)
    (folder / "episode_init_3.hdf5").unlink()
    state = load_checkpoint(out / "checkpoints/step_00000001.pt")
    stored = Statistics.model_validate_json(state["statistics"])
    for factor, refused in ((1 + 1e-12, False), (1 + 1e-6, True)):
        other = stored.model_copy(update={"qpos_mean": tuple(factor * value for value in stored.qpos_mean)})
        torch.save({**state, "statistics": other.model_dump_json()}, out / "checkpoints/step_00000001.pt")
        with pytest.raises(InputError, match=r"changed: statistics\.json: qpos_mean\. ") if refused else nullcontext():
            train(longer, resume=True, progress=False)
            assert Statistics.load(out / "statistics.json") == other != load_data(longer, progress=False).statistics
    torch.save(state, out / "checkpoints/step_00000001.pt")
    moved(folder / "rig.toml")
    with pytest.raises(InputError, match=r"changed: rig\.toml: cameras\.left_wrist\.K\. Restore"):
        train(longer, resume=True, progress=False)
    assert ((out / "rig.toml").read_text(), (out / "episodes.json").read_text()) == kept


def test_a_copy_of_a_recording_in_two_parts_is_refused_by_name(regrasp_folder: Path, tmp_path: Path) -> None:
    folder = recording(regrasp_folder, tmp_path / "data", 0)
    shutil.copy(folder / "episode_init_0.hdf5", folder / "backup.hdf5")
    message = r"(backup|init_0)\.hdf5: this held-out episode is a copy.*(init_0|backup)"
    with pytest.raises(InputError, match=message):
        load_data(acting(folder), progress=False)
    trim_episode(folder / "episode_init_0.hdf5", folder / "backup.hdf5", start=9, overwrite=True)
    with pytest.raises(InputError, match=message):
        load_data(acting(folder), progress=False)


def test_the_test_part_is_judged_and_neither_trained_on_nor_validated(
    regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "FEWEST", 4)
    monkeypatch.setattr(sampling, "FEWEST_TEST", 1)
    config = acting(recording(regrasp_folder, tmp_path / "data", 0, 1, 2, 3), test=0.25)
    data = load_data(config, progress=False)
    assert [len(names) for names in names_of(data)] == [2, 1, 1]
    assert len({name for names in names_of(data) for name in names}) == 4
    assert data.judged is data.test and data.judged_on == "test"
    summary = evaluate(train(config, data=data, progress=False), progress=False)
    assert summary.action_error is not None and summary.action_error.moments == len(data.judged)
    assert summary.judged_on == "test" and "test episodes" in summary.text() and "selected on" not in summary.text()


def test_split_seed_alone_decides_on_the_parts(regrasp_folder: Path, tmp_path: Path) -> None:
    folder = recording(regrasp_folder, tmp_path / "data", 0, 1, 2, 3)
    first, again, other = (
        names_of(load_data(acting(folder, seed=seed, split_seed=split), progress=False))
        for seed, split in ((0, 0), (1, 0), (0, 1))
    )
    assert first == again != other


def test_moved_recordings_are_found_by_name_and_content(regrasp_folder: Path, tmp_path: Path) -> None:
    out = train(acting(recording(regrasp_folder, tmp_path / "data", 0, 1)), progress=False)
    before = load_data(load_config(out / "config.toml"), progress=False, run=out)
    (tmp_path / "data").rename(tmp_path / "day")
    shutil.copytree(tmp_path / "day", tmp_path / "new" / "day")
    (tmp_path / "day").rename(tmp_path / "away")
    config = load_config(out / "config.toml")
    with pytest.raises(
        InputError, match=r"init_\d\.hdf5: .* run .* missing.*contains no file of this name.*config\.toml"
    ):
        load_data(config, progress=False, run=out)
    entry = config.data[0].model_copy(update={"path": str(tmp_path / "new")})
    here = config.model_copy(update={"data": (entry,)})
    (out / "config.toml").write_text(config_text(here))
    after = load_data(here, progress=False, run=out)
    assert names_of(after) == names_of(before) and after.train.hashes == before.train.hashes
    with h5py.File(tmp_path / "new/day/episode_init_0.hdf5", "r+") as file:
        file["action"][7] += 1.0
    with pytest.raises(InputError, match=r"episode_init_0\.hdf5.*contains 1 file of this name with other content\. "):
        load_data(here, progress=False, run=out)


def test_the_layout_file_of_an_episode_is_found_from_another_folder(
    regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recording(regrasp_folder, tmp_path / "data", 0, 1)
    shutil.copy(Path(__file__).parents[2] / "datasets" / "xtrainer.toml", tmp_path / "lab.toml")
    monkeypatch.chdir(tmp_path)
    entry = {"path": str(folder), "rig": str(folder / "rig.toml"), "layout": "lab.toml"}
    out = train(acting(folder, data=[entry]), progress=False)
    assert {entry.layout for entry in EpisodeLists.load(out).train} == {str(tmp_path / "lab.toml")}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(load_data(load_config(out / "config.toml"), progress=False, run=out).train)


def lists_of(**parts: str) -> EpisodeLists:
    """Return lists in which each letter is the hash of an episode."""
    entries = {
        part: tuple(EpisodeEntry(path=f"/{letter}.hdf5", group="", data=0, hash=letter) for letter in letters)
        for part, letters in parts.items()
    }
    return EpisodeLists(**{"train": (), "held_out": (), **entries})


def checkpoint_of(folder: Path, lists: EpisodeLists) -> str:
    """Return the path of a checkpoint file with the given lists."""
    folder.mkdir(exist_ok=True)
    texts = {"measure": "action", "step": 1, "value": 0.5, "episodes": lists.model_dump_json()}
    return str(save_best(folder, {"model": {"w": torch.zeros(1)}, **texts}))


@pytest.mark.parametrize(
    ("source", "own", "refused"),
    [
        ({"train": "abc", "held_out": "d"}, {"train": "abc", "held_out": "d"}, None),
        ({"train": "abc", "held_out": "d"}, {"train": "cde", "held_out": "f", "test": "g"}, None),
        ({"train": "abc", "held_out": "d"}, {"train": "bcd", "held_out": "a"}, r"/a\.hdf5 \(held-out; trained on it\)"),
        (
            {"train": "abc"},
            {"train": "c", "held_out": "d", "test": "b"},
            r"/b\.hdf5 \(test; trained .*\[\[data\]\].*, or",
        ),
        (
            {"train": "abc", "held_out": "d"},
            {"held_out": "e", "test": "d"},
            r"/d\.hdf5 \(test; selected .* test = 0, or",
        ),
        ({"train": "abc", "test": "d"}, {"train": "a", "held_out": "d", "test": "e"}, None),
    ],
)
def test_initial_weights_may_not_come_from_episodes_that_judge_the_run(
    tmp_path: Path, source: dict[str, str], own: dict[str, str], refused: str | None
) -> None:
    init = checkpoint_of(tmp_path / "first", lists_of(**source))
    config = small_training(tmp_path, tmp_path / "run", init=init)
    with pytest.raises(InputError, match=f"init = '{init}'.*{refused}") if refused else nullcontext():
        seen = with_initial_weights(config, lists_of(**own)).before
        assert "".join(seen.trained + seen.selected) == source["train"] + source.get("held_out", "")


def test_what_the_weights_of_a_run_come_from_goes_on_to_the_runs_after_it(tmp_path: Path) -> None:
    first = checkpoint_of(tmp_path / "first", lists_of(train="a", held_out="b"))
    config = small_training(tmp_path, tmp_path / "run", init=first)
    second = checkpoint_of(tmp_path / "second", with_initial_weights(config, lists_of(train="c", held_out="d")))
    third = config.model_copy(update={"init": second})
    with pytest.raises(InputError, match=r"/a\.hdf5 \(held-out; trained on it\)"):
        with_initial_weights(third, lists_of(train="c", held_out="a"))


def test_a_run_that_starts_from_another_with_another_split_is_refused_and_leaves_no_folder(
    regrasp_folder: Path, tmp_path: Path
) -> None:
    folder = recording(regrasp_folder, tmp_path / "data", 0, 1, 2, 3)
    first = train(acting(folder, split_seed=0), progress=False)
    second = acting(folder, split_seed=1, init=str(first)).model_copy(update={"out": str(tmp_path / "second")})
    with pytest.raises(InputError, match=r"init = '.*/run'.*episode_init_\d\.hdf5 \(held-out; trained on it\)"):
        train(second, progress=False)
    assert not Path(second.out).exists()
    out = train(second.model_copy(update={"split_seed": 0}), progress=False)
    assert EpisodeLists.load(out).before == EpisodeLists.load(first).seen
    assert EpisodeLists.model_validate_json(load_checkpoint(out / "checkpoints/step_00000001.pt")["episodes"]).before


def test_an_episode_changed_in_its_place_is_refused(regrasp_folder: Path, tmp_path: Path) -> None:
    folder = recording(regrasp_folder, tmp_path / "data", 0, 1)
    config = acting(folder)
    out = train(config, progress=False)
    with h5py.File(folder / "episode_init_1.hdf5", "r+") as file:
        file["action"][7] += 1.0
    with pytest.raises(InputError, match=r"episode_init_1\.hdf5: the content differs.*train a new run"):
        load_data(config, progress=False, run=out)


@pytest.mark.parametrize(
    ("stated", "weight", "in_contact", "share"),
    [
        ("auto", 1.0, 2, 0.5),
        ("auto", 1.0, 0, 0.5),  # the sampler then states that there is no contact
        ("auto", 1.0, 5, None),
        ("auto", 1.0, 10, None),
        ("auto", 0.0, 2, None),
        ("natural", 1.0, 2, None),
        (0.9, 1.0, 2, 0.9),
    ],
)
def test_half_of_a_batch_is_in_contact_where_the_alignment_needs_it(
    stated: str | float, weight: float, in_contact: int, share: float | None
) -> None:
    entries = {"data": [{"path": "x", "rig": "y"}], "views": [{"camera": "c", "sensor": "s"}]}
    config = TrainConfig.model_validate({**entries, "hsa": {"weight": weight}, "contact_share": stated})
    assert contact_share(np.arange(10) < in_contact, config) == share
    default = TrainConfig.model_validate(entries)
    assert (default.batch_size, default.contact_share) == (64, "auto")


def test_a_config_that_states_no_share_trains_on_batches_half_in_contact(
    regrasp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = small_training(regrasp_folder, tmp_path / "run", batch_size=16, steps=1, validation_batches=1)
    config = TrainConfig.model_validate(stated.model_dump(exclude={"contact_share"}))
    data = load_data(config, progress=False)
    assert 0 < data.contact.mean() < 0.5
    shares: list[float | None] = []
    sampler = sampling.MomentSampler.__init__
    monkeypatch.setattr(
        sampling.MomentSampler,
        "__init__",
        lambda s, c, n, share, *more: shares.append(share) or sampler(s, c, n, share, *more),
    )
    train(config, data=data, progress=False)
    held_out = contact_share(contact_moments(data.held_out, config), config)
    assert shares == [0.5, held_out]
