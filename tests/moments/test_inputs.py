"""A frame decoded at reduced size is the frame decoded in full, to a few grey levels and in the same place."""

from pathlib import Path

import numpy as np
import pytest

from tactile_align.datasets.episodes import Episode, open_episode, write_episode
from tactile_align.geometry.images import ImageMap
from tactile_align.moments.inputs import Input, frame_of, reduced_map
from tests.benchmarks.episodes import scenes

WIDTH, HEIGHT, BLOB = 640, 480, np.array([211.3, 333.8])
SHRINKING = [
    Input("half", "top", 224, 168),
    Input("wide", "top", 224, 224),
    Input("box", "top", 224, 224, "letterbox"),
    Input("quarter", "top", 96, 72),
]


def with_blob(frame: np.ndarray) -> np.ndarray:
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    bump = 120 * np.exp(-((u - BLOB[0]) ** 2 + (v - BLOB[1]) ** 2) / (2 * 14**2))
    return (frame * 0 + 60 + bump[..., None]).round().astype(np.uint8)


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Episode:
    frames = scenes(3, WIDTH, HEIGHT, 3)
    frames[2] = with_blob(frames[2])
    low = np.zeros((3, 7))
    path = tmp_path_factory.mktemp("frames") / "e.hdf5"
    return open_episode(write_episode(path, qpos=low, action=low, images={"top": frames}, quality=95))


def in_full(episode: Episode, one: Input, t: int) -> np.ndarray:
    return np.asarray(one.image_map(WIDTH, HEIGHT).apply_to_image(episode.image("top", t)))


@pytest.mark.parametrize("one", SHRINKING, ids=lambda one: one.key)
def test_reduced_decoding_stays_within_a_few_grey_levels_of_decoding_in_full(episode: Episode, one: Input) -> None:
    assert reduced_map(one.image_map(WIDTH, HEIGHT)) is not None
    for t in range(2):
        off = np.abs(frame_of(episode, one, t, {}).astype(int) - in_full(episode, one, t))
        assert off.max() > 0  # it is another way to decode
        assert off.mean() < 1 and np.percentile(off, 99) <= 4 and off.max() <= 10


@pytest.mark.parametrize("one", SHRINKING, ids=lambda one: one.key)
def test_what_a_reduced_frame_shows_is_where_the_boxes_say(episode: Episode, one: Input) -> None:
    seen = frame_of(episode, one, 2, {}).astype(np.float64).mean(axis=-1)
    seen = np.clip(seen - 70, 0, None)
    v, u = np.mgrid[: one.height, : one.width]
    centroid = np.array([(seen * u).sum(), (seen * v).sum()]) / seen.sum()
    assert np.abs(centroid - one.image_map(WIDTH, HEIGHT).apply(BLOB)).max() < 0.03


@pytest.mark.parametrize(
    "one",
    [Input("near", "top", 480, 360), Input("as it is", "top", 640, 480), Input("larger", "top", 800, 600)],
    ids=lambda one: one.key,
)
def test_an_input_nearly_as_large_as_the_frame_is_decoded_in_full(episode: Episode, one: Input) -> None:
    assert reduced_map(one.image_map(WIDTH, HEIGHT)) is None
    assert np.array_equal(frame_of(episode, one, 1, {}), in_full(episode, one, 1))


def test_windows_and_sizes_that_a_reduced_frame_cannot_meet_are_decoded_in_full() -> None:
    even = ImageMap.identity(640, 480).crop(120, 80, 400, 400).resize(64, 64)
    assert reduced_map(even) is not None
    assert reduced_map(ImageMap.identity(640, 480).crop(121, 80, 400, 400).resize(64, 64)) is None
    assert reduced_map(ImageMap.identity(641, 480).resize(64, 64)) is None


def test_streams_without_jpeg_are_not_reduced(tmp_path: Path) -> None:
    frames, low = scenes(2, WIDTH, HEIGHT, 5), np.zeros((2, 7))
    path = write_episode(tmp_path / "e.hdf5", qpos=low, action=low, images={"top": frames}, layout="aloha")
    with open_episode(path) as raw:
        assert np.array_equal(frame_of(raw, SHRINKING[0], 1, {}), in_full(raw, SHRINKING[0], 1))
