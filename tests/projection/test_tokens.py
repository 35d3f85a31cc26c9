"""Token weights are areas: they agree with counting fine samples and add up to the box."""

import numpy as np
import pytest
import torch

from tactile_align.geometry.images import ImageMap
from tactile_align.projection.tokens import token_weights


def test_each_token_weighs_the_share_of_its_area_the_box_covers() -> None:
    image_map = ImageMap.identity(640, 480).resize(224, 192)
    box = np.array([100.3, 50.8, 333.3, 200.2])
    weights = token_weights(box, image_map, (12, 14))
    # Oracle: 20 x 20 samples in every pixel of the input, carried back to the stored image by hand.
    x = (np.arange(224 * 20) + 0.5) / 20 * 640 / 224 - 0.5
    y = (np.arange(192 * 20) + 0.5) / 20 * 480 / 192 - 0.5
    inside = ((y > box[1]) & (y < box[3]))[:, None] & ((x > box[0]) & (x < box[2]))[None]
    counted = inside.reshape(12, 320, 14, 320).mean((1, 3))
    assert weights.shape == (12, 14)
    np.testing.assert_allclose(weights, counted, atol=0.01)
    assert counted[0].sum() + counted.sum() > 0 and weights.max() == 1.0


def test_weights_add_up_to_the_area_of_the_box_in_tokens() -> None:
    image_map = ImageMap.identity(640, 480).resize(224, 224)
    box = np.array([[10.0, 20.0, 300.0, 400.0], [-0.5, -0.5, 639.5, 479.5]])
    total = token_weights(box, image_map, (7, 16)).sum((-2, -1))
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    np.testing.assert_allclose(total, area / (640 * 480) * 7 * 16, rtol=1e-12)


def test_a_box_that_is_one_token_lights_that_token_alone() -> None:
    image_map = ImageMap.identity(64, 48)
    weights = token_weights(np.array([15.5, 7.5, 31.5, 15.5]), image_map, (6, 4))
    expected = np.zeros((6, 4))
    expected[1, 1] = 1.0
    np.testing.assert_array_equal(weights, expected)


def test_a_turned_map_turns_the_weights() -> None:
    box = np.array([3.0, 5.0, 20.0, 30.0])
    plain = token_weights(box, ImageMap.identity(64, 48), (6, 4))
    turned = token_weights(box, ImageMap.identity(64, 48).rotate180(), (6, 4))
    np.testing.assert_allclose(turned, plain[::-1, ::-1], atol=1e-12)


def test_no_box_gives_nan_everywhere_and_a_cropped_away_box_gives_zero() -> None:
    image_map = ImageMap.identity(64, 48).crop(32, 0, 32, 48)
    weights = token_weights(np.array([[np.nan] * 4, [1.0, 1.0, 20.0, 20.0]]), image_map, (6, 4))
    assert np.isnan(weights[0]).all() and (weights[1] == 0).all()


def test_torch_agrees_and_one_crop_per_sample_is_possible() -> None:
    box = np.array([[10.0, 10.0, 30.0, 30.0], [10.0, 10.0, 30.0, 30.0]])
    u0 = np.array([0.0, 8.0])
    weights = token_weights(box, ImageMap.identity(64, 48).crop(u0, u0, 40, 32), (4, 5))
    for i in range(2):
        single = ImageMap.identity(64, 48).crop(float(u0[i]), float(u0[i]), 40, 32)
        np.testing.assert_allclose(weights[i], token_weights(box[i], single, (4, 5)), atol=1e-12)
    t = torch.tensor(box)
    other = token_weights(t, ImageMap.identity(64, 48).crop(torch.tensor(u0), torch.tensor(u0), 40, 32), (4, 5))
    np.testing.assert_allclose(other.numpy(), weights, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype: type) -> None:
    box = np.array([1.0, 2.0, 30.0, 40.0], dtype=dtype)
    assert token_weights(box, ImageMap.identity(64, 48), (6, 4)).dtype == dtype
