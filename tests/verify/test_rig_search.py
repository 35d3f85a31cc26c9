"""One search over all views: the planted mistake is named with its value, and a passing view excludes the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.verify.episode_checks import explained
from tactile_align.verify.rig_search import changes_of, labelled_views, search
from tests.benchmarks.rig_search import judge
from tests.verify.two_sensors import draw, right_rig, value_fault, write_urdf


@pytest.mark.parametrize("kind", ["sensor 12 mm across", "half turn forgotten", "tip one link off"])
def test_a_planted_mistake_is_named_first_with_its_value(kind: str, tmp_path: Path) -> None:
    right, contradicted, text = judge(kind, 40, tmp_path)
    assert right and not contradicted, text


@pytest.mark.parametrize("kind", ["right rig", "distortion forgotten"])
def test_a_rig_whose_boxes_pass_is_not_blamed(kind: str, tmp_path: Path) -> None:
    drawn = draw(kind, right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    assert explained(drawn.written, drawn.evidence) == []


def test_episodes_without_any_box_are_not_searched(tmp_path: Path) -> None:
    drawn = draw("right rig", right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    unlabelled = [replace(one, views=()) for one in drawn.evidence]
    assert search(drawn.written, unlabelled) is None


def test_a_moved_camera_is_told_from_a_moved_sensor_by_the_views_that_pass(tmp_path: Path) -> None:
    drawn = draw("scene camera moved", right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    (check,) = explained(drawn.written, drawn.evidence)
    offered, excluded = check.advice.split(" Excluded: ")
    assert check.id == "one-change" and check.value > 0.9 and "2 of 4 views fail" in check.measured
    assert offered.startswith("One change explains all views: Set translation_m = [")
    assert "of cameras.scene (" in offered and "sensors." not in offered and "wrist" not in offered
    # One fixed camera cannot tell its own pose from that of the arm's base.
    assert "Or, as likely by these boxes: " in offered and "of arms.arm (" in offered
    assert "in wrist)" in excluded


def test_every_fitted_change_is_the_change_that_is_written_into_the_rig(tmp_path: Path) -> None:
    drawn = draw("right rig", right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    views, rng = labelled_views(drawn.evidence), np.random.default_rng(0)
    fitted = [change for change in changes_of(drawn.written, views) if change.moved is not None]
    assert {change.part.partition(".")[0] for change in fitted} == {"cameras", "sensors", "arms"}
    for change in fitted:
        p = rng.uniform(-0.05, 0.05, len(change.limit)) * change.limit
        rig = change.written(drawn.written, p)
        for view in views:
            qpos = np.concatenate([one.qpos[rows] for one, rows in view.rows])
            boxes = sensor_boxes(rig, view.camera, view.sensor, qpos, min_side_px=0).box
            moved = change.at(view, view.chain(view.rig), p).boxes[0]
            np.testing.assert_allclose(moved, boxes, atol=1e-6, err_msg=f"{change.part}: {change.name}")


def test_two_mistakes_are_named_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    right = right_rig(write_urdf(tmp_path))
    drawn = draw("half turn forgotten", right, rng)
    K = np.array(right.cameras["scene"].K) * [[1.3, 1.3, 1.0], [1.3, 1.3, 1.0], [1.0, 1.0, 1.0]]
    written = drawn.written.with_camera("scene", K=K.tolist())
    (evidence,) = drawn.evidence
    found = search(written, [replace(evidence, rig=written)])
    assert found is not None and found.offered[0].parts == ("cameras.scene", "sensors.gel2")
    assert not value_fault(found.offered[0].rig(written), drawn.true)
