"""The pictures of a run: all there, named so that the report groups them, different before and after training."""

import re
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.config.train import config_text, load_config
from tactile_align.training.data import load_data
from tactile_align.training.loop import train
from tactile_align.viz.features.run_pictures import TALL_PX, draw_maps, one_per_contact
from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.frame import draw_frame
from tactile_align.viz.report.report import render, report
from tactile_align.viz.report.run_folder import read_run
from tests.training.conftest import small_training

AHEAD_M = 0.016
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with its pictures."""
    home = tmp_path_factory.mktemp("drawn")
    rates = {"lr_tower": 1e-2, "lr_head": 1e-2, "warmup_steps": 1}  # six steps that can be seen
    views = [{"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2, "ahead_m": AHEAD_M}]
    config = small_training(regrasp_folder, home / "run", views=views, optimiser=rates, held_out=2, validate_every=6)
    data = load_data(config, progress=False)
    train(config, data=data, progress=False)
    draw_maps(home / "run", data=data)
    return home / "run"


def test_every_picture_is_there_before_and_after(run: Path) -> None:
    names = {path.stem for path in (run / "pictures").glob("*.png")}
    kinds = ("map", "gallery", "matrix", "attention_episode_0", "attention_episode_1")
    stepped = {f"{kind}_step_{step:06d}" for kind in kinds for step in (0, 6)}
    by_label = {f"embedding_by_{label}" for label in ("episode", "object", "phase")}
    assert names == stepped | by_label | {"overlay_episode_0", "overlay_episode_1"}
    for kind in kinds:
        before, after = (cv2.imread(str(run / "pictures" / f"{kind}_step_{step:06d}.png")) for step in (0, 6))
        assert before is not None and after is not None and before.shape == after.shape
        assert (before != after).mean() > 0.05 and before.std() > 10


def test_pictures_before_training_are_left_out_where_the_first_weights_are_gone(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("pictures"))
    config = load_config(run / "config.toml").model_copy(update={"init": str(tmp_path / "gone")})
    (tmp_path / "run" / "config.toml").write_text(config_text(config))
    names = {path.stem for path in draw_maps(tmp_path / "run")}
    assert "map_step_000006" in names and not [name for name in names if "step_000000" in name]
    assert "pictures before training are left out, because init" in caplog.text
    told = re.findall(r'alt="([^"]+)"', render([read_run(tmp_path / "run")], ""))
    assert sum("attention" in text for text in told) == 2, "one for each held-out episode"


def test_frames_show_boxes_where_the_runs_views_put_them(run: Path) -> None:
    found = cv2.imread(str(run / "pictures" / "overlay_episode_0.png"))
    config = load_config(run / "config.toml")
    assert [view.ahead_m for view in config.views] == [AHEAD_M]
    job = load_data(config, progress=False).held_out.jobs[0]
    cells = []
    for ahead_m in (AHEAD_M, 0.0):
        with Footage(job.ref, job.rig, ahead_m=ahead_m) as footage:
            cells.append(draw_frame(footage.moment(0, TALL_PX), TALL_PX)[..., ::-1])
    ahead, on_it = cells
    high, wide = ahead.shape[:2]
    inside = np.lib.stride_tricks.sliding_window_view(found, ahead.shape)[:12, :12].reshape(-1, *ahead.shape)
    assert any(np.array_equal(one, ahead) for one in inside) and high < found.shape[0] and wide < found.shape[1]
    assert not any(np.array_equal(one, on_it) for one in inside)


def test_the_report_puts_them_behind_sliders_and_lists_with_alternative_texts(run: Path) -> None:
    page = render([read_run(run)], "")
    assert page.count('type="range"') == 5 and page.count("<select") == 1
    told = re.findall(r'alt="([^"]+)"', page)
    assert len(told) == 15 and all(len(text) > 30 for text in told)
    assert sum("attention" in text for text in told) == 4 and sum("Recorded frames" in text for text in told) == 2


def test_pictures_are_not_overwritten_unasked(run: Path) -> None:
    with pytest.raises(FileExistsError, match="overwrite"):
        draw_maps(run)


def test_the_report_draws_when_asked_and_colours_recordings_without_truth_by_episode_alone(
    run: Path, regrasp_folder: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(regrasp_folder, bare)
    for path in bare.glob("*.hdf5"):
        with h5py.File(path, "a") as file:
            del file["truth"]
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("pictures"))
    for name in ("config.toml", "episodes.json"):
        text = (copy / name).read_text(encoding="utf-8")
        (copy / name).write_text(text.replace(str(regrasp_folder), str(bare)), encoding="utf-8")
    page = report(copy, pictures=tmp_path / "drawn", draw=True).read_text(encoding="utf-8")
    names = [path.stem for path in (tmp_path / "drawn").iterdir()]
    assert [name for name in names if name.startswith("embedding")] == ["embedding_by_episode"]
    assert page.count("<img ") == len(names) == 13


def test_one_moment_stands_for_each_contact() -> None:
    features = {"episode": np.array([0, 0, 0, 1, 1]), "contact": np.array([0, 0, 2, 0, 0])}
    chosen = one_per_contact(features, 10)
    assert sorted(chosen.tolist()) == [0, 2, 3]
    assert len(one_per_contact(features, 2)) == 2
    with pytest.raises(ValueError, match="no judged moment has both a box and contact"):
        one_per_contact({name: values[:0] for name, values in features.items()}, 10)
