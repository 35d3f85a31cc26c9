"""A policy whose touches are differences and whose boxes are blurred acts on what it was trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.episodes import open_episode
from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.diagnostics.evaluation import evaluate
from tactile_align.diagnostics.gaze import pointing
from tactile_align.moments.augment import augment
from tactile_align.moments.inputs import GREY, difference
from tactile_align.policies.build import LoadedRun
from tactile_align.policies.observation import checked
from tactile_align.policies.runtime import Policy
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.training.data import Data, load_data
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import train
from tests.policies.conftest import observation
from tests.training.conftest import small_training

Run = tuple[TrainConfig, Data, Path]
VIEWS = [
    {"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2, "ahead_m": 0.016},
    {"camera": "top", "sensor": "tactile1"},
]


@pytest.fixture(scope="module")
def run(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run with every option that makes more than the box travel along."""
    folder = tmp_path_factory.mktemp("options")
    rig = load_rig(regrasp_folder / "rig.toml")
    C = tuple(map(tuple, np.diag([2e-6, 1e-6, 3e-6, 4e-6, 9e-6, 2e-6]).tolist()))
    for name in rig.cameras:
        rig = rig.with_camera(name, covariance=C)
    rig.save(folder / "rig.toml")
    config = small_training(
        regrasp_folder,
        folder / "run",
        data=[{"path": str(regrasp_folder), "rig": str(folder / "rig.toml")}],
        views=VIEWS,
        features={"pooling": "gaussian", "sigma_px": "rig", "touch_input": "difference"},
        hsa={"finger_negative": True, "camera_negative": True, "region_negatives": 1, "bank": 16, "symmetric": True},
        log={"every": 1},
        steps=2,
    )
    data = load_data(config, progress=False)
    return config, data, train(config, data=data, progress=False)


def test_the_log_counts_every_kind_of_negative(run: Run) -> None:
    _, data, folder = run
    records = [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "train"]
    first = records[0]
    for key in ("left_wrist-tactile1", "top-tactile1"):
        assert first[f"negatives_from/beside/{key}"] == pytest.approx(1.0)
        assert 0 <= first[f"negatives_from/finger/{key}"] <= 1 and 0 < first[f"negatives_from/camera/{key}"] <= 1
    assert records[1]["negatives_from/bank/left_wrist-tactile1"] > 0
    seen = data.train.views["left_wrist-tactile1"].visible
    other = data.train.views["left_wrist-tactile1"].other_box
    assert np.isfinite(other[seen]).all(), "both fingers are before the wrist camera"


def test_the_box_is_put_in_front_of_the_pad_where_the_view_says_so(run: Run) -> None:
    _, data, _ = run
    job, qpos = data.train.jobs[0], data.train.low_dim()[0][0]
    opening = data.train.touches["tactile1"].opening[: len(qpos)]
    for camera, ahead_m in (("left_wrist", 0.016), ("top", 0.0)):
        found = data.train.views[f"{camera}-tactile1"].frame_box[: len(qpos)]
        np.testing.assert_allclose(found, sensor_boxes(job.rig, camera, "tactile1", qpos, opening, ahead_m=ahead_m).box)


def test_acting_equals_the_batch_path_with_the_same_touch_of_nothing(run: Run) -> None:
    config, data, folder = run
    policy = Policy.load(folder)
    job, rows = data.train.jobs[0], [0, 37, 70]
    contact = data.train.touches["tactile1"].contact[: len(data.train.low_dim()[0][0])]
    free_row = int(np.flatnonzero(~contact)[5])
    with open_episode(job.ref) as episode:
        free = episode.image("tactile1", free_row)
        policy.reset(free={"tactile1": free})
        found = np.stack([policy.act(observation(episode, t)) for t in rows])
        batches = [policy.batch(checked(observation(episode, t), policy.needs)) for t in rows]
        moments = data.train.batch(rows)
        for one in (one for one in job.inputs if one.zoom is None):
            there = one.image_map(*episode.width_height(one.stream))
            frames = np.stack([there.apply_to_image(episode.image(one.stream, t)) for t in rows])
            if one.difference:
                frames = difference(frames, there.apply_to_image(free))
                trained = moments.images()[one.key].numpy().astype(int)
                # Training's reference is a median of many frames, this one a single, noisy frame.
                assert np.abs(trained - frames).mean() < 2.0
                assert np.abs(trained - frames).mean() < 0.3 * np.abs(trained[contact[rows]] - GREY).mean() + 1.0
            moments = moments.with_images({one.key: torch.from_numpy(frames)})
    batch = augment(moments, config.augment)
    assert set(batch.views) == {"left_wrist-tactile1", "top-tactile1"}
    for key, trained in batch.views.items():
        for name in ("sigma", "box"):
            together = torch.cat([getattr(one.views[key], name) for one in batches])
            torch.testing.assert_close(together, getattr(trained, name), atol=1e-4, rtol=1e-4, equal_nan=True)
    with torch.no_grad():
        actions = policy.model.predict(batch, policy.model.see(batch))
    expected = np.asarray(data.statistics.restore_action(actions.double()))
    assert np.abs(found - expected).max() < 1e-5


def test_without_a_given_touch_of_nothing_the_first_one_is_taken(run: Run) -> None:
    _, data, folder = run
    given, first = Policy.load(folder), Policy.load(folder)
    with open_episode(data.train.jobs[0].ref) as episode:
        given.reset(free={"tactile1": episode.image("tactile1", 0)})
        for t in (0, 8):
            assert np.array_equal(given.act(observation(episode, t)), first.act(observation(episode, t)))
        seen = first.batch(checked(observation(episode, 0), first.needs)).touches["tactile1"].image
        assert bool((seen == GREY).all()), "the first touch differs from itself by nothing"
        first.reset()
        with pytest.raises(ValueError, match=r"stated to be in contact.*reset\(free=\{'tactile1': touch\}\)"):
            first.act(observation(episode, 8, contact={"tactile1": True}))
        first.act(observation(episode, 0))  # nothing is remembered of what was refused
        with pytest.raises(ValueError, match=r"free\['tactile1'\] must be a touch.*got float64"):
            first.reset(free={"tactile1": np.zeros((4, 4, 3))})
        first.reset(free={"tactile1": np.zeros((4, 4, 3), np.uint8)})
        with pytest.raises(ValueError, match=r"shape \(4, 4, 3\), as the no-contact reference"):
            first.act(observation(episode, 0))


def test_the_options_are_judged_as_any_run(run: Run) -> None:
    config, data, folder = run
    assert evaluate(folder, data=data, progress=False).views
    untrained = LoadedRun.untrained(config, data.held_out)
    key = "left_wrist-tactile1"
    pairs = np.flatnonzero(data.held_out.views[key].visible)[:4]
    assert np.isfinite(pointing(untrained, key, pairs.tolist()).similarity).all()
    report = diagnose(config, data=data, parts=["data", "model"])
    assert report.check("self-checks").status == "pass", report.text()
