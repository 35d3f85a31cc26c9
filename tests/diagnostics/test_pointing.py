"""Errors of predicted contacts: closed forms on recorded targets, controls, and the command that draws them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from tactile_align.calibration.rig import load_rig
from tactile_align.cli import run
from tactile_align.config.train import config_text
from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.diagnostics.pointing import (
    CONSTANT,
    FITS,
    LINEAR,
    NOW,
    controls,
    donors,
    linear,
    pointed,
    pointing_views,
)
from tactile_align.errors import InputError
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tactile_align.training.loop import train
from tests.benchmarks import pointer as pointer_benchmark
from tests.training.conftest import small_training

KEY, TRUE = "top-tactile1", (245, 245, 245)


@pytest.fixture(scope="module")
def moments(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Moments:
    """Two episodes whose frames, 320x240, are a quarter as wide in the input."""
    rig = load_rig(regrasp_folder / "rig.toml")
    top = Input(KEY, "top", 80, 48, "stretch", "tactile1", contacts=2, horizon=8, complete=True)
    inputs = (top, Input("tactile1", "tactile1", 30, 40))
    jobs = [Job(EpisodeRef(regrasp_folder / f"episode_init_{i}.hdf5"), rig, inputs, False) for i in (0, 1)]
    return Moments(jobs, chunk=1, cache=tmp_path_factory.mktemp("pointing"), progress=False)


def test_an_error_is_counted_in_stored_pixels_and_in_millimetres_at_the_contact(moments: Moments) -> None:
    true, ahead = moments.ahead[KEY].points, moments.ahead[KEY]
    beside = true + np.array([2.0, 0.0])
    result = pointed(moments, KEY, {"true": true, "beside": beside})
    known = ahead.known
    assert np.array_equal(np.isfinite(result.px["true"]), known) and np.nanmax(result.px["true"]) < 1e-9
    assert np.abs(result.px["beside"][known] - 8.0).max() < 1e-9
    focal = load_rig("cell").cameras["top"].stored.K[0, 0]
    assert np.abs(result.mm["beside"][known] - 1e3 * 8.0 * ahead.depth[known] / focal).max() < 1e-6
    assert np.nanmax(result.mm["true"]) < 1e-6
    rows = result.of(5, 15)
    assert set(result.time[rows]) <= set(range(5, 15)) and not moments.touches["tactile1"].contact[rows].any()
    assert len(rows) > 5 and result.ahead[rows, 0].all()


def test_controls_know_the_pad_and_the_joints_but_not_the_image(moments: Moments) -> None:
    result = pointed(moments, KEY, controls(moments, moments, KEY))
    onsets = np.flatnonzero((moments.ahead[KEY].onsets[:, 0] == moments.time) & moments.ahead[KEY].known[:, 0])
    assert len(onsets) > 20 and result.px[NOW][onsets, 0].max() < 1e-6
    assert np.nanmin(result.px[NOW][onsets - 1, 0]) > 0.01, "one row before, the pad is not yet there"
    constant, linear = (result.px[name][result.of(15, 999), 0] for name in (CONSTANT, LINEAR))
    assert np.median(linear) < 0.7 * np.median(constant)
    known = moments.ahead[KEY].known[:, 1]
    middle = np.median(result.points[known, 1], axis=0)
    assert np.abs(result.predicted[CONSTANT][:, 1] - middle).max() < 1e-9


def test_a_regression_of_its_own_is_used_where_it_predicts_other_episodes_better() -> None:
    rng = np.random.default_rng(0)
    episodes, rows = 30, 8
    goal, start = rng.uniform(40, 200, (episodes, 2)), rng.normal(0, 1, (episodes, 2))
    time = np.tile(np.arange(rows), episodes)
    moved = time[:, None] / rows * goal.repeat(rows, axis=0)  # the arm goes a share of the way, further in each row
    state = np.concatenate([moved, start.repeat(rows, axis=0)], axis=1)
    places = goal.repeat(rows, axis=0)[:, None]
    ahead = SimpleNamespace(points=places, known=np.ones(places.shape[:2], bool))
    moments: Any = SimpleNamespace(
        ahead={"v": ahead}, time=time, episode=np.repeat(np.arange(episodes), rows), low_dim=lambda: [(state, state)]
    )
    own, pooled = (np.linalg.norm(linear(moments, moments, "v", f) - places, axis=2)[:, 0] for f in (FITS, ()))
    assert own[(time > 0) & (time < 5)].max() < 1.0 < 10 < np.median(pooled[time == 1])
    assert np.median(own[time == 0]) > 20, "the state of row 0 does not tell the goal"


def test_exchanged_images_come_from_another_episode_in_about_the_same_row(moments: Moments) -> None:
    other = donors(moments)
    assert (moments.episode[other] != moments.episode).all()
    assert (moments.time[other] <= moments.time).all() and (moments.time[other] == moments.time).mean() > 0.7


def test_f1_of_done_is_that_of_the_known_entries(moments: Moments) -> None:
    done = moments.ahead[KEY].done
    probability, said = np.full(done.shape, 0.3), done.copy()  # a decision below a probability of 0.5 counts
    assert pointed(moments, KEY, {}, probability, said).done_f1() == 1.0
    first = np.flatnonzero(done.ravel())[:5]
    said.ravel()[first] = False  # five misses: precision 1, recall (n - 5) / n
    recall = 1 - 5 / done.sum()
    assert pointed(moments, KEY, {}, probability, said).done_f1() == pytest.approx(2 * recall / (1 + recall))
    assert np.isnan(pointed(moments, KEY, {}).done_f1())


def test_the_command_draws_points_and_states_their_errors(
    regrasp_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"views": [{"camera": "top", "sensor": "tactile1"}], "hsa": {"weight": 0.0}, "train_policy": False}
    pointer = {"views": [KEY], "width": 16, "most": 2}
    folder = train(
        small_training(regrasp_folder, tmp_path / "run", pointer=pointer, steps=2, **changes), progress=False
    )
    episode = regrasp_folder / "episode_init_1.hdf5"
    assert run(["point", str(folder), str(episode), "--frames", "0"]) == 2
    assert run(["point", str(folder), str(episode), "--frames", "5", "--json"]) == 0
    view = json.loads(capsys.readouterr().out)["views"][KEY]
    true, found = (np.array([row[0] or [np.nan] * 2 for row in view[name]]) for name in ("true", "predicted"))
    rows = np.flatnonzero(np.isfinite(true[:, 0]))
    px = np.linalg.norm(true - found, axis=1)
    with open_episode(episode) as opened:
        assert len(true) == len(opened)
    cell = view["errors"]["1"]["15 on"]["pointer"]
    assert px[rows].min() <= cell["px"] <= px[rows].max() and cell["moments"] > 10 and len(view["done"]) == len(true)
    sheet = cv2.imread(str(folder / "points" / f"episode_init_1_{KEY}.png"))[..., ::-1]
    (u, v), ink = (true[0] + 0.5) * 400 / 320 - 0.5, sheet.shape[0] - 2 * (300 + 21) - 6
    ring = sheet[round(v) + ink - 8 : round(v) + ink + 9, round(u) - 8 : round(u) + 9]
    assert (ring == TRUE).all(axis=2).sum() > 20
    assert run(["point", str(folder), str(episode)]) == 2  # the file exists
    capsys.readouterr()
    pointer_benchmark.compare([folder] * 2, [folder] * 2)
    *_, title, row, _, done = capsys.readouterr().out.splitlines()[-8:]
    assert "+0.0 [+0.0, +0.0] | +0.0 [+0.0, +0.0]" in row and "+0.000 [+0.000, +0.000]" in done, title
    monkeypatch.setattr("tactile_align.training.loop.train", lambda *args, **options: folder)
    assert run(["train", str(folder / "config.toml")]) == 0
    assert f"tactile-align point {folder} EPISODE" in capsys.readouterr().out
    (tmp_path / "config.toml").write_text(config_text(small_training(regrasp_folder, tmp_path)))
    assert run(["train", str(tmp_path / "config.toml"), "--pointer.most", "2"]) == 2
    assert "Add a [pointer] table to the file" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no contact pointer.*\[pointer\]"):
        pointing_views(tmp_path)
