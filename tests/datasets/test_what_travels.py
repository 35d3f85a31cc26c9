"""What travels with an input when asked to: differences of touches, widths of uncertainty, the other finger's box."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import EpisodeRef, open_episode, write_episode
from tactile_align.moments.cache import FORMAT, Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.facts import only_certain
from tactile_align.moments.inputs import GREY, Input, difference, reference_of
from tactile_align.projection.sensor_box import other_finger_boxes, pixel_sigma, sensor_boxes
from tests.datasets.test_contact import gel

HOME = np.array([0.298, -0.294, -1.911, 0.634, 1.571, -1.273, 0.5])
PRESSED = np.concatenate([np.zeros(15), np.full(25, 40.0), np.zeros(10)])  # at one place, so that it would show
WHOLE = Input("wrist", "left_wrist", 64, 32, "stretch", "tactile1")
TOUCH = Input("tactile1", "tactile1", 45, 60, difference=True)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One episode of the cell: a still camera, a moving arm, and a drawn gel whose contacts are known."""
    rng = np.random.default_rng(3)
    steps = len(PRESSED)
    qpos = HOME + np.column_stack([rng.uniform(-0.1, 0.1, (steps, 6)), rng.uniform(0.2, 0.5, steps)])
    still = [cv2.imencode(".jpg", np.full((h, 4 * h // 3, 3), 90, np.uint8))[1].tobytes() for h in (480, 240)]
    path = tmp_path_factory.mktemp("gel") / "episode_init_0.hdf5"
    images = {"left_wrist": [still[0]] * steps, "top": [still[1]] * steps}
    return write_episode(path, qpos=qpos, action=qpos, images=images, touches={"tactile1": gel(PRESSED)})


def uncertain_rig() -> Rig:
    rig = load_rig("cell")
    C = np.diag([2e-6, 1e-6, 3e-6, 4e-6, 9e-6, 2e-6])
    return rig.with_camera("left_wrist", covariance=C.tolist())


def moments_of(file: Path, rig: Rig, inputs: tuple[Input, ...], cache: Path, packed: bool = True) -> Moments:
    return Moments([Job(EpisodeRef(file), rig, inputs, packed)], chunk=2, cache=cache, progress=False)


def test_every_difference_of_two_grey_levels_fits_and_keeps_its_order() -> None:
    levels = np.arange(256, dtype=np.uint8)
    found = difference(levels[:, None, None, None].repeat(3, axis=3), levels[None, :, None].repeat(3, axis=2)[0][None])
    apart = levels.astype(int)[:, None] - levels.astype(int)[None]
    assert found.shape == (256, 1, 256, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, 0, :, 0], np.floor(GREY + apart / 2).astype(int))
    assert found.min() == 0 and found.max() == 255


def test_a_touch_of_nothing_becomes_grey_and_a_contact_what_it_changed(recording: Path, tmp_path: Path) -> None:
    moments = moments_of(recording, load_rig("cell"), (TOUCH,), tmp_path)
    seen = moments.batch(range(len(PRESSED))).touches["tactile1"].image.numpy().astype(int)
    np.testing.assert_array_equal(moments.touches["tactile1"].contact, PRESSED > 0)
    bare = gel(np.zeros(1), noise=0.0)[0]  # what the gel is drawn as, without noise and contact
    small = cv2.resize(bare, (45, 60), interpolation=cv2.INTER_AREA).astype(int)
    reference = moments.reference(0, "tactile1").astype(int)
    assert np.abs(reference - small).max() <= 4 and np.abs(reference - small).mean() < 0.8
    assert np.abs(seen[PRESSED == 0] - GREY).max() <= 6 and abs(seen[PRESSED == 0].mean() - GREY) < 0.5
    pressed = gel(PRESSED, noise=0.0)[20]
    changed = (cv2.resize(pressed, (45, 60), interpolation=cv2.INTER_AREA).astype(int) - small) / 2
    assert np.abs(changed).max() > 15 and np.abs(seen[20] - GREY - changed).mean() < 1.0


def test_packed_differences_equal_those_made_when_used(recording: Path, tmp_path: Path) -> None:
    packed, plain = (moments_of(recording, load_rig("cell"), (TOUCH,), tmp_path, p) for p in (True, False))
    rows = [3, 20, 45]
    assert np.array_equal(*(m.batch(rows).touches["tactile1"].image.numpy() for m in (packed, plain)))
    assert set(packed.batch(rows).images()) == {"tactile1"}, "the reference does not travel"


def test_an_episode_without_a_moment_of_no_contact_is_named(recording: Path) -> None:
    with (
        open_episode(recording) as episode,
        pytest.raises(
            ValueError,
            match=r"init_0.*tactile1: all 50 frames are in contact.*needs at least one frame without contact",
        ),
    ):
        reference_of(episode, TOUCH, np.ones(50, dtype=bool))


def test_the_width_of_uncertainty_is_scaled_as_the_image_is(recording: Path, tmp_path: Path) -> None:
    rig = uncertain_rig()
    zoom = Input("zoom", "left_wrist", 40, 40, "stretch", "tactile1", 2.0, uncertain=True)
    whole = Input("wrist", "left_wrist", 64, 32, "stretch", "tactile1", uncertain=True)
    moments = moments_of(recording, rig, (whole, zoom), tmp_path)
    qpos = moments.low_dim()[0][0]
    opening = moments.touches["tactile1"].opening
    stored = pixel_sigma(rig, "left_wrist", "tactile1", qpos, opening)
    assert stored.std(axis=0).min() > 0, "one width would do for all moments"
    np.testing.assert_allclose(moments.views["wrist"].sigma, stored * [64 / 640, 32 / 480])
    frame, seen = moments.views["zoom"].frame_box, moments.views["zoom"].box
    scale = (seen[:, 2:] - seen[:, :2]) / (frame[:, 2:] - frame[:, :2])
    np.testing.assert_allclose(moments.views["zoom"].sigma, stored * scale)
    assert moments.batch([1, 2, 3]).views["zoom"].sigma.shape == (3, 2)


def test_a_rig_without_covariance_is_refused_when_widths_are_wanted(recording: Path, tmp_path: Path) -> None:
    one = Input("wrist", "left_wrist", 64, 32, "stretch", "tactile1", uncertain=True)
    with pytest.raises(ValueError, match=r"'left_wrist'.*no pose covariance"):
        moments_of(recording, load_rig("cell"), (one,), tmp_path)


def test_a_box_of_unknown_width_is_no_box() -> None:
    box = np.arange(12.0).reshape(3, 4)
    found, visible = only_certain(box, np.array([True, True, False]), np.array([[1, 2], [np.nan, 1], [1, 1]]))
    assert visible.tolist() == [True, False, False]
    assert np.array_equal(found[0], box[0]) and np.isnan(found[1:]).all()


def test_the_other_fingers_box_goes_through_the_same_map_as_the_image(recording: Path, tmp_path: Path) -> None:
    rig = load_rig("cell")
    zoom = Input("zoom", "left_wrist", 40, 40, "stretch", "tactile1", 2.0, other_finger=True)
    moments = moments_of(recording, rig, (zoom,), tmp_path)
    other = other_finger_boxes(
        rig, "left_wrist", "tactile1", moments.low_dim()[0][0], moments.touches["tactile1"].opening
    ).box
    view = moments.views["zoom"]
    frame, seen, there = view.frame_box, view.box, view.other_box
    scale = (seen[:, 2:] - seen[:, :2]) / (frame[:, 2:] - frame[:, :2])
    want = np.concatenate([(other[:, i : i + 2] - frame[:, :2]) * scale + seen[:, :2] for i in (0, 2)], axis=1)
    np.testing.assert_allclose(there, want, atol=1e-6)
    assert np.isfinite(there).all(axis=1).sum() > 10


def test_a_box_in_front_of_the_pad_takes_its_width_and_its_cut_out_along(recording: Path, tmp_path: Path) -> None:
    rig = uncertain_rig()
    zoom = Input("zoom", "left_wrist", 40, 40, "stretch", "tactile1", 2.0, uncertain=True, ahead_m=0.016)
    moments = moments_of(recording, rig, (zoom, WHOLE), tmp_path)
    where = (rig, "left_wrist", "tactile1", moments.low_dim()[0][0], moments.touches["tactile1"].opening)
    frame, seen = moments.views["zoom"].frame_box, moments.views["zoom"].box
    np.testing.assert_allclose(frame, sensor_boxes(*where, ahead_m=0.016).box)
    np.testing.assert_allclose(moments.views["wrist"].frame_box, sensor_boxes(*where).box)
    # In the middle of its cut-out, to the half pixel of the frame by which cut-outs are rounded.
    scale = (seen[:, 2:] - seen[:, :2]) / (frame[:, 2:] - frame[:, :2])
    assert np.abs(((seen[:, :2] + seen[:, 2:]) / 2 - 19.5) / scale).max() <= 0.51
    np.testing.assert_allclose(moments.views["zoom"].sigma, pixel_sigma(*where, ahead_m=0.016) * scale)
    assert np.abs(pixel_sigma(*where, ahead_m=0.016) / pixel_sigma(*where) - 1).max() > 0.01


def test_options_that_are_off_leave_prepared_episodes_where_they_lie(recording: Path) -> None:
    rig = load_rig("cell")
    job = Job(EpisodeRef(recording), rig, (WHOLE,), True)
    stat = recording.stat()
    old = ("key", "stream", "width", "height", "fit", "sensor", "zoom")
    arm = rig.arms["left"].arm
    before = {
        "format": FORMAT,
        "layout": None,
        "arms": {"left": [arm.T_link_joint.tolist(), arm.T_link_flange.tolist(), list(arm.prismatic)]},
        "file": [str(recording.resolve()), job.ref.group, stat.st_size, stat.st_mtime_ns],
        "rig": rig.model_dump(mode="json", exclude={"verified", "fitted", "override"}),
        "inputs": [{name: getattr(WHOLE, name) for name in old}],
        "packed": True,
    }
    assert job.key() == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:24]
    keys = {replace(job, inputs=(replace(WHOLE, **{name: True}),)).key() for name in ("uncertain", "other_finger")}
    assert len(keys | {job.key()}) == 3
