"""Cameras agree with OpenCV, also behind a pixel map, and give no pixel where the lens model ends."""

import re
from dataclasses import replace
from typing import get_args

import cv2
import numpy as np
import pytest
import torch

from tactile_align.calibration.camera import LENS_MODELS, Camera, LensModel
from tactile_align.calibration.intrinsics import FITS
from tactile_align.geometry.images import ImageMap

K = np.array([[611.0, 0.0, 322.5], [0.0, 598.0, 251.25], [0.0, 0.0, 1.0]])
BROWN = (-0.31, 0.12, 0.0011, -0.0007, -0.02)
STEPS = {
    "as it is": [],
    "turned": [["rotate180"]],
    "mirrored": [["flip_u"]],
    "upside down": [["flip_v"]],
    "cropped": [["crop", 220, 150, 260, 270]],
    "resized": [["resize", 400, 333]],
    "the X-Trainer's": [["rotate180"], ["crop", 220, 150, 260, 270], ["resize", 640, 480]],
    "letterboxed": [["flip_u"], ["letterbox", 224, 224]],
}


LENSES = {
    "pinhole": (),
    "brown": BROWN,
    "rational": (0.51, 0.22, 0.0011, -0.0007, 0.012, 0.83, 0.31, 0.021),
    "fisheye": (-0.031, 0.0042, -0.0035, 0.0006),
}


def camera(model: str) -> Camera:
    return Camera("test", 640, 472, K, model, LENSES[model])


def test_every_named_lens_model_has_its_functions_its_fit_and_a_camera_here() -> None:
    assert list(LENS_MODELS) == list(FITS) == list(get_args(LensModel)) == list(LENSES)


def points(count: int = 500, seed: int = 0, spread: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.05, 2.0, count)
    return np.stack([rng.uniform(-spread, spread, count) * z, rng.uniform(-0.4, 0.4, count) * z, z], axis=-1)


def by_opencv(one: Camera, p: np.ndarray) -> np.ndarray:
    if one.model == "fisheye":
        flat = np.ascontiguousarray(p.reshape(-1, 1, 3))
        uv, _ = cv2.fisheye.projectPoints(flat, np.zeros(3), np.zeros(3), one.K, np.array(one.distortion))
        return uv.reshape(*p.shape[:-1], 2)
    uv, _ = cv2.projectPoints(p.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), one.K, np.array(one.distortion))
    return uv.reshape(*p.shape[:-1], 2)


def oracle_map(steps: list[list], uv: np.ndarray, width: int, height: int) -> np.ndarray:
    """The pixel map step by step, in pixels counted from the image's upper left CORNER."""
    x, y = uv[..., 0] + 0.5, uv[..., 1] + 0.5
    for name, *v in steps:
        if name == "rotate180":
            x, y = width - x, height - y
        elif name == "flip_u":
            x = width - x
        elif name == "flip_v":
            y = height - y
        elif name == "crop":
            x, y, width, height = x - v[0], y - v[1], v[2], v[3]
        elif name == "resize":
            x, y, width, height = x * v[0] / width, y * v[1] / height, v[0], v[1]
        elif name == "letterbox":
            f = min(v[0] / width, v[1] / height)
            x, y = x * f + (v[0] - f * width) / 2, y * f + (v[1] - f * height) / 2
            width, height = v
    return np.stack([x - 0.5, y - 0.5], axis=-1)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("model", LENSES)
def test_pixels_agree_with_opencv_followed_by_the_pixel_map(model: str, steps: list[list]) -> None:
    one, p = camera(model), points()
    mapped = one.through(ImageMap.from_steps(640, 472, steps))
    uv, valid = mapped.project(p)
    assert valid.all()
    np.testing.assert_allclose(uv, oracle_map(steps, by_opencv(one, p), 640, 472), atol=1e-9)


def test_a_turned_image_has_negative_focal_lengths_and_the_same_distortion() -> None:
    turned = camera("brown").through(ImageMap.identity(640, 472).rotate180())
    np.testing.assert_allclose(turned.K, [[-611.0, 0, 639 - 322.5], [0, -598.0, 471 - 251.25], [0, 0, 1]], atol=1e-12)
    assert turned.distortion == BROWN


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("model", LENSES)
def test_unproject_is_the_inverse_of_project(model: str, steps: list[list]) -> None:
    p = points(spread=0.4)
    mapped = camera(model).through(ImageMap.from_steps(640, 472, steps))
    uv, _ = mapped.project(p)
    np.testing.assert_allclose(mapped.unproject(uv, p[:, 2]), p, atol=1e-8)


def test_a_pixel_no_ray_reaches_unprojects_to_nan() -> None:
    one = Camera("test", 640, 472, K, "brown", (-0.4, 0.0, 0.0, 0.0))
    # The distorted radius r (1 - 0.4 r^2) tops out at r = sqrt(1 / 1.2), 0.6086.
    assert np.isnan(one.unproject(np.array([322.5 + 611 * 0.62, 251.25]), np.array(1.0))).all()
    assert np.isfinite(one.unproject(np.array([322.5 + 611 * 0.60, 251.25]), np.array(1.0))).all()


def test_points_behind_or_on_the_camera_plane_have_no_pixel() -> None:
    p = np.array([[0.1, 0.1, -1.0], [0.1, 0.1, 0.0], [0.0, 0.0, 1.0]])
    uv, valid = camera("brown").project(p)
    assert valid.tolist() == [False, False, True]
    assert np.isnan(uv[:2]).all() and np.allclose(uv[2], [322.5, 251.25])


def test_beyond_the_radius_where_the_lens_model_folds_back_there_is_no_pixel() -> None:
    one = Camera("test", 640, 472, K, "brown", (-0.4, 0.0, 0.0, 0.0))
    limit = np.sqrt(1 / 1.2)
    assert one.radius_limit == pytest.approx(limit, abs=1e-12)
    _, valid = one.project(np.array([[limit - 1e-6, 0, 1.0], [limit + 1e-6, 0, 1.0]]))
    assert valid.tolist() == [True, False]


@pytest.mark.parametrize(
    ("model", "k"),
    [
        ("brown", (-0.4, 0.05, 0.0, 0.0, 0.0)),
        ("rational", (-0.5, 0.05, 0.0, 0.0, 0.01, 0.1, 0.02, 0.0)),
        ("fisheye", (-0.3, 0.01, -0.002, 0.0)),
    ],
)
def test_the_lens_limit_is_where_the_distorted_radius_stops_growing(model: str, k: tuple[float, ...]) -> None:
    one = Camera("test", 640, 472, K, model, k)
    r = np.linspace(1e-3, 3.0, 300_000)
    uv = by_opencv(one, np.stack([r, 0 * r, np.ones_like(r)], axis=-1))
    folds = r[np.argmax(np.diff(uv[:, 0]) < 0)]
    assert one.radius_limit == pytest.approx(folds, abs=2e-5)


@pytest.mark.parametrize("model", ["brown", "rational", "fisheye"])
def test_wide_angles_are_inverted_up_to_the_lens_limit(model: str) -> None:
    one = camera(model)
    reach = min(one.radius_limit * 0.98, 1.4)
    angle, r = np.meshgrid(np.linspace(0, 6.2, 40), np.linspace(0, reach, 60))
    p = np.stack([r * np.cos(angle), r * np.sin(angle), np.ones_like(r)], axis=-1)
    uv, valid = one.project(p)
    assert valid.all()
    np.testing.assert_allclose(one.unproject(uv, p[..., 2]), p, atol=1e-6)


def test_the_calibrated_radius_limits_a_pinhole_too() -> None:
    one = Camera("test", 640, 472, K, valid_radius=0.5)
    _, valid = one.project(np.array([[0.3, 0.39, 1.0], [0.3, 0.41, 1.0], [-0.6, -0.78, 2.0]]))
    assert valid.tolist() == [True, False, True]


@pytest.mark.parametrize("model", LENSES)
def test_torch_gives_numpys_pixels_keeps_dtype_and_is_differentiable(model: str) -> None:
    one, p = camera(model), points(12).reshape(3, 4, 3)
    p[0, 0, 2] = -1.0
    t = torch.tensor(p, dtype=torch.float32, requires_grad=True)
    uv, valid = one.project(t)
    expected, expected_valid = one.project(p)
    assert uv.dtype == torch.float32 and uv.shape == (3, 4, 2)
    assert valid.numpy().tolist() == expected_valid.tolist()
    np.testing.assert_allclose(uv.detach().numpy(), expected, atol=1e-3, equal_nan=True)
    uv[valid].sum().backward()
    assert t.grad is not None and torch.isfinite(t.grad).all()


def test_an_image_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"640x472.*for 480x640"):
        camera("pinhole").through(ImageMap.identity(480, 640))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "brown", "distortion": (0.1,)}, "4 or 5 distortion coefficients, got 1"),
        ({"model": "fish-eye"}, "'fish-eye'.*: pinhole, brown, rational, fisheye"),
        ({"K": K / 1000 * np.array([[1.0], [1.0], [1000.0]])}, "below one pixel"),
        ({"K": K.T}, "K has the last row"),
        ({"K": K * np.nan}, "K has an entry that is not finite"),
        ({"valid_radius": 0.0}, "valid_radius = 0.0 is not > 0"),
    ],
)
def test_a_wrong_camera_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Camera(**{"name": "wrist", "width": 640, "height": 472, "K": K, **changes})
    assert "wrist" in str(caught.value)


def test_a_lens_that_ends_inside_the_image_is_named_with_the_share_lost_and_a_radius() -> None:
    one = Camera("test", 640, 472, K, "brown", (-0.4, 0.0, 0.0, 0.0))
    fact, advice = one.early_end
    # The distorted radius ends at 2/3 sqrt(1 / 1.2); its growth, 1 - 1.2 r^2, is a third at r = sqrt(5) / 3.
    u, v = np.meshgrid(np.arange(640), np.arange(472))
    lost = (np.hypot((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]) > 2 / 3 * np.sqrt(1 / 1.2)).mean()
    assert "ends at radius 0.913" in fact
    assert float(re.search(r"([\d.]+)% of the pixels", fact)[1]) == pytest.approx(100 * lost, abs=0.3)
    assert float(re.search(r"valid_radius = ([\d.]+)", advice)[1]) == pytest.approx(np.sqrt(5) / 3, abs=2e-3)
    assert replace(one, valid_radius=0.7).early_end == ("", "")
    assert replace(one, distortion=(-0.2, 0.0, 0.0, 0.0)).early_end == ("", "")


def test_a_pole_inside_the_image_is_an_early_end() -> None:
    fact, _ = Camera("test", 640, 472, K, "rational", (-1.0, 0, 0, 0, 0, -4.0, 0, 0)).early_end
    assert "the rational lens ends at radius 0.500" in fact


@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_lens_that_is_not_finite_is_refused(model: str, value: float) -> None:
    k = list(camera(model).distortion)
    if k:
        with pytest.raises(ValueError, match=r"distortion must be finite numbers; got .*Calibrate the lens again"):
            Camera("test", 640, 472, K, model, (*k[:1], value, *k[2:]))
