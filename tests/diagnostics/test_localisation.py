"""The pointing game on maps whose answer is known, and a similarity map over a planted image."""

import numpy as np
import pytest
import torch

from tactile_align.config.features import EncoderConfig, FeatureConfig
from tactile_align.diagnostics.localisation import localise, millimetres_per_pixel, similarity_maps, token_centres
from tactile_align.features.towers import Towers
from tests.features.making import noise

SIZE, GRID = (160, 96), (6, 10)  # tokens of 16 px


def peaks(rows: list[int], columns: list[int]) -> np.ndarray:
    maps = np.zeros((len(rows), *GRID))
    maps[np.arange(len(rows)), rows, columns] = 1
    return maps


def test_peaks_in_the_box_hit_and_others_miss_by_their_distance() -> None:
    box = np.array([[31.5, 15.5, 63.5, 47.5]] * 4)
    maps = peaks([1, 2, 1, 5], [2, 3, 7, 2])
    found = localise(maps, box, SIZE, np.array([0, 0, 1, 1]), mm_per_px=np.full((4, 2), 0.5))
    assert found.hit == 0.5 and found.interval is None and found.episodes == 2
    assert found.chance == pytest.approx(4 / 60) and found.always_there == 1.0
    middle = np.array([47.5, 31.5])
    apart = [
        np.linalg.norm(np.array([c * 16 + 7.5, r * 16 + 7.5]) - middle) for r, c in ((1, 2), (2, 3), (1, 7), (5, 2))
    ]
    assert found.distance_px == pytest.approx(np.median(apart))
    assert found.distance_mm == pytest.approx(np.median(apart) / 2)


def test_a_flat_map_scores_chance_and_not_what_its_first_place_is_worth() -> None:
    box = np.array([[-0.5, -0.5, 31.5, 31.5]] * 3)
    found = localise(np.ones((3, *GRID)), box, SIZE, np.arange(3))
    assert found.hit == pytest.approx(found.chance) == pytest.approx(4 / 60)


def test_boxes_that_move_leave_little_to_a_fixed_guess() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, [120, 60], size=(400, 2))
    box = np.concatenate([corner, corner + 32], axis=1)
    inside = np.zeros(60)
    for place, (u, v) in enumerate(token_centres(SIZE, GRID).reshape(-1, 2).numpy()):
        inside[place] = np.mean((box[:, 0] <= u) & (u <= box[:, 2]) & (box[:, 1] <= v) & (v <= box[:, 3]))
    found = localise(rng.normal(size=(400, *GRID)), box, SIZE, np.arange(400) % 40)
    assert found.always_there == pytest.approx(inside.max())
    assert found.interval is not None and found.interval[0] < found.chance < found.interval[1]


def test_maps_that_are_not_finite_are_refused() -> None:
    maps = peaks([0, 0], [0, 0])
    maps[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"maps \[1\] are non-finite"):
        localise(maps, np.zeros((2, 4)), SIZE, np.zeros(2))


def test_a_pixel_grows_with_the_depth() -> None:
    K = np.array([[-500.0, 0, 160], [0, 500.0, 120], [0, 0, 1]])
    np.testing.assert_allclose(millimetres_per_pixel(np.array([0.1, 0.2]), K), [[0.2, 0.2], [0.4, 0.4]])
    K[1, 1] = 1000.0
    np.testing.assert_allclose(millimetres_per_pixel(np.array([0.1]), K), [[0.2, 0.1]])


def test_millimetres_are_those_of_the_scene_where_the_frame_is_stretched() -> None:
    # 640 x 480 to 224 x 224, f = 500 px, the sensor 0.1 m away: a token of 16 px is 16 * 640 / 224 stored px wide, and
    # less high, of 0.2 mm each.
    size, grid = (224, 224), (14, 14)
    shrunk = np.array([224 / 640, 224 / 480])
    mm = 0.2 / shrunk[None]
    centre = np.array([6 * 16 + 7.5, 5 * 16 + 7.5])
    box = np.concatenate([centre - 8, centre + 8])[None]
    for right, down, expected in ((4, 0, 4 * 16 / shrunk[0] * 0.2), (0, 4, 4 * 16 / shrunk[1] * 0.2), (3, 4, None)):
        maps = np.zeros((1, *grid))
        maps[0, 5 + down, 6 + right] = 1
        known = expected or 0.2 * 16 * np.hypot(3 / shrunk[0], 4 / shrunk[1])
        assert localise(maps, box, size, np.zeros(1), mm_per_px=mm).distance_mm == pytest.approx(known)


def test_the_map_of_a_region_feature_peaks_where_the_region_is() -> None:
    torch.manual_seed(0)
    vision = EncoderConfig(model="ViT-demo", pretrained="scratch", image_size=(64, 48))
    towers = Towers(FeatureConfig(vision=vision, dim=24, margin=1.0)).eval()
    images = noise(3, 64, 48)
    at = [(1, 2), (4, 6), (3, 1)]
    centre = torch.tensor([[c * 8 + 3.5, r * 8 + 3.5] for r, c in at])
    box = torch.cat([centre - 8, centre + 8], dim=1)
    with torch.no_grad():
        h = towers.of_region(images, box).vector  # stands in for a touch that knows its region perfectly
    maps = similarity_maps(towers, h, images, box)
    assert maps.shape == (3, 6, 8)
    for one, place in zip(maps, at, strict=True):
        assert divmod(int(one.argmax()), 8) == place and float(one.max()) == pytest.approx(1, abs=1e-5)
