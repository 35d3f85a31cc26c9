"""Galleries, probes, feature spaces and millimetres on features, recordings and geometry whose answer is known."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.pairs import pair_features
from tactile_align.diagnostics.readouts import (
    middles,
    pixel_millimetres,
    space_health,
    stated_indentation,
    stated_object,
    stated_place,
    stated_probe,
    uniformity,
    view_readouts,
)
from tactile_align.diagnostics.retrieval import among_regions, gallery_recalls
from tactile_align.policies.build import LoadedRun
from tactile_align.training.data import Data, load_data
from tests.training.conftest import small_training

KEY = "left_wrist-tactile1"


@pytest.fixture(scope="module")
def six(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Data]:
    """Six recordings, two of them copies but for their actions, of two objects by name; five are held out."""
    folder = tmp_path_factory.mktemp("six") / "regrasp"
    shutil.copytree(regrasp_folder, folder)
    for i in (0, 1):
        shutil.copy(folder / f"episode_init_{i}.hdf5", folder / f"episode_init_{i + 4}.hdf5")
    for i in range(6):
        with h5py.File(folder / f"episode_init_{i}.hdf5", "r+") as file:
            file.attrs["object"] = ("bolt", "cup")[i % 2]
            file["action"][...] += 0.01 * (i > 3)
    views = [{"camera": "left_wrist", "sensor": "tactile1"}]  # the whole frame, stretched
    config = small_training(folder, folder.parent / "run", held_out=5, train_policy=False, views=views)
    return config, load_data(config, progress=False)


def recorded(data: Data, rows: np.ndarray, key: str) -> np.ndarray:
    """Read an array or attribute of the moments' files by h5py alone."""
    values = []
    for row in rows:
        with h5py.File(data.held_out.jobs[data.held_out.episode[row]].ref.path) as file:
            values.append(file.attrs[key] if key in file.attrs else file[key][data.held_out.time[row]])
    return np.array(values)


def test_probes_read_what_was_written_into_the_features_and_nothing_else(six: tuple[TrainConfig, Data]) -> None:
    config, data = six
    run = LoadedRun.untrained(config, data.held_out)
    features = pair_features(run, KEY)
    rows = features["row"]
    rng = np.random.default_rng(0)
    features["h_tau"], features["h_w"] = rng.normal(size=(2, len(rows), config.features.dim)).astype(np.float32)
    indentation, thing = recorded(data, rows, "truth/indentation"), recorded(data, rows, "object")
    features["h_tau"][:, 3] = indentation * 1e3
    features["h_w"][:, 5] = thing == "cup"
    features["h_w"][:, 7:9] = np.nan_to_num(recorded(data, rows, "truth/print")) * 1e3
    found = view_readouts(run, KEY, features=features)
    score = {name: probe.score for name, probe in found.probes.items()}
    assert set(score) == {
        f"{what} from {side}"
        for what in ("object", "indentation", "place", "opening", "contact")
        for side in ("h_tau", "h_w")
    }
    assert score["place from h_w"] > 0.99 and score["place from h_tau"] < 0.5
    assert score["indentation from h_tau"] > 0.99 and score["indentation from h_w"] < 0.5
    assert score["object from h_w"] > 0.95 > 0.8 > score["object from h_tau"]
    assert found.probes["object from h_w"].chance == 0.5


def test_what_a_recording_states_is_read_row_by_row_and_missed_by_name(six: tuple[TrainConfig, Data]) -> None:
    _, data = six
    rows = np.random.default_rng(1).permutation(len(data.held_out))[:40]
    np.testing.assert_array_equal(stated_indentation(data.held_out, rows), recorded(data, rows, "truth/indentation"))
    np.testing.assert_array_equal(stated_place(data.held_out, rows), recorded(data, rows, "truth/print"))
    assert stated_object(data.held_out, rows).tolist() == recorded(data, rows, "object").tolist()
    path = data.held_out.jobs[2].ref.path
    kept = path.read_bytes()
    with h5py.File(path, "r+") as file:
        del file["truth"], file.attrs["object"]
    try:
        for read, what in ((stated_place, "truth/print"), (stated_object, "'object'")):
            with pytest.raises(ValueError, match=rf"{path.name}.*{what} is missing"):
                read(data.held_out, np.arange(len(data.held_out)))
    finally:
        path.write_bytes(kept)


def test_a_moment_whose_place_is_unknown_is_left_out_of_its_probe() -> None:
    h, episode = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 5
    place = h[:, :2].copy()
    place[::6, 1] = np.nan
    found = stated_probe("place", h, lambda: place, episode)
    assert found.score > 0.99 and found.moments == 50


def test_a_pixel_of_a_stretched_input_has_the_size_its_map_gives_it(six: tuple[TrainConfig, Data]) -> None:
    config, data = six
    run = LoadedRun.untrained(config, data.held_out)
    moments, rows = data.held_out, middles(pair_features(run, KEY))
    rows = np.flatnonzero(moments.views[KEY].visible)[rows]
    box = moments.views[KEY].box[rows]
    found = pixel_millimetres(moments, run.view(KEY), rows, box)
    # 640 x 480 becomes 48 x 32 with 3 px more on each side for shifts.
    job = moments.jobs[int(moments.episode[rows[0]])]
    qpos = moments.low_dim()[int(moments.episode[rows[0]])][0][moments.time[rows[0]]]
    camera = job.rig.camera("left_wrist").stored
    depth = job.rig.T_camera_sensor("left_wrist", "tactile1", qpos, moments.touches["tactile1"].opening[rows[0]])[2, 3]
    expected = [
        1000 * depth / abs(camera.K[0, 0]) * camera.width / 54,
        1000 * depth / abs(camera.K[1, 1]) * camera.height / 38,
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert expected[0] != pytest.approx(expected[1], rel=0.02), "a stretched input, or the test says nothing"


def synthetic(episodes: int, contacts: int, moments: int = 3, dim: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(episodes), contacts * moments)
    contact = np.tile(np.repeat(np.arange(contacts), moments), episodes)
    h = rng.normal(size=(len(episode), dim))
    return {
        "h_tau": h,
        "h_w": 3 * h,
        "episode": episode,
        "contact": contact,
        "time": contact * 30 + np.tile(np.arange(moments), episodes * contacts),
        "row": np.arange(len(episode)),
    }


def test_a_gallery_is_as_large_as_the_episodes_can_fill() -> None:
    features = synthetic(episodes=3, contacts=7)
    for kind, size in (("all", 16), ("cross-episode", 8), ("same-episode", 4)):
        found = gallery_recalls(features, kind, 64, 20)["both"]  # type: ignore[arg-type]
        # 21, 15 and 7 contacts are there; 64 and 8 are halved until they fit.
        assert found.gallery == size and found.chance[1] == 1 / size and found.at[1] == 1.0
        assert found.queries == 21
    with pytest.raises(ValueError, match="contain at most 0"):
        gallery_recalls(synthetic(episodes=1, contacts=7), "cross-episode", 64, 20)


def test_other_regions_of_an_image_are_judged_where_most_moments_have_them() -> None:
    features = synthetic(episodes=2, contacts=10)
    chosen = np.arange(0, 60, 3)
    exist = np.tile([True, True, False, False], (20, 1))
    exist[4, 1] = False
    others = -np.repeat(features["h_w"][chosen, None], 4, axis=1)
    others[:10, 1] = 2 * features["h_w"][chosen[:10]]  # as good as the own region: a tie, which finds nothing
    found = among_regions(features, chosen, others, exist)
    # The first episode's ten moments tie, but the one that has one region only is not judged.
    assert found.gallery == 3 and found.queries == 19 and found.at[1] == pytest.approx(10 / 19)
    with pytest.raises(ValueError, match="20 of 20 boxes have no room"):
        among_regions(features, chosen, others, np.zeros_like(exist))


def test_the_middle_moment_stands_for_a_contact() -> None:
    features = synthetic(episodes=2, contacts=3, moments=5)
    assert middles(features).tolist() == [2, 7, 12, 17, 22, 27]


def sphere(count: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, dim))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def test_a_perfect_pair_of_round_spaces() -> None:
    u = sphere(800, 16)
    found = space_health(5 * u, u)
    assert found.alignment == pytest.approx(0, abs=1e-12) and found.modality_gap == pytest.approx(0, abs=1e-12)
    assert found.margin > 0.2 and found.rank_touch == pytest.approx(16, abs=0.3)
    assert found.partition_isotropy_touch > 0.85 and "no collapse" in found.verdict
    assert (found.dim, found.pairs) == (16, 800)


def test_unrelated_directions_are_two_apart_and_have_no_margin() -> None:
    found = space_health(sphere(500, 64, 1), sphere(500, 64, 2))
    assert found.alignment == pytest.approx(2, abs=0.05) and found.margin < 0


def test_the_margin_is_that_of_angles_in_the_plane() -> None:
    def at(*degrees: float) -> np.ndarray:
        return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)

    found = space_health(3 * at(0, 90, 180), at(30, 100, 180))
    # Own regions 30, 10 and 0 degrees away; the nearest other ones 100, 60 and 80.
    own, other = np.cos(np.deg2rad([[30, 10, 0], [100, 60, 80]]))
    assert found.margin == pytest.approx((own - other).mean(), abs=1e-12)
    assert found.alignment == pytest.approx((2 - 2 * own).mean(), abs=1e-12)
    # Two chords, of 30 and of 10 degrees, 80 degrees between them.
    a, b = 2 * np.sin(np.deg2rad([15, 5]))
    assert found.modality_gap == pytest.approx(np.sqrt(a**2 + b**2 + 2 * a * b * np.cos(np.deg2rad(80))) / 3)


def test_collapsed_features_are_named() -> None:
    u = sphere(200, 16)
    same = np.tile(u[:1], (200, 1)) + 1e-9 * u
    found = space_health(same, u)
    assert found.rank_touch == pytest.approx(1, abs=1e-3) and found.uniformity_touch == pytest.approx(0, abs=1e-6)
    assert found.verdict == "collapsed: touch features lie in one point or on one line"


def test_a_point_is_named_also_where_its_noise_has_a_rank() -> None:
    u = sphere(200, 256)
    found = space_health(u, u[:1] + 0.02 * sphere(200, 256, seed=1))
    assert found.rank_vision > 2 and found.spread_vision == pytest.approx(0.02, rel=0.02)
    assert found.verdict == "collapsed: vision features lie in one point or on one line"


def test_uniformity_is_its_formula_on_two_opposite_points() -> None:
    u = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    # Of 12 ordered pairs 4 are equal and 8 are 2 apart.
    assert uniformity(u) == pytest.approx(np.log((4 + 8 * np.exp(-8)) / 12))


def test_the_gap_is_the_distance_of_the_means() -> None:
    u, v = np.tile([[1.0, 0.0]], (6, 1)), np.tile([[0.0, 1.0]], (6, 1))
    assert space_health(u, v).modality_gap == pytest.approx(np.sqrt(2))


def test_features_without_direction_are_refused_by_row() -> None:
    u = sphere(5, 4)
    broken = u.copy()
    broken[3] = 0
    with pytest.raises(ValueError, match=r"h_w is zero .*in rows \[3\]"):
        space_health(u, broken)
    with pytest.raises(ValueError, match=r"at least 2 pairs; got 1"):
        space_health(u[:1], u[:1])
