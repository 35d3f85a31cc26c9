"""What moves in the frames tells a right rig from a wrong one: no truth, no labels."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.checks import Check
from tactile_align.datasets.contact import contact_of
from tactile_align.datasets.episodes import open_episode, write_episode
from tactile_align.geometry.frames import pose, rotation_from_rpy
from tactile_align.simulation.record import simulate
from tactile_align.verify.motion_checks import (
    Motion,
    Scores,
    Watched,
    _explained,
    _follows,
    _motions,
    motion_checks,
    watch,
)
from tactile_align.verify.rig_hypotheses import AS_WRITTEN, LARGEST_OPENING_M, frame_of, hypotheses_of, strokes_of
from tactile_align.verify.verify import verify_episodes

Edit = Callable[[dict[str, Any]], None]


def changed(rig: Rig, edit: Edit) -> Rig:
    data = rig.model_dump(exclude_none=True)
    edit(data)
    return Rig.model_validate(data)


def swapped(data: dict[str, Any]) -> None:
    gripper = data["arms"]["left"]["gripper"]
    gripper["open"], gripper["closed"] = gripper["closed"], gripper["open"]


def other_finger(data: dict[str, Any]) -> None:
    data["sensors"]["tactile1"]["parent"] = "left/finger2"


def turned(camera: str, step: str) -> Edit:
    """The recorder did nothing; the rig says it did."""

    def edit(data: dict[str, Any]) -> None:
        entry = data["cameras"][camera]
        entry["image_map"] = [[step], *entry.get("image_map", [])]

    return edit


def lens_of(camera: str, fx: float, cx: float, cy: float) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        data["cameras"][camera]["K"] = [[fx, 0.0, cx], [0.0, fx, cy], [0.0, 0.0, 1.0]]

    return edit


def quaternion_xyzw(data: dict[str, Any]) -> None:
    w, x, y, z = data["cameras"]["left_wrist"]["quat_wxyz"]
    data["cameras"]["left_wrist"]["quat_wxyz"] = [x, y, z, w]


def opening(factor: float) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        data["arms"]["left"]["gripper"]["law"]["open_m"] *= factor

    return edit


def inverted(data: dict[str, Any]) -> None:
    T = np.linalg.inv(load_rig("cell").cameras["left_wrist"].T_parent_this)
    entry = data["cameras"]["left_wrist"]
    del entry["translation_m"], entry["quat_wxyz"]
    entry["matrix"] = T.tolist()


Footage = list[tuple[Path, dict[str, np.ndarray]]]


def footage(folder: Path, most: int) -> Footage:
    found = []
    for path in sorted(folder.glob("*.hdf5"))[:most]:
        with open_episode(path) as episode:
            flags = contact_of(episode.image("tactile1", t) for t in range(len(episode))).flags
        found.append((path, {"tactile1": flags}))
    return found


@pytest.fixture(scope="module")
def two(regrasp_folder: Path) -> Footage:
    """Two regrasp episodes with their contacts."""
    return footage(regrasp_folder, 2)


def told(rig: Rig, seen: Footage) -> dict[str, Check]:
    watched = []
    for path, contact in seen:
        with open_episode(path) as episode:
            watched.append(watch(episode, rig, contact))
    return {check.id: check for check in motion_checks(rig, watched)}


WRIST, TOP = "box-motion/left_wrist/tactile1", "box-motion/top/tactile1"
WORLD = "world-motion/left_wrist"
TOUCHES = "opening-in-contact/tactile1"


def test_a_right_rig_is_never_doubted(two: Footage) -> None:
    checks = told(load_rig(two[0][0].parent / "rig.toml"), two)
    assert set(checks) == {WRIST, TOP, WORLD, TOUCHES}
    assert {check.status for check in checks.values()} == {"pass"}, checks
    assert checks[TOUCHES].value is not None and checks[TOUCHES].value > 0.99


def test_a_lens_half_too_long_is_warned_of_though_no_slip_is_named(two: Footage) -> None:
    rig = load_rig(two[0][0].parent / "rig.toml")
    found = told(changed(rig, lens_of("left_wrist", 1.5 * rig.cameras["left_wrist"].K[0][0], 319.5, 239.5)), two)[WRIST]
    assert found.status == "warn" and "no hypothesis fits" in found.measured
    # The other camera sees the same hand move as predicted.
    assert "K and pose of cameras.left_wrist" in found.advice


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (swapped, {WRIST: "open = 1, closed = 0", TOP: "open = 1, closed = 0", TOUCHES: "swapped"}),
        (other_finger, {WRIST: 'parent = "left/finger1"'}),
        (turned("left_wrist", "rotate180"), {WORLD: "image_map = [] of cameras.left_wrist"}),
        (turned("left_wrist", "flip_u"), {WORLD: "image_map = [] of cameras.left_wrist"}),
        (turned("top", "rotate180"), {TOP: 'image_map = [["resize", 320, 240]] of cameras.top'}),
        (turned("top", "flip_v"), {TOP: 'image_map = [["resize", 320, 240]] of cameras.top'}),
        (lens_of("left_wrist", 698.4, 639.5, 359.5), {WORLD: "width = 1280, height = 720", WRIST: "1280"}),
        (lens_of("left_wrist", 931.2, 639.5, 479.5), {WORLD: "width = 1280, height = 960", WRIST: "1280"}),
        (lens_of("left_wrist", 232.8, 159.5, 119.5), {WORLD: "width = 320, height = 240", WRIST: "320"}),
        (quaternion_xyzw, {WORLD: "w first", WRIST: "w first"}),
        (inverted, {WORLD: "T_parent_camera", WRIST: "T_parent_camera"}),
        (opening(2.0), {WRIST: "open_m = 0.0450 of arms.left", TOP: "open_m = 0.0450 of arms.left"}),
    ],
)
def test_a_slip_in_the_rig_is_named_with_what_to_change(two: Footage, edit: Edit, named: dict[str, str]) -> None:
    right = load_rig(two[0][0].parent / "rig.toml")
    checks = told(changed(right, edit), two)
    for name, advice in named.items():
        assert checks[name].status == "warn" and advice in checks[name].advice, checks[name]


def test_a_turn_that_the_recorder_did_and_the_rig_does_not_say_is_named(two: Footage, tmp_path: Path) -> None:
    path, contact = two[0]
    with open_episode(path) as one:
        times = range(len(one))
        write_episode(
            tmp_path / path.name,
            qpos=one.qpos,
            action=one.action,
            images={
                "left_wrist": [one.image("left_wrist", t)[::-1, ::-1] for t in times],
                "top": [one.image("top", t) for t in times],
            },
            touches={"tactile1": [one.image("tactile1", t) for t in times]},
            fps=one.fps,
        )
    checks = told(load_rig(path.parent / "rig.toml"), [(tmp_path / path.name, contact)])
    assert checks[WORLD].status == "warn" and checks[TOP].status == "pass"
    assert 'image_map = [["rotate180"]] of cameras.left_wrist' in checks[WORLD].advice


def test_neither_truth_nor_labels_are_looked_at(two: Footage, tmp_path: Path) -> None:
    path, contact = two[0]
    bare = tmp_path / path.name
    shutil.copy(path, bare)
    with h5py.File(bare, "a") as file:
        del file["truth"]
    rig = load_rig(path.parent / "rig.toml")
    assert told(rig, [(bare, contact)]) == told(rig, [(path, contact)])


def test_one_motion_of_the_gripper_tells_nothing(recorded: dict[str, Path]) -> None:
    """One grasp may show anything: what is grasped moves into the box, a command runs ahead of the fingers."""
    for folder in recorded.values():
        checks = told(load_rig(folder / "rig.toml"), footage(folder, 1))
        assert checks[WRIST].status == "info" and "undecided: 1 motions" in checks[WRIST].measured
        assert checks[TOUCHES].status == "pass" and checks[WORLD].status in ("pass", "info")


@pytest.fixture(scope="module")
def grasps(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    """Four grasps under physics with measured openings, with their contacts."""
    folder = tmp_path_factory.mktemp("grasps")
    simulate(folder, episodes=4, seed=11, task="expert", gripper="measured", processes=1, progress=False)
    return footage(folder, 4)


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["measured", "commanded"])
def test_grasps_under_physics_tell_right_from_swapped(grasps: Footage, tmp_path: Path, reading: Any) -> None:
    seen = [(Path(shutil.copy(path, tmp_path)), contact) for path, contact in grasps]
    if reading == "commanded":
        for path, _ in seen:
            with h5py.File(path, "a") as file:  # an action is the command at the next step
                file["observations/qpos"][1:, -1] = file["action"][:-1, -1]
    right = load_rig(grasps[0][0].parent / "rig.toml").with_gripper("left", reading=reading)
    assert {check.status for check in told(right, seen).values()} <= {"pass", "info"}
    wrong = told(changed(right, swapped), seen)
    assert {wrong[name].status for name in (WRIST, TOUCHES)} == {"warn"}


def test_verify_says_it_and_how_many_episodes_it_looked_at(two: Footage, tmp_path: Path) -> None:
    folder = two[0][0].parent
    wrong = changed(load_rig(folder / "rig.toml"), turned("left_wrist", "rotate180"))
    result = verify_episodes(folder, wrong, most=2, progress=False)
    assert result.check("episodes-watched").measured == "2 of 2, evenly spread"
    assert result.check(WORLD).status == "warn" and result.check(WORLD).advice in result.text()


def test_a_gripper_that_never_moves_and_a_camera_that_rests_cannot_tell(two: Footage, tmp_path: Path) -> None:
    path, contact = two[0]
    still = tmp_path / path.name
    shutil.copy(path, still)
    with h5py.File(still, "a") as file:
        file["observations/qpos"][:] = file["observations/qpos"][:1]
    checks = told(load_rig(path.parent / "rig.toml"), [(still, contact)])
    assert checks[WRIST].measured.startswith("undecided: 0 motions of the gripper")
    assert checks[WORLD].measured.startswith("undecided: 0 pairs of frames")
    assert {check.status for check in checks.values()} <= {"info", "pass"}


def scored(**by_hypothesis: list[float]) -> list[Watched]:
    scores = {name.replace("_", " "): np.array(values) for name, values in by_hypothesis.items()}
    return [Watched((Motion("top", "tactile1", scores, {name: "Set it." for name in scores}),), {})]


def test_a_hypothesis_is_named_only_when_it_is_clearly_and_mostly_better() -> None:
    rig = load_rig("cell")
    for values, outcome in (
        ([0.5, 0.5, 0.5, 0.5, 0.1], "warn"),
        ([0.5, 0.5, 0.5, 0.1, 0.1], "pass"),
        ([0.28, 0.28, 0.28, 0.28, 0.28], "pass"),
    ):
        (check,) = motion_checks(rig, scored(as_written=[0.2] * 5, flip_u=values))
        assert check.status == outcome, check
    (check,) = motion_checks(rig, scored(as_written=[-0.6, -0.6, -0.6], flip_u=[0.1, 0.1, 0.1]))
    assert check.status == "info" and check.measured.startswith("undecided")


@pytest.mark.parametrize(
    ("still", "turned_still", "outcome"), [(0.5, 0.8, "warn"), (0.9, 0.2, "pass"), (0.9, None, "pass")]
)
def test_a_turned_wrist_image_is_named_only_with_the_still_worlds_consent(
    still: float, turned_still: float | None, outcome: str
) -> None:
    fingers = {AS_WRITTEN: np.full(3, 0.2), "flip_u": np.full(3, 0.5)}
    world = {AS_WRITTEN: np.full(3, still)} | ({} if turned_still is None else {"flip_u": np.full(3, turned_still)})
    advice = {"flip_u": "Set image_map."}
    motions = (Motion("left_wrist", "tactile1", fingers, advice), Motion("left_wrist", None, world, advice))
    checks = {check.id: check for check in motion_checks(load_rig("cell"), [Watched(motions, {})])}
    assert checks[WRIST].status == outcome and checks[WORLD].status == outcome


def test_hypotheses_that_only_some_episodes_have_are_left_out() -> None:
    one = Motion("top", None, {AS_WRITTEN: np.zeros(2), "flip_u": np.ones(2)}, {})
    other = Motion("top", None, {AS_WRITTEN: np.zeros(3)}, {})
    empty = Motion("top", None, {}, {})
    scores = Scores.of([one, empty, other], "top", None)
    assert len(scores) == 5 and scores.ranked() == []


def test_points_at_rest_are_explained_by_the_camera_that_saw_them_and_not_by_a_turned_one() -> None:
    rng = np.random.default_rng(3)
    camera = Camera("c", 640, 480, np.array([[450.0, 0, 322], [0, 455.0, 236], [0, 0, 1]]))
    T = pose(rotation_from_rpy(np.array([0.03, -0.02, 0.05])), np.array([0.02, -0.015, 0.01]))
    P = np.concatenate([rng.uniform(-0.15, 0.15, (200, 2)), rng.uniform(0.3, 1.2, (200, 1))], axis=1)
    Q = P @ T[:3, :3].T + T[:3, 3]
    p, q = (camera.K @ one.T for one in (P, Q))
    p, q = (p[:2] / p[2]).T, (q[:2] / q[2]).T
    assert _explained(camera, T, p, q) == 1.0
    assert _explained(camera, np.linalg.inv(T), p, q) < 0.1
    # Along the same lines, but only behind the camera.
    aside = pose(np.eye(3), np.array([0.02, 0.0, 0.0]))
    beside = camera.K @ (P + aside[:3, 3]).T
    assert _explained(camera, aside, p, (beside[:2] / beside[2]).T) == 1.0
    assert _explained(camera, np.linalg.inv(aside), p, (beside[:2] / beside[2]).T) < 0.1
    turned_round = Camera("t", 640, 480, np.array([[-450.0, 0, 317], [0, -455.0, 243], [0, 0, 1]]))
    assert _explained(turned_round, T, p, q) < 0.1


def test_a_patch_that_moved_agrees_with_the_box_that_moved_along() -> None:
    rng = np.random.default_rng(4)
    first, second = (np.full((120, 200), 90, np.uint8) for _ in range(2))
    patch = cv2.resize(rng.integers(0, 255, (6, 7), dtype=np.uint8), (42, 36), interpolation=cv2.INTER_NEAREST)
    first[40:76, 30:72], second[40:76, 90:132] = patch, patch
    a, b = np.array([29.5, 39.5, 71.5, 75.5]), np.array([89.5, 39.5, 131.5, 75.5])
    assert _follows(first, second, a, b) == pytest.approx(1.0, abs=0.05)
    assert _follows(first, second, b, a) == pytest.approx(0.0, abs=0.05)
    assert _follows(first, first, a, a) == pytest.approx(0.0, abs=1e-6)
    assert _follows(first, second, a, np.full(4, np.nan)) == 0.0


def test_pairs_that_overlap_in_time_show_one_motion() -> None:
    pairs = np.array([[20, 25], [3, 9], [24, 30], [5, 7], [30, 33]])
    assert _motions(pairs).tolist() == [1, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("centre", "frame"), [((639.5, 359.5), (1280, 720)), ((655, 352), (1280, 720)), ((300, 90), (601, 181))]
)
def test_a_principal_point_names_the_frame_it_is_the_centre_of(centre: tuple[float, float], frame: Any) -> None:
    camera = load_rig("cell").cameras["left_wrist"]
    K = ((400.0, 0.0, centre[0]), (0.0, 400.0, centre[1]), (0.0, 0.0, 1.0))
    assert frame_of(camera.model_copy(update={"width": 700, "height": 500, "K": K})) == frame


def test_a_principal_point_in_a_corner_belongs_to_no_frame() -> None:
    rig = changed(load_rig("cell"), lens_of("left_wrist", 465.6, 0.0, 0.0))
    assert not [one.name for one in hypotheses_of(rig, "left_wrist") if one.name.startswith("K of")]


def test_every_hypothesis_about_the_shipped_rigs_keeps_the_size_of_the_stored_frames() -> None:
    for name in ("cell", "xtrainer"):
        rig = load_rig(name)
        for camera, entry in rig.cameras.items():
            for hypothesis in hypotheses_of(rig, camera, next(iter(rig.sensors))):
                stored = hypothesis.changed.cameras[camera].stored
                assert (stored.width, stored.height) == (entry.stored.width, entry.stored.height), hypothesis.name
                assert bool(hypothesis.advice) == (hypothesis.name != AS_WRITTEN)


def test_the_stroke_is_a_slip_of_openings_but_not_of_a_crank() -> None:
    assert not list(strokes_of(load_rig("xtrainer"), "left"))
    rig = load_rig("cell")
    assert [slip.name for slip in strokes_of(rig, "left")] == ["opening halved", "opening doubled"]
    law = rig.gripper("left").law.model_dump()
    wide = rig.with_gripper("left", law=law | {"open_m": 0.6 * LARGEST_OPENING_M})
    assert [slip.name for slip in strokes_of(wide, "left")] == ["opening halved"]


VIEWS = (("left_wrist", None), ("left_wrist", "tactile1"), ("top", "tactile1"))


def moved(hypothesis: str, *scores: tuple[float, float], rig: Rig | None = None) -> dict[str, Check]:
    """Checks of VIEWS, each with a score as written and one with the hypothesis."""
    motions = tuple(
        Motion(camera, sensor, {AS_WRITTEN: np.full(12, plain), hypothesis: np.full(12, other)}, {hypothesis: "Edit."})
        for (camera, sensor), (plain, other) in zip(VIEWS, scores, strict=True)
    )
    return {check.id: check for check in motion_checks(rig or load_rig("cell"), [Watched(motions, {})])}


@pytest.mark.parametrize(
    ("world", "wrist", "top", "named"),
    [
        (0.9, (0.0, 0.6), (0.0, 0.5), {WRIST, TOP}),
        (0.1, (0.0, 0.6), (0.0, 0.0), set()),  # only one view gains, and its camera is in doubt
        (0.9, (0.0, 0.6), (0.0, 0.0), {WRIST}),
        (0.9, (0.0, 0.6), (0.6, 0.0), set()),  # the other view contradicts
        (0.9, (0.5, 0.55), (0.5, 0.55), set()),
    ],
)
def test_a_wrong_stroke_is_named_only_by_two_views_together(
    world: float, wrist: tuple[float, float], top: tuple[float, float], named: set[str]
) -> None:
    checks = moved("opening halved", (world, world), wrist, top)
    assert {id for id, check in checks.items() if "Edit." in check.advice} == named


def test_a_hypothesis_about_the_hand_that_fits_better_is_named_before_the_stroke() -> None:
    names = {AS_WRITTEN: 0.0, "opening halved": 0.4, "open and closed swapped": 0.6}
    scores = {name: np.full(12, value) for name, value in names.items()}
    motions = tuple(Motion(camera, "tactile1", scores, dict.fromkeys(names, "")) for camera in ("left_wrist", "top"))
    checks = motion_checks(load_rig("cell"), [Watched(motions, {})])
    assert all("0.60 with 'open and closed swapped'" in check.measured for check in checks)


@pytest.mark.parametrize("parent", ["world", "left/base"])
@pytest.mark.parametrize(
    ("world", "wrist", "top", "cause"),
    [
        (0.05, 0.6, 0.0, "`tip` of its URDF"),
        (0.9, 0.6, 0.0, "pose and K of cameras.top, or the pose of the arm's base"),
        (0.9, 0.0, 0.6, "image_map, K and pose of cameras.left_wrist"),
        (0.9, 0.0, 0.0, "open, closed, column and law of arms.left.gripper"),
        (0.05, 0.0, 0.0, "joint order of arms.left first"),
        (0.9, 0.6, 0.6, None),
        (0.9, 0.6, 0.14, None),  # a warning, but hardly below its limit
    ],
)
def test_the_pattern_of_the_views_names_the_part_of_the_rig(
    world: float, wrist: float, top: float, cause: str | None, parent: str
) -> None:
    rig = load_rig("cell").with_camera("top", parent=parent)
    checks = moved("flip_u", (world, world), (wrist, wrist), (top, top), rig=rig)
    pattern = checks.pop("pattern/left", None)
    assert (pattern is None) == (cause is None)
    if pattern is not None and cause is not None:
        # The checks that the pattern explains share its advice, so that a report states it once.
        assert cause in pattern.advice and pattern.status == "warn"
        assert {check.advice for check in checks.values() if check.status == "warn"} == {pattern.advice}
