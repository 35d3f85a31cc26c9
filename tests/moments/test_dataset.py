"""Moments of a simulated recording: boxes, chunks, packed frames, and every refusal by name."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tomlkit

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.geometry import boxes
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tests.datasets.making import xtrainer_file

INPUTS = (
    Input("wrist", "left_wrist", 64, 48, "stretch", "tactile1"),
    Input("zoom", "left_wrist", 40, 40, "stretch", "tactile1", zoom=2.0),
    Input("tactile1", "tactile1", 30, 40),
)


def moments_of(file: Path, rig: Path, cache: Path, packed: bool = True, chunk: int = 5) -> Moments:
    job = Job(EpisodeRef(file), load_rig(rig), INPUTS, packed)
    return Moments([job], chunk=chunk, cache=cache, progress=False)


def test_boxes_in_the_input_are_the_true_ones_moved_by_the_same_map(regrasp_folder: Path, tmp_path: Path) -> None:
    file = regrasp_folder / "episode_init_1.hdf5"
    moments = moments_of(file, regrasp_folder / "rig.toml", tmp_path)
    with h5py.File(file) as stored:
        truth = stored["truth/box/left_wrist"][:]
        contact = stored["truth/contact"][:]
    scaled = (truth + 0.5) * np.array([64 / 640, 48 / 480] * 2) - 0.5
    assert np.nanmedian(boxes.intersection_over_union(moments.views["wrist"].box, scaled)) > 0.98
    assert (moments.touches["tactile1"].contact == contact).mean() > 0.97
    zoomed = moments.views["zoom"].box
    sides = (zoomed[:, 2:] - zoomed[:, :2]).max(axis=1)
    assert np.abs(sides - 20.0).max() < 0.5


def test_chunks_stop_at_the_end_of_the_episode_and_say_so(regrasp_folder: Path, tmp_path: Path) -> None:
    file = regrasp_folder / "episode_init_0.hdf5"
    moments = moments_of(file, regrasp_folder / "rig.toml", tmp_path, chunk=4)
    last = len(moments) - 1
    batch = moments.batch([0, last - 1])
    with open_episode(file) as episode:
        assert np.abs(batch.action[0].numpy() - episode.action[:4]).max() < 1e-6
        assert np.abs(batch.action[1, 1:].numpy() - episode.action[-1]).max() < 1e-6
        assert np.array_equal(batch.qpos_raw.numpy(), episode.qpos[[0, last - 1]])
    assert batch.is_pad.tolist() == [[False] * 4, [False, False, True, True]]
    assert moments[last].time.tolist() == [last]


def test_packed_frames_equal_frames_decoded_when_used(regrasp_folder: Path, tmp_path: Path) -> None:
    file = regrasp_folder / "episode_init_0.hdf5"
    packed, plain = (moments_of(file, regrasp_folder / "rig.toml", tmp_path, p) for p in (True, False))
    rows = [5, 17, 80]
    one, other = packed.batch(rows).tensors(), plain.batch(rows).tensors()
    assert set(one) == set(other)
    for key in one:
        assert np.array_equal(one[key].numpy(), other[key].numpy(), equal_nan=True), key
    assert one["views/zoom/image"].shape == (3, 40, 40, 3)


def test_frames_decoded_when_used_keep_no_second_copy_of_the_joints(regrasp_folder: Path, tmp_path: Path) -> None:
    moments = moments_of(regrasp_folder / "episode_init_0.hdf5", regrasp_folder / "rig.toml", tmp_path, packed=False)
    before = len(pickle.dumps(moments))
    first = moments.batch([3]).tensors()["views/wrist/image"]
    with_open_file = pickle.dumps(moments)
    assert len(with_open_file) - before < moments.low_dim()[0][0].nbytes
    assert np.array_equal(pickle.loads(with_open_file).batch([3]).tensors()["views/wrist/image"], first)


def test_a_prepared_episode_is_reused_until_the_rig_changes(regrasp_folder: Path, tmp_path: Path) -> None:
    file = regrasp_folder / "episode_init_0.hdf5"
    first = moments_of(file, regrasp_folder / "rig.toml", tmp_path).folders
    stamp = (first[0] / "facts.npz").stat().st_mtime_ns
    assert moments_of(file, regrasp_folder / "rig.toml", tmp_path).folders == first
    assert (first[0] / "facts.npz").stat().st_mtime_ns == stamp
    rig = load_rig(regrasp_folder / "rig.toml")
    x, y, z = rig.cameras["left_wrist"].translation_m
    rig.with_camera("left_wrist", translation_m=(x + 0.001, y, z)).save(tmp_path / "moved.toml")
    assert moments_of(file, tmp_path / "moved.toml", tmp_path).folders != first
    assert not list(tmp_path.glob(".*.part"))


def broken(source: Path, target: Path, damage: Callable[[h5py.File], None]) -> Path:
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        damage(file)
    return target


def drop_touch(file: h5py.File) -> None:
    del file["observations/tactile1"]


def shorten_actions(file: h5py.File) -> None:
    action = file["action"][:-3]
    del file["action"]
    file["action"] = action


def truncate_jpeg(file: h5py.File) -> None:
    file["observations/images/left_wrist"][7, 900:] = 0


def z_score(file: h5py.File) -> None:
    qpos = file["observations/qpos"][:]
    qpos = (qpos - qpos.mean(0)) / np.maximum(qpos.std(0), 1e-2) * 4
    del file["observations/qpos"]
    file["observations/qpos"] = qpos


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_touch, r"damaged.hdf5.*tactile1"),
        (shorten_actions, r"damaged.hdf5.*action"),
        (truncate_jpeg, r"damaged.hdf5: /observations/images/left_wrist.*7"),
        (z_score, r"damaged.hdf5: /observations/qpos.*normalised"),
    ],
)
def test_a_damaged_episode_gives_one_error_that_names_file_and_key(
    damage: Callable[[h5py.File], None], message: str, regrasp_folder: Path, tmp_path: Path
) -> None:
    file = broken(regrasp_folder / "episode_init_2.hdf5", tmp_path / "damaged.hdf5", damage)
    with pytest.raises(ValueError, match=message):
        moments_of(file, regrasp_folder / "rig.toml", tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]


def test_frames_of_another_size_than_the_rigs_camera_are_refused(regrasp_folder: Path, tmp_path: Path) -> None:
    rig = load_rig(regrasp_folder / "rig.toml").with_camera("left_wrist", image_map=[["resize", 320, 240]])
    rig.save(tmp_path / "rig.toml")
    with pytest.raises(ValueError, match=r"episode_init_0.hdf5: .*left_wrist .*640x480.*states 320x240"):
        moments_of(regrasp_folder / "episode_init_0.hdf5", tmp_path / "rig.toml", tmp_path / "cache")


def test_a_rig_with_a_mirrored_rotation_is_refused_by_name(regrasp_folder: Path, tmp_path: Path) -> None:
    rig = load_rig(regrasp_folder / "rig.toml").model_dump(mode="json", exclude_none=True)
    camera = rig["cameras"]["left_wrist"]
    del camera["quat_wxyz"], camera["translation_m"]
    camera["matrix"] = [[1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]
    (tmp_path / "mirror.toml").write_text(tomlkit.dumps(rig))
    with pytest.raises(ValueError, match=r"mirror.toml: cameras.left_wrist: .*mirror image"):
        load_rig(tmp_path / "mirror.toml")


def test_rigs_that_know_different_things_are_named(tmp_path: Path) -> None:
    with_gripper = load_rig("cell").model_dump(mode="json", exclude_none=True)
    without = load_rig("cell").model_dump(mode="json", exclude_none=True)
    del without["arms"]["left"]["gripper"]
    without["sensors"]["tactile1"]["parent"] = "left/flange"
    files = [xtrainer_file(tmp_path / name, qpos=np.zeros((7, 14))) for name in ("one", "two")]
    touch = (Input("tactile1", "tactile1", 30, 40),)
    jobs = [
        Job(EpisodeRef(file), Rig.model_validate(rig), touch, True)
        for file, rig in zip(files, (without, with_gripper), strict=True)
    ]
    with pytest.raises(ValueError, match=r"two.* and .*one.* differ in: .*opening/tactile1"):
        Moments(jobs, chunk=2, cache=tmp_path / "cache", progress=False)
