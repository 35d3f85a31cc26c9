"""Contacts ahead: the place of a later contact in the present image, by a closed form of one's own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tactile_align.calibration.rig import load_rig
from tactile_align.config.train import AugmentConfig
from tactile_align.datasets.episodes import EpisodeRef
from tactile_align.errors import InputError
from tactile_align.kinematics.arm import forward_kinematics
from tactile_align.moments.ahead import Ahead, contacts_ahead
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import AheadBatch, MomentBatch, ViewBatch
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tactile_align.projection.episode_boxes import episode_boxes

RIG = load_rig("cell")
HOME = np.array([0.298, -0.294, -1.911, 0.634, 1.571, -1.273])
STEPS = 40


def joints(steps: int = STEPS, speed: float = 0.08) -> np.ndarray:
    """(T, 7) qpos: a slow swing over the table while the gripper's command closes."""
    t = np.arange(steps)
    swing = 0.2 * np.sin(speed * t[:, None] + np.arange(6))
    return np.concatenate([HOME + swing, np.linspace(0.9, 0.1, steps)[:, None]], axis=1)


def flags(*contacts: tuple[int, int], steps: int = STEPS) -> np.ndarray:
    touching = np.zeros(steps, bool)
    for first, last in contacts:
        touching[first : last + 1] = True
    return touching


def ahead(
    camera: str, qpos: np.ndarray, contact: np.ndarray, horizon: int = 20, most: int = 2, complete: bool = False
) -> Ahead:
    view = episode_boxes(RIG, camera, "tactile1", qpos, {"tactile1": contact}, None)
    return contacts_ahead(view, qpos, contact, horizon=horizon, most=most, complete=complete)


def seen_by_hand(camera: str, qpos: np.ndarray, held: float, then: int, now: int) -> np.ndarray:
    """(2,) pixel at row `now` of the pad's centre at row `then`, from the numbers of the rig file."""
    hand, eye = (forward_kinematics(RIG.arms["left"].arm, qpos[row, :6]) for row in (then, now))
    pad = hand[:3, :3] @ np.array([0.0, -held * 0.045, 0.150]) + hand[:3, 3]
    mounted = RIG.cameras[camera]
    R = Rotation.from_quat(np.roll(mounted.quat_wxyz, -1)).as_matrix()
    if mounted.parent == "left/flange":
        pad = eye[:3, :3].T @ (pad - eye[:3, 3])
    x, y, z = R.T @ (pad - np.array(mounted.translation_m))
    f, (width, height) = mounted.K[0][0], (640, 480)
    uv = np.array([f * x / z + (width - 1) / 2, f * y / z + (height - 1) / 2]) if z > 0 else np.full(2, np.nan)
    return (uv + 0.5) / 2 - 0.5 if camera == "top" else uv


def test_a_fixed_camera_sees_a_later_contact_at_one_place_until_it_begins() -> None:
    qpos, contact = joints(), flags((15, 20), (28, 30))
    result = ahead("top", qpos, contact)
    first = seen_by_hand("top", qpos, qpos[15, 6], 15, 0)
    assert result.known[:21, 0].all() and np.abs(result.points[:21, 0] - first).max() < 1e-6
    second = seen_by_hand("top", qpos, qpos[28, 6], 28, 0)
    assert np.abs(result.points[21:31, 0] - second).max() < 1e-6  # after the release, the next one is the first
    assert np.abs(result.points[8:21, 1] - second).max() < 1e-6
    assert np.abs(first - second).max() > 10
    camera, place = (
        RIG.cameras["top"].stored,
        np.asarray(RIG.T_camera_sensor("top", "tactile1", qpos[[15, 28]]))[:, :3, 3],
    )
    assert np.abs(result.depth[15] - place[:, 2]).max() < 1e-9
    assert np.abs(camera.unproject(result.points[15], result.depth[15]) - place).max() < 1e-6
    T = RIG.T_camera_sensor("top", "tactile1", qpos[15:16])
    assert np.abs(RIG.cameras["top"].stored.project(T[0, :3, 3])[0] - result.points[15, 0]).max() < 1e-6


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 25), st.integers(1, 25), st.floats(0.02, 0.12))
def test_a_moving_camera_sees_the_place_from_where_it_is_now(now: int, onset: int, speed: float) -> None:
    qpos, contact = joints(speed=speed), flags((onset, 27))
    result = ahead("left_wrist", qpos, contact, horizon=30, most=1)
    expected = seen_by_hand("left_wrist", qpos, qpos[onset, 6], onset, now)
    inside = bool(np.all(expected >= -0.5) and np.all(expected <= [639.5, 479.5]))
    assert result.known[now, 0] == inside
    assert np.abs(result.points[now, 0] - expected).max() < 1e-5 if inside else np.isnan(result.points[now, 0]).all()


def test_what_a_recording_does_not_show_is_not_known() -> None:
    contact = flags((0, 2), (9, 10), (30, 39))
    cut, whole = (ahead("top", joints(), contact, horizon=12, most=2, complete=c) for c in (False, True))
    rows = [0, 2, 3, 9, 11, 18, 26, 27, 28, 39]
    assert cut.onsets[rows].tolist() == [
        [0, 9], [0, 9], [9, -1], [9, -1], [-1, -1], [30, -1], [30, -1], [30, -1], [30, -1], [30, -1],
    ]  # fmt: skip
    # The first contact had begun before row 0, so that its place is not recorded.
    assert cut.known[rows].tolist() == [[False, True]] * 2 + [[True, False]] * 2 + [[False] * 2] + [[True, False]] * 5
    assert cut.done[rows, 1].tolist() == [False, False, True, True, True, True, True, True, False, False]
    assert cut.done[:, 0].sum() == 7 and cut.done[11:18, 0].all()
    assert np.array_equal(cut.done_known[:, 1], np.arange(STEPS) < 28)
    assert whole.done_known.all() and whole.done[28:, 1].all() and np.array_equal(whole.onsets, cut.onsets)
    for result in (cut, whole, ahead("left_wrist", joints(), contact, horizon=12)):
        assert np.array_equal(np.isnan(result.points).any(axis=2), ~result.known)
        assert np.array_equal(np.isnan(result.depth), ~result.known)
        assert not (result.done & (result.known | ~result.done_known)).any()
        assert sum(result.counts().values()) == STEPS * 2
    assert cut.counts() == {"known": 33, "no pixel": 3, "done": 32, "unknown": 12}
    nothing = ahead("top", joints(), flags(), complete=True)
    assert not (nothing.known | nothing.done | nothing.done_known).any() and (nothing.onsets == -1).all()


def test_a_batch_holds_the_points_of_its_input_image_where_a_config_asks(regrasp_folder: Path, tmp_path: Path) -> None:
    plain = Input("top", "top", 64, 48, "stretch", "tactile1")
    touch = Input("tactile1", "tactile1", 30, 40)
    file, rig = regrasp_folder / "episode_init_2.hdf5", load_rig(regrasp_folder / "rig.toml")

    def moments(entry: Input) -> Moments:
        job = Job(EpisodeRef(file), rig, (entry, touch), True)
        return Moments([job], chunk=2, cache=tmp_path, progress=False)

    pointed = moments(replace(plain, contacts=3, horizon=9, complete=True))
    rows, entry = [0, 7, 12, 30], pointed.ahead["top"]
    batch = pointed.batch(rows)
    qpos, contact = batch.qpos_raw.numpy(), pointed.touches["tactile1"].contact
    for b, row in enumerate(rows):
        onset = entry.onsets[row, 0]
        assert contact[onset] and not contact[onset - 1]
        then = np.stack([pointed.batch([onset]).qpos_raw[0].numpy(), qpos[b]])
        by_hand = seen_by_hand("top", then, then[0, 6], 0, 1)
        assert np.abs(batch.ahead["top"].points[b, 0].numpy() - ((by_hand + 0.5) / 5 - 0.5)).max() < 1e-4
    assert batch.ahead["top"].done.shape == (4, 3) and set(batch.tensors()) > {"ahead/top/points", "ahead/top/done"}
    assert not moments(plain).batch(rows).ahead and moments(plain).folders != pointed.folders
    with pytest.raises(InputError, match=r"contacts ahead need .*zoom = 2.0"):
        replace(plain, zoom=2.0, contacts=1)


def test_points_move_with_their_image_and_leave_the_mask_with_it() -> None:
    count = 60
    images, points = torch.zeros(count, 40, 56, 3, dtype=torch.uint8), torch.tensor([[[20.0, 14.0], [2.0, 30.0]]])
    images[:, 14, 20] = 200
    true = torch.ones(count, 2, dtype=torch.bool)
    state = torch.zeros(count, 7)
    batch = MomentBatch(
        qpos=state, qpos_raw=state, action=torch.zeros(count, 1, 7), is_pad=true[:, :1], episode=state[:, 0].long(),
        time=state[:, 0].long(), views={"v": ViewBatch(images, torch.zeros(count, 4), true[:, 0])},
        ahead={"v": AheadBatch(points.expand(count, 2, 2), true, ~true, true)},
    )  # fmt: skip
    config = AugmentConfig(shift_px=4, gain=0.3)
    result = augment(batch, config, torch.Generator().manual_seed(3))
    bright = (result.views["v"].image.sum(-1) > 0).nonzero()[:, [2, 1]]
    assert torch.equal(result.ahead["v"].points[:, 0], bright.float()) and len({*map(tuple, bright.tolist())}) > 9
    beside = bright[:, 0] - 18  # the second point lies 18 columns to the left of the first
    assert torch.equal(result.ahead["v"].known[:, 1], beside >= 0) and 5 < int((beside < 0).sum()) < 55
    assert torch.equal(result.ahead["v"].points[:, 1, 0].isnan(), beside < 0)
    centred = augment(batch, config).ahead["v"]
    assert centred.points[0, 0].tolist() == [16.0, 10.0] and not centred.known[:, 1].any()
