"""The finger route: a sensor that sits elsewhere than drawn is found from boxes, without arm motion."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tactile_align.calibration.evidence import Labels
from tactile_align.calibration.finger import calibrate_finger
from tactile_align.calibration.rig import Rig, load_rig


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


def changed(rig: Rig, **gripper: object) -> Rig:
    data = rig.model_dump(exclude_none=True)
    data["arms"]["left"]["gripper"].update(gripper)
    return Rig.model_validate(data)


@pytest.mark.parametrize("stated", ["measured", "commanded"])
@pytest.mark.parametrize("true", ["measured", "commanded"])
def test_boxes_tell_a_command_from_a_measurement_whatever_the_rig_says(
    recorded: dict[str, Path], true: str, stated: str
) -> None:
    folder = recorded[true]
    fit = calibrate_finger(folder, changed(displaced(folder), reading=stated), labels(folder))
    check = fit.verification.check("gripper reading")
    assert fit.reading == true and check.outcome == ("pass" if true == stated else "warn")
    assert (f'reading = "{true}"' in check.advice) == (true != stated)


def test_a_gripper_read_the_wrong_way_round_is_named_and_the_rig_left_alone(
    recorded: dict[str, Path], tmp_path: Path
) -> None:
    folder = recorded["measured"]
    swapped = changed(load_rig(folder / "rig.toml"), open=0.0, closed=1.0)
    fit = calibrate_finger(folder, swapped, labels(folder), out=tmp_path / "rig.toml")
    assert fit.stroke == pytest.approx(-1.0, abs=0.1) and fit.rig == swapped
    assert fit.verification.verdict == "fail" and "swapped" in fit.verification.check("stroke").advice
    assert not (tmp_path / "rig.toml").exists()


def test_the_stroke_of_every_gripper_law_follows_the_fit(recorded: dict[str, Path]) -> None:
    table = {"kind": "table", "axis": (0.0, -1.0, 0.0), "fraction": (0.0, 0.4, 1.0), "opening_m": (0.0, 0.0144, 0.036)}
    crank = {"kind": "slider_crank", "axis": (0.0, -1.0, 0.0), "crank_m": 0.030, "rod_m": 0.040}
    linear = {"kind": "linear", "axis": (0.0, -1.0, 0.0), "closed_m": 0.002, "open_m": 0.041}
    folder = recorded["measured"]
    for law in (table, crank, linear):
        rig = changed(load_rig(folder / "rig.toml"), law=law)
        fit = calibrate_finger(folder, rig, labels(folder))
        reading = np.zeros((3, 7))
        reading[:, 6] = 0.1, 0.5, 1.0
        before, after = (np.asarray(one.gripper("left").opening(reading)) for one in (rig, fit.rig))
        assert abs(fit.stroke - 1) > 0.02 and after == pytest.approx(fit.stroke * before, rel=1e-9)


def test_labels_of_an_episode_that_is_not_there_are_refused(recorded: dict[str, Path]) -> None:
    folder = recorded["measured"]
    (boxes,) = labels(folder).values()
    with pytest.raises(ValueError, match=r"name episode 'other\.hdf5', which is not there \(episode_init_0\.hdf5"):
        calibrate_finger(folder, displaced(folder), {("other.hdf5", "left_wrist", "tactile1"): boxes})


def test_labels_of_a_frame_or_a_camera_that_is_not_there_are_refused(recorded: dict[str, Path]) -> None:
    folder = recorded["measured"]
    ((key, boxes),) = labels(folder).items()
    with pytest.raises(ValueError, match=r"names frame 5000, but the episode has"):
        calibrate_finger(folder, displaced(folder), {key: {**boxes, 5000: (0.0, 0.0, 9.0, 9.0)}})
    two: Labels = {key: boxes, (key[0], "top", key[2]): boxes}
    with pytest.raises(ValueError, match=r"2 cameras \(left_wrist, top\); say which one to fit with --camera"):
        calibrate_finger(folder, displaced(folder), two)


def test_too_few_boxes_are_refused(recorded: dict[str, Path]) -> None:
    folder = recorded["measured"]
    some = {key: dict(list(boxes.items())[:4]) for key, boxes in labels(folder).items()}
    with pytest.raises(ValueError, match=r"at least 6 boxes of tactile1 in left_wrist, better 20.*got 4"):
        calibrate_finger(folder, displaced(folder), some)
