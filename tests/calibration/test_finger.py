"""The finger route: a sensor that sits elsewhere than drawn is found from boxes, without arm motion."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tactile_align.calibration.evidence import Labels
from tactile_align.calibration.finger import calibrate_finger, motion_of_tags
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.geometry.frames import pose, rotation_exp, rotation_log
from tactile_align.simulation.record import simulate


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for reading in ("measured", "commanded"):
        folders[reading] = tmp_path_factory.mktemp(reading)
        simulate(folders[reading], episodes=1, seed=4, task="expert", gripper=reading, processes=1, progress=False)  # type: ignore[arg-type]
    return folders


def labels(folder: Path, px: float = 0.7) -> Labels:
    """Boxes as a person would draw them: the true ones, a little off, in every second frame."""
    rng = np.random.default_rng(0)
    path = next(folder.glob("*.hdf5"))
    with h5py.File(path) as file:
        truth = file["truth/box/left_wrist"][:]
    drawn = {t: tuple(float(v) for v in truth[t] + rng.normal(0, px, 4)) for t in range(0, len(truth), 2)}
    return {(path.name, "left_wrist", "tactile1"): drawn}  # type: ignore[dict-item]


def displaced(folder: Path) -> Rig:
    data = load_rig(folder / "rig.toml").model_dump(exclude_none=True)
    data["sensors"]["tactile1"]["translation_m"] = (0.004, 0.002, 0.144)
    data["arms"]["left"]["gripper"]["law"]["open_m"] = 0.048
    return Rig.model_validate(data)


def test_a_displaced_sensor_is_put_back_by_its_boxes(recorded: dict[str, Path], tmp_path: Path) -> None:
    folder = recorded["measured"]
    fit = calibrate_finger(folder, displaced(folder), labels(folder), out=tmp_path / "rig.toml")
    assert fit.before < 0.80 and fit.after > 0.94
    true = load_rig(folder / "rig.toml").sensors["tactile1"].T_parent_this
    found = load_rig(tmp_path / "rig.toml").sensors["tactile1"].T_parent_this
    wrong = displaced(folder).sensors["tactile1"].T_parent_this
    assert np.linalg.norm((found - true)[:3, 3]) < 0.5 * np.linalg.norm((wrong - true)[:3, 3])
    assert fit.verification.verdict in ("pass", "warn")


def test_boxes_in_contact_tell_a_command_from_a_measurement(recorded: dict[str, Path]) -> None:
    folder = recorded["commanded"]
    right = load_rig(folder / "rig.toml")
    assert calibrate_finger(folder, right, labels(folder)).reading == "commanded"


def test_too_few_boxes_are_refused(recorded: dict[str, Path]) -> None:
    folder = recorded["measured"]
    some = {key: dict(list(boxes.items())[:4]) for key, boxes in labels(folder).items()}
    with pytest.raises(ValueError, match=r"at least 6 boxes of tactile1 in left_wrist, better 20.*got 4"):
        calibrate_finger(folder, displaced(folder), some)


def test_a_tag_on_the_finger_gives_axis_and_stroke() -> None:
    rng = np.random.default_rng(1)
    X = np.asarray(pose(rotation_exp(np.array([0.2, -0.4, 1.0])), np.array([0.08, 0.02, 0.03])))
    axis = np.array([0.0, -0.8, 0.6])
    fraction = np.linspace(0, 1, 9)
    tag = pose(rotation_exp(np.array([0.1, 2.0, 0])), np.array([0.0, 0.0, 0.12]))
    T_flange_tag = np.stack([tag] * 9)
    T_flange_tag[:, :3, 3] += fraction[:, None] * 0.045 * axis + rng.normal(0, 1e-4, (9, 3))
    found = motion_of_tags(np.linalg.inv(X) @ T_flange_tag, fraction, X)
    assert found.stroke_m == pytest.approx(0.045, abs=3e-4) and found.straight_m < 4e-4
    assert float(found.axis @ axis) > 0.9999 and found.turn_rad < 1e-6
    assert np.linalg.norm(rotation_log(T_flange_tag[0, :3, :3].T @ T_flange_tag[1, :3, :3])) < 1e-9
    with pytest.raises(ValueError, match="at least three openings"):
        motion_of_tags(T_flange_tag[:2], fraction[:2], X)
