"""Recordings: the same bytes for the same seed, taken up where they stopped, true beside what was recorded."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from tactile_align.calibration.rig import Verified, load_rig
from tactile_align.datasets.contact import contacts
from tactile_align.datasets.episodes import open_episode
from tactile_align.projection.episode_boxes import contact_flags
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.simulation.record import simulate


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four episodes of a mixed recording, the seed chosen for few contacts: three of regrasping, one of the expert."""
    return simulate(
        tmp_path_factory.mktemp("commanded"), episodes=4, seed=577, task="mixed", processes=1, progress=False
    )


def test_bytes_do_not_depend_on_the_number_of_processes(commanded: list[Path], tmp_path: Path) -> None:
    for kept in commanded[:2]:  # each process records one episode, a regrasp and an expert
        shutil.copy(kept, tmp_path)
    again = simulate(tmp_path, episodes=4, seed=577, task="mixed", processes=2, progress=False)
    assert [path.name for path in again] == [f"episode_init_{i}.hdf5" for i in range(4)]
    for one, two in zip(commanded, again, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_another_seed_gives_another_episode(commanded: list[Path], tmp_path: Path) -> None:
    (other,) = simulate(tmp_path, episodes=1, seed=578, task="regrasp", processes=1, progress=False)
    assert other.read_bytes() != commanded[0].read_bytes()


def test_finished_episodes_are_kept_and_missing_ones_are_recorded(commanded: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / commanded[0].name
    kept.write_bytes(commanded[0].read_bytes())
    before = kept.stat().st_mtime_ns
    (tmp_path / ".episode_init_1.hdf5.123.partial").write_bytes(b"half")
    paths = simulate(tmp_path, episodes=2, seed=577, task="mixed", processes=1, progress=False)
    assert kept.stat().st_mtime_ns == before
    assert paths[1].read_bytes() == commanded[1].read_bytes()


def test_a_folder_of_another_recording_is_refused_by_name(commanded: list[Path]) -> None:
    folder = commanded[0].parent
    with pytest.raises(ValueError, match=r"episode_init_0\.hdf5.*another folder"):
        simulate(folder, episodes=4, seed=579, task="mixed", processes=1, progress=False)
    with pytest.raises(ValueError, match=r"episode_init_0\.hdf5"):
        simulate(folder, episodes=4, seed=577, task="mixed", gripper="measured", processes=1, progress=False)
    with pytest.raises(ValueError, match=r"task = 'insert' is unknown.* Choose one of: expert, regrasp, mixed"):
        simulate(folder, episodes=1, task="insert", processes=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="episodes must be at least 1; got 0"):
        simulate(folder, episodes=0)


def test_episodes_open_with_every_stream_at_the_size_the_rig_states(commanded: list[Path]) -> None:
    rig = load_rig(commanded[0].parent / "rig.toml")
    with open_episode(commanded[0]) as episode:
        assert (
            episode.fps == 5 and episode.qpos.shape == (len(episode), 7) and episode.action.shape == (len(episode), 7)
        )
        for name, camera in rig.cameras.items():
            assert episode.image(name, 0).shape == (camera.stored.height, camera.stored.width, 3)
        assert episode.image("tactile1", len(episode) - 1).shape == (320, 240, 3)
    with open_episode(commanded[3]) as episode:
        assert episode.fps == 10


def test_the_action_is_what_is_commanded_by_the_time_of_the_next_moment(commanded: list[Path]) -> None:
    with h5py.File(commanded[0]) as file:
        qpos, action = file["observations/qpos"][:], file["action"][:]
    np.testing.assert_allclose(action[:-1], qpos[1:], atol=1e-6)  # posed moments reach what is commanded


@pytest.mark.parametrize("index", [0, 3])
def test_boxes_from_the_rig_lie_on_the_recorded_truth(commanded: list[Path], index: int) -> None:
    rig = load_rig(commanded[0].parent / "rig.toml")
    with h5py.File(commanded[index]) as file:
        qpos, opening = file["observations/qpos"][:].astype(float), file["truth/opening"][:]
        truth = {name: file[f"truth/box/{name}"][:] for name in rig.cameras}
        share = file["truth/unoccluded/left_wrist"][:]
    for name, least in (("left_wrist", 0.97), ("top", 0.75)):  # in `top` the sensor is 7 x 10 px: one pixel counts
        a, b = sensor_boxes(rig, name, "tactile1", qpos, opening).box, truth[name]
        common = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
        areas = [(c[:, 2:] - c[:, :2]).prod(axis=1) for c in (a, b)]
        assert np.median(common / (areas[0] + areas[1] - common)) > least
        assert np.nanmax(np.abs(a - b)) < 1.6
    assert ((share > 0) & (share <= 1)).all() and share.min() < 0.95


def test_a_commanded_reading_runs_ahead_in_contact_and_a_measured_one_does_not(
    commanded: list[Path], tmp_path: Path
) -> None:
    simulate(tmp_path, episodes=1, seed=577, task="mixed", gripper="measured", processes=1, progress=False)
    assert load_rig(tmp_path / "rig.toml").gripper("left").reading == "measured"
    assert load_rig(commanded[0].parent / "rig.toml").gripper("left").reading == "commanded"
    with h5py.File(commanded[0]) as one, h5py.File(tmp_path / commanded[0].name) as two:
        contact, opening = one["truth/contact"][:], one["truth/opening"][:, 0]
        lead = opening - one["observations/qpos"][:, 6] * 0.045
        np.testing.assert_allclose(two["observations/qpos"][:, 6] * 0.045, opening, atol=1e-7)
        np.testing.assert_array_equal(one["observations/tactile1"][0], two["observations/tactile1"][0])
    np.testing.assert_allclose(lead[~contact], 0, atol=1e-7)
    assert lead[contact].max() == pytest.approx(0.003, abs=1e-6)
    onset = contact & ~np.r_[False, contact[:-1]]
    assert lead[onset].max() < 0.0005


def test_a_verdict_in_the_rig_is_no_reason_to_refuse_the_folder(commanded: list[Path]) -> None:
    path = commanded[0].parent / "rig.toml"
    before = path.read_bytes()
    verified = Verified(when="2025-11-11", data_hash="x", verdict="pass")
    load_rig(path).model_copy(update={"verified": verified}).save(path)
    try:
        simulate(path.parent, episodes=4, seed=577, task="mixed", processes=1, progress=False)
        assert load_rig(path).verified == verified
    finally:
        path.write_bytes(before)


def test_what_is_no_episode_behind_an_episodes_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "episode_init_0.hdf5").write_text("not HDF5")
    with pytest.raises(ValueError, match=r"episode_init_0\.hdf5.*not a readable HDF5 file"):
        simulate(tmp_path, episodes=1, processes=1, progress=False)


def test_a_recorded_tour_has_as_many_felt_contacts_as_objects(tmp_path: Path) -> None:
    (path,) = simulate(tmp_path, episodes=1, seed=3, task="tour", gripper="measured", processes=1, progress=False)
    with open_episode(path) as episode, h5py.File(path) as file:
        rig = load_rig(tmp_path / "rig.toml")
        felt, thing = contacts(contact_flags(episode, rig, "tactile1")), file["truth/thing"][:]
        assert episode.attributes["objects"] == 2 == felt.max() + 1 == len(np.unique(thing, axis=0))
        assert np.array_equal(felt, file["truth/contact_index"][:]) and episode.fps == 10
