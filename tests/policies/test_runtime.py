"""Policy.load(run).act(observation): the batch path of training, one observation at a time."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from tactile_align.calibration.rig import Verified, load_rig
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.codec import encode_png
from tactile_align.datasets.contact import ContactWatch, contact_of
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.moments.augment import augment
from tactile_align.policies.act import resnet18_backbone
from tactile_align.policies.build import make_model
from tactile_align.policies.runtime import Policy, TemporalEnsembler
from tactile_align.projection.episode_boxes import no_contact_image
from tactile_align.training.data import Data, load_data, save_rig
from tactile_align.training.loop import train
from tests.features.making import save_clip
from tests.policies.conftest import observation
from tests.training.conftest import small_training

Run = tuple[TrainConfig, Data, Path]


@pytest.fixture(scope="session")
def run(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run with zoomed region tokens, touch tokens and a camera of ACT's own."""
    policy = {"vision": "resnet18", "cameras": ["top"], "image_size": [64, 48], "vision_weights": "scratch"}
    config = small_training(regrasp_folder, tmp_path_factory.mktemp("runtime") / "run", policy=policy, steps=2)
    data = load_data(config, progress=False)
    return config, data, train(config, data=data, progress=False)


def batch_actions(policy: Policy, data: Data, rows: list[int], whole: bool = True) -> np.ndarray:
    """Return the actions of training's own path: moments of the first episode, centred views, one batch.

    Training decodes JPEGs no larger than an input needs, which moves pixels by a fraction of a grey level; `whole`
    puts fully decoded frames in their place, as a robot has them.
    """
    moments = data.train.batch(rows)
    job = data.train.jobs[0]
    with open_episode(job.ref) as episode:
        for one in (one for one in job.inputs if one.zoom is None and whole):
            there = one.image_map(*episode.width_height(one.stream))
            frames = [there.apply_to_image(episode.image(one.stream, t)) for t in rows]
            moments = moments.with_images({one.key: torch.from_numpy(np.stack(frames))})
    batch = augment(moments, policy.config.augment)
    with torch.no_grad():
        actions = policy.model.predict(batch, policy.model.see(batch))
    return np.asarray(data.statistics.restore_action(actions.double()))


def test_acting_on_recorded_moments_equals_the_batch_path(run: Run) -> None:
    _, data, folder = run
    policy = Policy.load(folder)
    rows = [0, 37, 70, 101]
    expected = batch_actions(policy, data, rows)
    with open_episode(data.train.jobs[0].ref) as episode:
        found = np.stack([policy.act(observation(episode, t)) for t in rows])
    assert found.shape == expected.shape == (4, 6, 7)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - batch_actions(policy, data, rows, whole=False)).max() < 0.03


def test_a_commanded_gripper_is_held_across_steps_as_in_training(run: Run, tmp_path: Path) -> None:
    folder = run[2]
    commanded = tmp_path / "commanded"
    shutil.copytree(folder, commanded)
    rig = load_rig(folder / "rig.toml")
    rig = rig.with_gripper("left", reading="commanded")
    rig.save(commanded / "rig.toml")
    policy = Policy.load(commanded)
    entry = policy.config.data[0].model_copy(update={"rig": str(commanded / "rig.toml")})
    config = policy.config.model_copy(update={"data": (entry,)})
    again = load_data(config, progress=False)
    with open_episode(again.train.jobs[0].ref) as episode:
        flags = contact_of(episode.image("tactile1", t) for t in range(len(episode))).flags
        rows = list(range(int(np.flatnonzero(flags)[0]) - 2, int(np.flatnonzero(flags)[0]) + 12))
        found = []
        for t in rows:
            found.append(policy.act(observation(episode, t, contact={"tactile1": bool(flags[t])})))
    assert flags[rows].sum() > 2
    assert np.abs(np.stack(found) - batch_actions(policy, again, rows)).max() < 1e-5


def test_contact_is_seen_step_by_step_as_it_is_over_the_whole_episode(regrasp_folder: Path) -> None:
    agree = []
    for ref in list_episodes(regrasp_folder)[:2]:
        with open_episode(ref) as episode:
            touches = [episode.image("tactile1", t) for t in range(len(episode))]
        flags = contact_of(touches).flags
        watch = ContactWatch(touches[int(np.flatnonzero(~flags)[0])])
        agree.append(np.array([watch.update(touch) for touch in touches]) == flags)
    assert np.concatenate(agree).mean() > 0.97


def test_ensembling_averages_the_chunks_that_act_returns(run: Run) -> None:
    _, data, folder = run
    plain, ensembled = Policy.load(folder), Policy.load(folder, ensemble=0.01)
    mean = TemporalEnsembler(6, 0.01)
    with open_episode(data.train.jobs[0].ref) as episode:
        for t in range(9):
            seen = observation(episode, t)
            expected = mean.update(torch.from_numpy(plain.act(seen)))
            assert np.abs(ensembled.act(seen) - expected.numpy()).max() < 1e-9


def test_a_given_reference_replaces_the_file_of_the_rig(run: Run) -> None:
    _, data, folder = run
    rig = load_rig(folder / "rig.toml").with_gripper("left", reading="commanded")
    rig = rig.with_sensor("tactile1", no_contact={"file": "gone.png"})
    with open_episode(data.train.jobs[0].ref) as episode:
        seen = observation(episode, 0)
        with pytest.raises(ValueError, match=r"gone\.png, which does not exist"):
            Policy.load(folder, rig=rig).act(seen)
        policy = Policy.load(folder, rig=rig)
        policy.reset(free={"tactile1": episode.image("tactile1", 0)})
        assert policy.act(seen).shape == (6, 7)


def test_a_run_that_is_moved_keeps_its_no_contact_images(run: Run, tmp_path: Path) -> None:
    _, data, folder = run
    moved, image = tmp_path / "moved", tmp_path / "rest.png"
    shutil.copytree(folder, tmp_path / "made")
    with open_episode(data.train.jobs[0].ref) as episode:
        seen, rest = observation(episode, 0), episode.image("tactile1", 0)
    image.write_bytes(encode_png(rest))
    rig = load_rig(folder / "rig.toml").with_gripper("left", reading="commanded")
    rig = rig.with_sensor("tactile1", no_contact={"file": str(image)})
    verified = Verified(when="2026-01-01", data_hash="0", verdict="pass")
    save_rig(rig.model_copy(update={"verified": verified}), tmp_path / "made", 0)
    image.unlink()
    (tmp_path / "made").rename(moved)
    policy = Policy.load(moved)
    assert policy.act(seen).shape == (6, 7) and policy.rig.verified == verified
    reference = policy.rig.sensor("tactile1").no_contact
    assert reference is not None
    assert np.array_equal(no_contact_image(reference, "tactile1"), rest)


def test_reset_forgets_the_episode(run: Run) -> None:
    _, data, folder = run
    policy = Policy.load(folder, ensemble=0.01)
    with open_episode(data.train.jobs[0].ref) as episode:
        first = policy.act(observation(episode, 0))
        policy.act(observation(episode, 5))
        policy.reset()
        assert np.array_equal(policy.act(observation(episode, 0)), first)


def spoil(seen: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Return a copy of an observation with one thing wrong."""
    bad = {**seen, "images": dict(seen["images"]), "touches": dict(seen["touches"])}
    what, name = [("images", "left_wrist"), ("images", "top"), ("touches", "tactile1")][rng.integers(3)]
    image = bad[what][name]
    height, width = image.shape[:2]
    match int(rng.integers(14)):
        case 0:
            del bad[what][name]
        case 1:
            bad[what][name] = image.astype([np.float32, np.float64, np.int64, np.uint16][rng.integers(4)])
        case 2:
            bad[what][name] = image[: rng.integers(0, height)]
        case 3:
            bad[what][name] = image[:, : rng.integers(0, width)]
        case 4:
            bad[what][name] = image[..., : rng.integers(0, 3)]
        case 5:
            bad[what][name] = image[None]
        case 6:
            bad[what][name] = [None, "frame.png", 3, image[:2].tolist()][rng.integers(4)]
        case 7:
            bad["qpos"] = bad["qpos"].copy()
            bad["qpos"][rng.integers(7)] = [np.nan, np.inf, -np.inf][rng.integers(3)]
        case 8:
            bad["qpos"] = rng.normal(size=rng.choice([0, 1, 6, 8, 14]))
        case 9:
            bad["qpos"] = [bad["qpos"][None], bad["qpos"].astype(int), None, "ready", {}][rng.integers(5)]
        case 10:
            del bad[["qpos", "images", "touches"][rng.integers(3)]]
        case 11:
            bad[["image", "state", "tactile", "QPOS"][rng.integers(4)]] = 1
        case 12:
            bad["contact"] = [{"tactile9": True}, {"tactile1": 0.3}, True][rng.integers(3)]
        case _:
            bad["qpos"] = bad["qpos"].copy()
            bad["qpos"][6] = rng.choice([-4.0, 7.0])  # the gripper's reading, as if z-scored
    return bad


def test_a_thousand_wrong_observations_give_one_clear_error_each(run: Run) -> None:
    _, data, folder = run
    policy, rng = Policy.load(folder), np.random.default_rng(4)
    with open_episode(data.train.jobs[0].ref) as episode:
        seen = observation(episode, 10)
    before = policy.act(seen)
    for _ in range(1000):
        with pytest.raises(ValueError) as caught:
            policy.act(spoil(seen, rng))
        text = str(caught.value)
        assert 40 < len(text) < 700 and any(word in text for word in ("got", "found", "has", "is", "unknown"))
    assert np.array_equal(policy.act(seen), before)


def test_more_cameras_than_the_policy_looks_at_are_left_alone(run: Run) -> None:
    _, data, folder = run
    policy = Policy.load(folder)
    with open_episode(data.train.jobs[0].ref) as episode:
        seen = observation(episode, 3)
    before = policy.act(seen)
    seen["images"]["right_wrist"] = "not even an image"
    assert np.array_equal(policy.act(seen), before)
    assert "'left_wrist' 640x480" in policy.needs.text()


@pytest.mark.parametrize("source", ["far", "clip.pt"], ids=["tag", "file"])
def test_a_policy_needs_neither_hub_nor_the_file_its_encoder_came_from(
    small_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    # Where the weights came from goes away after training; the tag's mean, std and activation must still be used.
    weights = tmp_path / "clip.pt"
    save_clip("ViT-demo", weights)
    tag = {"url": weights.as_uri(), "quick_gelu": True, "mean": (0.2, 0.5, 0.7), "std": (0.3, 0.2, 0.1)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-demo", {"far": tag})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pretrained = source if source == "far" else str(weights)
    resnet = tmp_path / "resnet.pt"
    torch.save(resnet18_backbone().state_dict(), resnet)
    base = small_config()
    tower = base.features.vision.model_copy(update={"pretrained": pretrained, "stem": "patch"})
    policy = {"vision": "resnet18", "cameras": ["top"], "image_size": [64, 48], "vision_weights": str(resnet)}
    config = small_config(steps=1, features={"vision": tower.model_dump(mode="json")}, policy=policy)
    folder = train(config, progress=False)
    with open_episode(list_episodes(config.data[0].path)[0]) as episode:
        seen = observation(episode, 9)
    before = Policy.load(folder).act(seen)
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    weights.unlink()
    resnet.unlink()
    with pytest.raises((ConnectionError, FileNotFoundError)):
        make_model(config, 7, 7)
    policy = Policy.load(folder)
    assert np.array_equal(policy.act(seen), before)
    mean = (0.2, 0.5, 0.7)  # for a file the mean that all tags of the model agree on
    assert policy.model.alignment.towers.vision.mean.flatten().tolist() == pytest.approx(mean)


def test_a_run_without_a_policy_is_refused(small_config: Callable[..., TrainConfig]) -> None:
    folder = train(small_config(steps=1, train_policy=False), progress=False)
    with pytest.raises(ValueError, match="alignment only"):
        Policy.load(folder)
