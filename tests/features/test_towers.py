"""The two towers and the boxes beside the box."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tactile_align.config.features import EncoderConfig, FeatureConfig
from tactile_align.features.towers import OpeningRegion, Towers, place_boxes, shifted_boxes
from tests.features.making import noise

VISION = EncoderConfig(model="ViT-demo", pretrained="scratch", image_size=(64, 48))
TOUCH = EncoderConfig(model="ViT-demo", pretrained="scratch", image_size=(32, 48))
BOX = torch.tensor([[10.0, 8.0, 30.0, 24.0], [40.0, 20.0, 60.0, 40.0]])


def towers(**options: object) -> Towers:
    torch.manual_seed(0)
    return Towers(FeatureConfig(vision=VISION, touch=TOUCH, dim=24).model_copy(update=options))


def test_two_towers_give_features_and_policy_tokens() -> None:
    model = towers()
    touch, region = model.of_touch(noise(2, 32, 48)), model.of_region(noise(2, 64, 48), BOX)
    assert touch.vector.shape == region.vector.shape == (2, 24)
    assert touch.tokens.shape == (2, 16, 96) and region.tokens.shape == (2, 16, 96)
    assert model.scratch


def test_without_a_touch_tower_both_see_through_the_same_weights() -> None:
    model = Towers(FeatureConfig(vision=VISION, dim=24))
    assert model.touch is model.vision
    two = sum(p.numel() for p in towers().vision.parameters())
    assert sum(p.numel() for p in model.vision.parameters()) == two
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


def test_a_region_feature_hangs_on_what_is_in_the_box_and_the_box_moves_with_the_image() -> None:
    model = towers().eval()
    images = noise(2, 64, 48)
    with torch.no_grad():
        here, there = model.of_region(images, BOX).vector, model.of_region(images, BOX + 8).vector
    assert (here - there).norm(dim=1).min() > 1e-3


@pytest.mark.parametrize("pooling", ["grid", "mean", "mean_block", "attention", "gaussian"])
@pytest.mark.parametrize("rest", [{}, {"touch_pooling": "attention", "head": "mlp"}])
def test_every_trainable_tensor_of_the_towers_gets_gradient(pooling: str, rest: dict[str, str]) -> None:
    model = towers(pooling=pooling, **rest)
    touch, region = model.of_touch(noise(2, 32, 48)), model.of_region(noise(2, 64, 48), BOX)
    (touch.vector.square().sum() + region.vector.square().sum()).backward()
    for name, p in model.named_parameters():
        touched = p.grad is not None and bool((p.grad != 0).any())
        assert touched == p.requires_grad, name


def test_every_box_of_an_image_is_blurred_by_the_images_own_width() -> None:
    model = towers(pooling="gaussian", sigma_px="rig").eval()
    images = noise(2, 64, 48)
    sigma = torch.tensor([[2.0, 1.0], [6.0, 9.0]])
    with torch.no_grad():
        found = model.of_region(images, BOX, sigma).vector
        for row, (u, v) in enumerate(sigma.tolist()):
            alone = model.of_region(images[row : row + 1], BOX[row : row + 1], torch.tensor([[u, v]])).vector
            torch.testing.assert_close(found[row : row + 1], alone, atol=1e-5, rtol=1e-4)
        wider = model.of_region(images, BOX, sigma * torch.tensor([[1.0], [2.0]])).vector
        assert torch.equal(wider[0], found[0]) and not torch.allclose(wider[1], found[1], atol=1e-4)
        moved, _ = shifted_boxes(BOX, 2, (64, 48))
        others = model.of_boxes(images, moved, sigma)
        torch.testing.assert_close(others[:, 1], model.of_region(images, moved[:, 1], sigma).vector)


def test_other_regions_are_the_features_of_the_shifted_boxes() -> None:
    model = towers().eval()
    images = noise(2, 64, 48)
    with torch.no_grad():
        moved, _ = shifted_boxes(BOX, 3, (64, 48))
        found = model.of_boxes(images, moved)
        for k in range(3):
            torch.testing.assert_close(found[:, k], model.of_region(images, moved[:, k]).vector)


def test_shifted_boxes_are_moved_by_their_own_size_and_stay_in_the_image() -> None:
    moved, exist = shifted_boxes(BOX, 8, (64, 48))
    sides = BOX[:, None, 2:] - BOX[:, None, :2]
    torch.testing.assert_close(moved[..., 2:] - moved[..., :2], sides.expand(2, 8, 2))
    steps = (moved - BOX[:, None])[..., :2] / sides
    assert bool((steps.abs().round() == steps.abs()).all()) and steps.abs().max() == 1
    assert torch.equal(steps.abs().sum(dim=-1) > 0, exist), "only where there is none stands the box itself"
    centre = (moved[..., :2] + moved[..., 2:]) / 2
    assert bool((centre >= -0.5).all() and (centre <= torch.tensor([63.5, 47.5])).all())
    assert moved[0, 0].tolist() == [30.0, 8.0, 50.0, 24.0]
    assert moved[1, 0].tolist() == [20.0, 20.0, 40.0, 40.0], "to the right is outside, so the next is left"


@given(st.floats(-5, 60), st.floats(-5, 44), st.floats(2, 64), st.floats(2, 48), st.integers(1, 8))
def test_no_two_shifted_boxes_of_an_image_are_alike_and_none_that_fits_is_missing(
    u: float, v: float, wide: float, high: float, count: int
) -> None:
    moved, exist = shifted_boxes(torch.tensor([[u, v, u + wide, v + high]], dtype=torch.float64), count, (64, 48))
    places = {tuple(box) for box in moved[0][exist[0]].tolist()}
    assert len(places) == int(exist.sum())
    centres = [
        (u + wide / 2 + i * wide, v + high / 2 + j * high) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)
    ]
    fitting = sum(-0.5 <= x <= 63.5 and -0.5 <= y <= 47.5 for x, y in centres)
    assert int(exist.sum()) == min(count, fitting)


def test_the_baselines_look_at_all_of_the_image_or_at_the_farthest_corner() -> None:
    whole = place_boxes(BOX, "whole", (64, 48))
    assert whole.tolist() == [[-0.5, -0.5, 63.5, 47.5]] * 2
    far = place_boxes(BOX, "elsewhere", (64, 48))
    assert far.tolist() == [[43.5, 31.5, 63.5, 47.5], [-0.5, -0.5, 19.5, 19.5]]
    assert place_boxes(BOX, "box", (64, 48)) is BOX
    images = noise(2, 64, 48)
    model = towers(place="elsewhere", margin=1.0).eval()
    here = towers(margin=1.0).eval()
    with torch.no_grad():
        assert torch.equal(model.of_region(images, BOX).vector, here.of_region(images, far).vector)
        model = towers(place="whole", margin=2.0).eval()
        assert torch.equal(model.of_region(images, BOX).vector, here.of_region(images, whole).vector)


def test_the_opening_baseline_knows_nothing_but_the_opening() -> None:
    torch.manual_seed(0)
    baseline = OpeningRegion(8)
    found = baseline(torch.tensor([[0.01, 0.01], [0.01, 0.01], [0.03, 0.03]]))
    assert found.shape == (3, 8)
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2])


def test_a_touch_tower_of_another_size_refuses_the_views_images() -> None:
    with pytest.raises(ValueError, match=r"\(B, 48, 32, 3\)"):
        towers().of_touch(noise(2, 64, 48))


def test_a_wider_region_head_has_the_parameters_of_its_width_and_leaves_the_touch_head_alone() -> None:
    plain, wide = towers(pooling="mean"), towers(pooling="mean", head="region_mlp", head_width=70)
    more = [sum(p.numel() for p in model.parameters()) for model in (plain, wide)]
    assert more[1] - more[0] == 24 * 70 + 70 + 70 * 24 + 24
    assert sum(p.numel() for p in wide.touch_mlp.parameters()) == 0
    with pytest.raises(ValueError, match=r"head_width = 70, but head = 'linear' has no hidden layer"):
        FeatureConfig(head_width=70)


@pytest.mark.parametrize("time", ["channels", "last", "attention"])
def test_every_trainable_tensor_learns_from_a_window_of_touches(time: str) -> None:
    model = towers(touch_frames=2, touch_time=time)
    window = torch.cat([noise(2, 32, 48), noise(2, 32, 48, seed=1)], dim=3)
    touch, region = model.of_touch(window), model.of_region(noise(2, 64, 48), BOX)
    (touch.vector.square().sum() + region.vector.square().sum()).backward()
    for name, p in model.named_parameters():
        touched = p.grad is not None and bool((p.grad != 0).any())
        assert touched == p.requires_grad, name
    assert touch.tokens.shape == (2, 16, 96)
    assert (model.of_touch(window.flip(0)).vector.flip(0) - touch.vector).abs().max() < 1e-5
