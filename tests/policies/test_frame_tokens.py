"""What the policy sees of its cameras: whole frames as tokens of the vision tower, in one pass with the regions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tactile_align.calibration.rig import load_rig
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.episodes import open_episode
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import inputs_of, make_model
from tactile_align.policies.runtime import Policy
from tactile_align.training.data import load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tests.policies.conftest import observation

Maker = Callable[..., TrainConfig]
KEY, FRAME = "left_wrist-tactile1", "camera-left_wrist"
WHOLE = {"camera": "left_wrist", "sensor": "tactile1"}
CROP = {**WHOLE, "zoom": 2.2}


def made(config: TrainConfig) -> tuple[AlignedPolicy, MomentBatch]:
    """Return the untrained model of a config and a batch of contacts at its input size."""
    data = load_data(config, progress=False)
    rows = np.flatnonzero(data.contact)[::9][:4].tolist()
    return make_model(config, 7, 7).eval(), augment(data.train.batch(rows), config.augment)


def actions_of(model: AlignedPolicy, batch: MomentBatch) -> Tensor:
    return model.predict(batch, model.see(batch, alignment=False))


def inverted(batch: MomentBatch, key: str) -> MomentBatch:
    return batch.with_images({key: 255 - batch.images()[key]})


def test_a_policy_without_camera_options_sees_the_whole_frame_beside_its_crop(small_config: Maker) -> None:
    model, batch = made(small_config())
    assert batch.frames["left_wrist"].shape == (4, 32, 48, 3)
    with torch.no_grad():
        before, after = actions_of(model, batch), actions_of(model, inverted(batch, FRAME))
    assert (after - before).abs().amax(dim=(1, 2)).min() > 1e-6
    none = small_config(policy={"vision": "none"})
    assert made(none)[1].frames == {}


@pytest.mark.parametrize(("mode", "reaches"), [("joint", True), ("stop_gradient", False)])
def test_the_action_loss_trains_the_tower_by_whole_frames_unless_it_stops(
    small_config: Maker, mode: str, reaches: bool
) -> None:
    only = {"region_tokens": False, "touch_tokens": False}
    model, batch = made(small_config(policy=only, alignment={"mode": mode}))
    actions_of(model, batch).square().sum().backward()
    assert model.frame_to_act is not None and model.frame_to_act.weight.grad is not None
    tower = [p for p in model.alignment.towers.vision.parameters() if p.requires_grad]
    assert any(p.grad is not None and bool(p.grad.any()) for p in tower) == reaches


def test_the_images_of_a_view_without_zoom_are_the_policys_frames(small_config: Maker) -> None:
    model, batch = made(small_config(views=[{**CROP, "name": "near"}, {**WHOLE, "name": "far"}]))
    assert batch.frames == {} and set(batch.views) == {"near", "far"}
    towers = model.alignment.towers
    with torch.no_grad():
        tokens = towers.vision.tokens(batch.views["far"].image)
        found = model.see(batch).frames["left_wrist"]
    rows, columns = tokens.shape[1:3]
    assert (rows, columns) == (4, 6) and found.shape[1] == 24, "a small grid is not enlarged"
    torch.testing.assert_close(found, tokens.flatten(1, 2))


def test_a_large_grid_of_frame_tokens_is_averaged_in_equal_blocks(small_config: Maker) -> None:
    tower = {"model": "ViT-demo", "pretrained": "scratch", "image_size": [112, 112]}
    model = make_model(small_config(features={"vision": tower}), 7, 7)
    tokens = torch.randn(2, 14, 14, model.alignment.towers.vision.width)
    blocks = tokens.reshape(2, 7, 2, 7, 2, -1).mean(dim=(2, 4)).flatten(1, 2)
    torch.testing.assert_close(model.alignment.towers.of_frame(tokens), blocks)


def test_frames_regions_and_region_negatives_share_one_pass(
    small_config: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [CROP, {**WHOLE, "camera": "top"}]
    model, batch = made(small_config(views=views, hsa={"region_negatives": 4, "camera_negative": True}))
    vision, passes = model.alignment.towers.vision, list[int]()
    plain = vision.tokens

    def counted(images: Tensor) -> Tensor:
        passes.append(len(images))
        return plain(images)

    monkeypatch.setattr(vision, "tokens", counted)
    model(batch)
    assert passes == [4, 3 * 4], "the touches, then crop, view of the top camera and whole frame of the wrist"


def test_before_act_is_trained_whole_frames_are_not_encoded(small_config: Maker) -> None:
    model, batch = made(small_config())
    assert model.see(batch, action=False).frames == {} and set(model.see(batch).frames) == {"left_wrist"}


def test_a_whole_frame_and_a_crop_of_one_pair_train_as_two_views(small_config: Maker) -> None:
    views = [{**CROP, "name": "near"}, {**WHOLE, "weight": 0.5}]
    record = read_metrics(train(small_config(views=views, steps=1), progress=False) / "metrics.jsonl")[0]
    assert record["hsa"] == pytest.approx(record["hsa/near"] + 0.5 * record[f"hsa/{KEY}"], abs=1e-5)
    assert record["hsa/near"] != record[f"hsa/{KEY}"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": [CROP, WHOLE]}, rf"several entries with the name {KEY}.*different `name`"),
        ({"policy": {"vision": "resnet18"}}, r"policy.cameras = \[\].*'resnet18' needs both.*presets conservative"),
        ({"policy": {"cameras": ["top"]}}, r"policy.cameras = \('top',\), but only policy.vision = 'resnet18'"),
        ({"views": [], "hsa": {"weight": 0.0}}, r"no \[\[views\]\] entry, but policy.vision = 'tower'.*or 'none'"),
        ({"views": [{**CROP, "name": "a/b"}]}, r"name"),
        ({"views": [{**CROP, "name": "tactile1"}]}, r"view with the name tactile1, which is also the name of a sensor"),
    ],
)
def test_options_that_do_not_fit_what_the_policy_sees_are_refused(
    small_config: Maker, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


def test_a_view_named_as_another_input_is_refused(small_config: Maker, regrasp_folder: Path) -> None:
    rig = load_rig(regrasp_folder / "rig.toml")
    for name in ("tactile1", FRAME):
        with pytest.raises(ValueError, match=rf"the name {name}.*another `name`"):
            inputs_of(small_config(views=[{**CROP, "name": name}]), rig)


@pytest.mark.parametrize("views", [[CROP], [WHOLE]], ids=["crop", "whole"])
def test_a_policy_of_frames_alone_acts_as_it_was_trained_without_boxes_and_touches(
    small_config: Maker, views: list[dict[str, Any]]
) -> None:
    config = small_config(views=views, policy={"region_tokens": False, "touch_tokens": False}, steps=1)
    data = load_data(config, progress=False)
    policy = Policy.load(train(config, data=data, progress=False))
    assert set(policy.needs.cameras) == {"left_wrist"} and not policy.needs.touches and not policy.needs.sensors
    batch = augment(data.train.batch([0, 70]), config.augment)
    with torch.no_grad():
        expected = data.statistics.restore_action(actions_of(policy.model, batch).double())
    with open_episode(data.train.jobs[0].ref) as episode:
        found = np.stack([policy.act(observation(episode, t)) for t in (0, 70)])
    # Training decodes JPEGs no larger than needed, which moves pixels by a fraction of a grey level.
    assert np.abs(found - np.asarray(expected)).max() < 0.03
    assert np.abs(found[0] - found[1]).max() > 1e-4
