"""One search over all views: the planted mistake is named with its value, and a passing view excludes the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tactile_align.calibration.rig import Rig
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.verify.episode_checks import explained
from tactile_align.verify.rig_changes import changes_of, labelled_views
from tactile_align.verify.rig_search import Explanation, _entangled, search
from tests.benchmarks.rig_search import judge
from tests.verify.two_sensors import draw, right_rig, write_urdf


@pytest.mark.parametrize("kind", ["sensor 12 mm across", "half turn forgotten", "tip one link off"])
def test_a_planted_mistake_is_named_first_with_its_value(kind: str, tmp_path: Path) -> None:
    verdict, contradicted, text = judge(kind, 40, tmp_path)
    assert verdict == "right" and not contradicted, text


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


# In the first pair, the focal length alone fits worse than a turned image. In the second, the arm's base fits as well
# as the scene camera, which is the more common mistake.
@pytest.mark.parametrize(
    ("pair", "seed"), [("sensors exchanged + K x 1.3", 300), ("open_m doubled + scene camera moved", 301)]
)
def test_two_mistakes_are_named_together(pair: str, seed: int, tmp_path: Path) -> None:
    verdict, contradicted, text = judge(pair, seed, tmp_path)
    assert verdict == "right" and not contradicted, text


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("scene camera moved", "In the [[override]] of e: Set translation_m = ["),
        ("K x 1.3", "An [[override]] cannot hold cameras.{}.K; write it outside, for all episodes: Set fx = "),
    ],
)
def test_a_change_of_an_override_is_named_as_one(kind: str, place: str, tmp_path: Path) -> None:
    drawn = draw(kind, right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    scene = drawn.written.cameras["scene"]
    moved = {"translation_m": (9.0, 0.0, 0.0), "quat_wxyz": scene.quat_wxyz}
    own = {"translation_m": scene.translation_m, "quat_wxyz": scene.quat_wxyz}
    data = drawn.written.with_camera("scene", **moved).model_dump(exclude={"override"})
    rig = Rig.model_validate(data | {"override": [{"episodes": "e", "cameras": {"scene": own}}]})
    (evidence,) = drawn.evidence
    (check,) = explained(rig, [replace(evidence, rig=rig.for_episode("e"))])
    assert check.id == "one-change/override1" and check.value > 0.9
    assert check.advice.startswith(f"One change explains all views: {place.format(drawn.parts[0].partition('.')[2])}")


def test_labels_to_correct_in_one_camera_leave_the_rig_as_it_is(tmp_path: Path) -> None:
    drawn = draw("right rig", right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    (evidence,) = drawn.evidence
    on = {(view.camera, view.sensor): view.seen for view in evidence.views}
    other = {"gel1": "gel2", "gel2": "gel1"}
    views = tuple(
        replace(view, seen=on[view.camera, other[view.sensor]] if view.camera == "scene" else view.seen)
        for view in evidence.views
    )
    found = search(drawn.written, [replace(evidence, views=views)])
    assert found is not None
    best = found.hypotheses()[0]
    assert best.advice == "Correct the labels in scene: gel1 and gel2 exchanged."
    assert best.changed == drawn.written


def test_the_second_of_two_changes_states_the_numbers_of_the_rig_after_the_first(tmp_path: Path) -> None:
    drawn = draw("right rig", right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    rig = drawn.written.with_sensor("gel1", translation_m=(0.01, 0.02, 0.1))
    tried = changes_of(rig, labelled_views(drawn.evidence))
    changes = {f"{one.part}: {one.name}": one for one in tried if one.cameras is None}
    both = changes["sensors: gel1 and gel2 exchanged"], changes["sensors.gel2: half a turn"]
    nothing = np.zeros(0)
    pair = Explanation(both, (nothing, nothing), nothing, nothing, nothing)
    place = ", ".join(f"{value:z.4f}" for value in pair.rig(rig).sensors["gel2"].translation_m)
    assert place == "-0.0100, -0.0200, 0.1000"
    assert f"Set translation_m = [{place}]" in pair.advice(rig)


def test_labels_are_not_corrected_together_with_a_sensor(tmp_path: Path) -> None:
    drawn = draw("right rig", right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    changes = changes_of(drawn.written, labelled_views(drawn.evidence))
    none = np.zeros(0)
    alone = {(one.part, one.name, one.cameras): Explanation((one,), (none,), none, none, none) for one in changes}
    labels = alone["sensors", "gel1 and gel2 exchanged", ("scene",)]
    assert _entangled(labels, alone["sensors.gel1", "shift", None])
    assert not _entangled(labels, alone["cameras.wrist", "shift", None])
    assert not _entangled(alone["sensors", "gel1 and gel2 exchanged", None], alone["sensors.gel1", "shift", None])


def test_a_search_without_result_states_how_many_parts_were_paired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = draw("scene camera moved", right_rig(write_urdf(tmp_path)), np.random.default_rng(5))
    found = search(drawn.written, drawn.evidence)
    assert found is not None
    monkeypatch.setattr("tactile_align.verify.episode_checks.search", lambda *_: replace(found, offered=()))
    (check,) = explained(drawn.written, drawn.evidence)
    assert "Tried were, alone, and the 6 closest parts also in pairs: each camera's" in check.advice
    assert "finger and half turn, exchanged sensors, the gripper's ends" in check.advice
    data = drawn.written.model_dump(exclude_none=True)
    del data["arms"]["arm"]["gripper"], data["sensors"]["gel2"]
    data["sensors"]["gel1"]["parent"] = "arm/flange"
    bare = replace(found, offered=(), rig=Rig.model_validate(data))
    monkeypatch.setattr("tactile_align.verify.episode_checks.search", lambda *_: bare)
    (check,) = explained(drawn.written, drawn.evidence)
    assert "each sensor's place, the arm's base" in check.advice
