"""What the policy looks at: closed forms for attention that is even, and for tokens that are not there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.gaze import attention, pointing
from tactile_align.moments.dataset import Moments
from tactile_align.policies.build import LoadedRun
from tactile_align.training.data import load_data
from tests.training.conftest import small_training

KEY = "left_wrist-tactile1"
CAMERAS = {"vision": "resnet18", "cameras": ["top"], "image_size": [96, 64], "vision_weights": "scratch"}


@pytest.fixture(scope="module")
def seen(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Moments]:
    out = tmp_path_factory.mktemp("gaze") / "run"
    config = small_training(regrasp_folder, out, policy=CAMERAS, augment={"shift_px": 0})
    return config, load_data(config, progress=False).held_out


def even(run: LoadedRun) -> LoadedRun:
    """Make the last decoder layer's queries zero, so that it looks at all tokens alike."""
    assert run.model.act is not None
    layer: Any = run.model.act.decoder.layers[-1].multihead_attn
    with torch.no_grad():
        width = layer.embed_dim
        layer.in_proj_weight[:width] = 0
        layer.in_proj_bias[:width] = 0
    return run


def test_even_attention_gives_each_kind_its_share_of_the_tokens(seen: tuple[TrainConfig, Moments]) -> None:
    config, moments = seen
    rows = np.flatnonzero(moments.views[KEY].visible)[:3].tolist()
    found = attention(even(LoadedRun.untrained(config, moments)), rows)
    camera = 2 * 3  # a ResNet's tokens are 32 px wide: 96x64 px
    total = 2 + camera + 16 + 16
    tokens = {"latent": 1, "joints": 1, "camera top": camera, f"region {KEY}": 16, "touch tactile1": 16}
    assert set(found.shares) == set(tokens)
    for kind, count in tokens.items():
        assert_allclose(found.shares[kind], count / total, rtol=1e-5)
    assert found.maps[f"region {KEY}"].shape == (3, 4, 4)
    assert_allclose(found.maps["touch tactile1"], 1 / total, rtol=1e-5)


def test_frame_tokens_of_the_tower_are_a_kind_of_their_own(seen: tuple[TrainConfig, Moments]) -> None:
    whole, _ = seen
    policy = whole.policy.model_copy(update={"vision": "tower", "cameras": (), "vision_weights": None})
    config = whole.model_copy(update={"policy": policy})
    moments = load_data(config, progress=False).held_out
    found = attention(even(LoadedRun.untrained(config, moments)), np.flatnonzero(moments.views[KEY].visible)[:3])
    total = 2 + 24 + 16 + 16  # the tower's grid is 4 x 6
    assert_allclose(found.shares["camera left_wrist"], 24 / total, rtol=1e-5)
    assert found.maps["camera left_wrist"].shape == (3, 4, 6)
    assert_allclose(found.maps[f"region {KEY}"], 1 / total, rtol=1e-5)


@pytest.mark.parametrize("touches", [False, True])
def test_a_point_is_a_kind_of_its_own_beside_the_touches(
    regrasp_folder: Path, tmp_path: Path, seen: tuple[TrainConfig, Moments], touches: bool
) -> None:
    whole, _ = seen
    views, policy = [{"camera": "top", "sensor": "tactile1"}], {"region_tokens": False, "touch_tokens": touches}
    config = small_training(
        regrasp_folder,
        tmp_path / "run",
        views=views,
        policy={"vision": "none", "pointer_token": True, **policy},
        pointer={"views": ["top-tactile1"], "width": 16, "most": 2, "touch": True},
        augment={"shift_px": 0},
        cache=whole.cache,
    )
    found = attention(even(LoadedRun.untrained(config, load_data(config, progress=False).held_out)), [0, 1])
    total = 2 + 16 * touches + 1
    tokens = {"latent": 1, "joints": 1, "point top-tactile1": 1} | ({"touch tactile1": 16} if touches else {})
    assert set(found.shares) == set(tokens) and "point top-tactile1" not in found.maps
    for kind, count in tokens.items():
        assert_allclose(found.shares[kind], count / total, rtol=1e-5)
    assert_allclose(sum(found.shares.values()), 1.0, rtol=1e-5)


def test_tokens_of_a_region_without_a_box_get_no_attention(seen: tuple[TrainConfig, Moments]) -> None:
    config, moments = seen
    run = even(LoadedRun.untrained(config, moments))
    column = moments.views[KEY].visible
    before = column.copy()
    try:
        column[:2] = [True, False]
        found = attention(run, [0, 1])
    finally:
        column[:] = before
    share = found.shares[f"region {KEY}"]
    assert share[0] > 0.3 and share[1] == 0.0
    assert_allclose(sum(found.shares.values()), 1.0, rtol=1e-5)


def test_looking_leaves_the_policy_as_it_was(seen: tuple[TrainConfig, Moments]) -> None:
    config, moments = seen
    run = LoadedRun.untrained(config, moments)
    batch, model = moments.batch([0, 1]), run.model
    with torch.no_grad():
        before = model.predict(batch, model.see(batch))
        attention(run, [0, 1])
        after = model.predict(batch, model.see(batch))
    assert torch.equal(before, after)


def test_a_touch_that_is_its_region_points_with_cosine_one(seen: tuple[TrainConfig, Moments]) -> None:
    config, moments = seen
    run = LoadedRun.untrained(config, moments)
    towers = run.alignment.towers
    rows = np.flatnonzero(moments.views[KEY].visible)[:2].tolist()
    found = pointing(run, KEY, rows)
    rows_, columns = towers.vision.grid
    assert found.similarity.shape == (2, rows_, columns) and (np.abs(found.similarity) <= 1 + 1e-6).all()
    batch = moments.batch(rows)
    assert (found.touches == batch.touches["tactile1"].image.numpy()).all()
    # A box centred on a token: the map there is the pair's own cosine.
    u, v = 48 / columns * (columns // 2 + 0.5) - 0.5, 32 / rows_ * (rows_ // 2 + 0.5) - 0.5
    box = batch.views[KEY].box
    half = (box[:, 2:] - box[:, :2]) / 2
    centre = torch.tensor([u, v])
    with torch.no_grad():
        w = towers.of_region(batch.views[KEY].image, torch.cat([centre - half, centre + half], dim=1)).vector
        tau = towers.of_touch(batch.touches["tactile1"].image).vector
    own = torch.nn.functional.cosine_similarity(tau, w).numpy()
    assert_allclose(found.similarity[:, rows_ // 2, columns // 2], own, atol=1e-5)


def test_what_cannot_be_looked_at_is_refused(seen: tuple[TrainConfig, Moments]) -> None:
    config, moments = seen
    alone = TrainConfig.model_validate({**config.model_dump(), "train_policy": False})
    with pytest.raises(ValueError, match="train_policy = false"):
        attention(LoadedRun.untrained(alone, moments), [0])
    blind = TrainConfig.model_validate({**alone.model_dump(), "region": "opening"})
    with pytest.raises(ValueError, match="region = 'opening'"):
        pointing(LoadedRun.untrained(blind, moments), KEY, [0])
