"""ImageMap against OpenCV: pixels, boxes, intrinsics and images; W differs from H everywhere."""

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tactile_align.geometry.images import ImageMap, exif_orientation

W, H = 64, 48


def smooth_image(width: int = W, height: int = H, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def test_the_recorders_turn_crop_and_stretch_land_where_worked_out_by_hand() -> None:
    steps = [["rotate180"], ["crop", 220, 150, 260, 270], ["resize", 640, 480]]
    recorder = ImageMap.from_steps(640, 480, steps)
    # Raw (300, 200) turns to (339, 279), is cut to (119, 129), then (119.5 * 640/260 - 0.5, 129.5 * 480/270 - 0.5).
    assert np.abs(recorder.apply(np.array([300.0, 200.0])) - [293.65384615, 229.72222222]).max() < 1e-6


steps = st.lists(
    st.one_of(
        st.just(("rotate180",)),
        st.just(("flip_u",)),
        st.just(("flip_v",)),
        st.tuples(st.just("crop"), st.integers(-5, 20), st.integers(-5, 20), st.integers(8, 60), st.integers(8, 60)),
        st.tuples(st.just("resize"), st.integers(8, 90), st.integers(8, 90)),
        st.tuples(st.just("letterbox"), st.integers(8, 90), st.integers(8, 90)),
    ),
    max_size=5,
)


@given(steps, st.integers(0, 99))
def test_the_inverse_brings_every_pixel_back(chain: list[tuple], seed: int) -> None:
    image_map = ImageMap.from_steps(W, H, chain)
    uv = np.random.default_rng(seed).uniform(-50, 150, (9, 2))
    assert np.abs(image_map.inverse().apply(image_map.apply(uv)) - uv).max() < 1e-6


@given(steps, st.integers(0, 99))
def test_projecting_with_mapped_K_equals_cv2_projection_followed_by_the_map(chain: list[tuple], seed: int) -> None:
    rng = np.random.default_rng(seed)
    K = np.array([[70.0, 0, 30], [0, 66.0, 25], [0, 0, 1]])
    distortion = np.array([-0.2, 0.05, 0.003, -0.002, 0.01])
    p = rng.uniform([-0.3, -0.3, 0.8], [0.3, 0.3, 2.0], (12, 3))
    image_map = ImageMap.from_steps(W, H, chain)
    raw, _ = cv2.projectPoints(p, np.zeros(3), np.zeros(3), K, distortion)
    mapped, _ = cv2.projectPoints(p, np.zeros(3), np.zeros(3), np.eye(3), distortion)
    normal = np.concatenate([mapped[:, 0], np.ones((12, 1))], axis=1)
    through_K = (normal @ image_map.apply_to_K(K).T)[:, :2]
    assert np.abs(through_K - image_map.apply(raw[:, 0])).max() < 1e-6


def test_a_turn_makes_focal_lengths_negative_and_keeps_the_camera_frame() -> None:
    K = ImageMap.identity(640, 480).rotate180().apply_to_K(np.array([[600.0, 0, 300], [0, 590.0, 250], [0, 0, 1]]))
    assert K.tolist() == [[-600, 0, 339], [0, -590, 229], [0, 0, 1]]


@settings(max_examples=40, deadline=None)
@given(steps, st.integers(0, 99))
def test_numpy_and_torch_resample_alike(chain: list[tuple], seed: int) -> None:
    image_map = ImageMap.from_steps(W, H, chain)
    image = smooth_image(seed=seed)
    by_torch = image_map.apply_to_image(torch.from_numpy(image)).numpy()
    assert np.abs(image_map.apply_to_image(image).astype(int) - by_torch).max() <= 2


@pytest.mark.parametrize("size", [(32, 24), (40, 20), (17, 31)])
def test_shrinking_is_opencvs_area_average_and_enlarging_its_linear_one(size: tuple[int, int]) -> None:
    image = smooth_image()
    small = ImageMap.identity(W, H).resize(*size)
    expected = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for given_image in (image, torch.from_numpy(image)):
        assert np.abs(np.asarray(small.apply_to_image(given_image)).astype(int) - expected).max() <= 1
    large = ImageMap.identity(W, H).resize(3 * size[0] + 64, 2 * size[1] + 48)
    expected = cv2.resize(image, (large.width, large.height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(large.apply_to_image(image).astype(int) - expected).max() <= 1


def test_an_image_is_cut_turned_and_flipped_exactly() -> None:
    image = smooth_image()
    start = ImageMap.identity(W, H)
    assert np.array_equal(start.rotate180().apply_to_image(image), image[::-1, ::-1])
    assert np.array_equal(start.flip_u().apply_to_image(image), image[:, ::-1])
    assert np.array_equal(start.crop(5, 7, 20, 11).apply_to_image(image), image[7:18, 5:25])
    outside = start.crop(-4, -3, 20, 11).apply_to_image(image, fill=9)
    assert (outside[:3] == 9).all() and (outside[:, :4] == 9).all() and np.array_equal(outside[3:, 4:], image[:8, :16])


def test_a_marked_patch_is_found_where_the_box_says() -> None:
    image = np.zeros((H, W, 3), dtype=np.uint8)
    image[20:30, 12:24] = 255
    box = np.array([11.5, 19.5, 23.5, 29.5])
    for chain in ([("rotate180",)], [("resize", 128, 144)], [("letterbox", 128, 128)], [("crop", 6, 9, 40, 30)]):
        image_map = ImageMap.from_steps(W, H, chain)
        bright = image_map.apply_to_image(image)[..., 0] > 127
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        found = [columns[0] - 0.5, rows[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5]
        assert np.abs(image_map.apply_to_box(box) - found).max() <= 0.5


def test_one_crop_per_sample_moves_images_boxes_and_K_each_by_its_own() -> None:
    image = torch.from_numpy(np.stack([smooth_image(seed=i) for i in range(3)]))
    u0, v0 = torch.tensor([0.0, 3.0, 7.5], dtype=torch.float64), torch.tensor([2.0, 0.0, 1.25], dtype=torch.float64)
    together = ImageMap.identity(W, H).crop(u0, v0, 40, 30).resize(20, 10)
    box = torch.tensor([[1.0, 2, 9, 8]] * 3, dtype=torch.float64)
    K = torch.tensor([[70.0, 0, 30], [0, 66.0, 25], [0, 0, 1]], dtype=torch.float64)
    images, moved, Ks = together.apply_to_image(image), together.apply_to_box(box), together.apply_to_K(K)
    for i in range(3):
        alone = ImageMap.identity(W, H).crop(float(u0[i]), float(v0[i]), 40, 30).resize(20, 10)
        assert np.abs(alone.apply_to_image(image[i].numpy()).astype(int) - images[i].numpy()).max() <= 1
        assert np.abs(alone.apply_to_box(box[i].numpy()) - moved[i].numpy()).max() < 1e-9
        assert np.abs(alone.apply_to_K(K.numpy()) - Ks[i].numpy()).max() < 1e-9


def test_an_image_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"48x64.*64x48"):
        ImageMap.identity(W, H).resize(20, 20).apply_to_image(np.zeros((W, H, 3), dtype=np.uint8))


def test_unknown_steps_are_named() -> None:
    with pytest.raises(ValueError, match=r"rotate90.*unknown step"):
        ImageMap.from_steps(W, H, [["rotate90"]])
    with pytest.raises(ValueError, match="got 2 numbers, but crop needs 4"):
        ImageMap.from_steps(W, H, [["crop", 1, 2]])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_the_orientation_tag_is_the_one_that_pillow_wrote(kind: str) -> None:
    for tag in (None, 1, 3, 6, 8):
        exif = Image.Exif()
        if tag is not None:
            exif[0x0112] = tag
        written = io.BytesIO()
        Image.fromarray(smooth_image()).save(written, kind, exif=exif)
        assert exif_orientation(written.getvalue()) == (tag or 1)
        assert exif_orientation(written.getvalue()[:60]) in (1, tag)
    assert exif_orientation(b"") == exif_orientation(b"\x89PNG\r\n\x1a\n\0\0") == 1
