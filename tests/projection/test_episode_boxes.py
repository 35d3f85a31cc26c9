"""One answer to "which box does this sensor have in this episode?", asked in every place that needs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import EpisodeRef, open_episode, write_episode
from tactile_align.datasets.layout import NoContact, load_layout
from tactile_align.finger.frames import FingerFrames
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.facts import moment_facts
from tactile_align.moments.inputs import Input
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.build import inputs_of, make_model
from tactile_align.policies.observation import checked
from tactile_align.policies.runtime import Policy
from tactile_align.projection.episode_boxes import (
    HeldOpening,
    ViewBoxes,
    contact_flags,
    episode_boxes,
    held_opening,
    no_contact_image,
    recorded_contact,
    stream_contact,
)
from tactile_align.projection.sensor_box import other_finger, sensor_boxes
from tactile_align.simulation.box_proof import recorded_boxes
from tactile_align.training.data import stream_sizes
from tactile_align.verify import motion_checks as motion
from tactile_align.verify.evidence import gather
from tactile_align.viz.overlay.footage import Footage
from tests.policies.conftest import observation
from tests.training.conftest import small_training

STEPS, FPS, DELAY_S = 60, 20.0, 0.03
PRESSED = {"tactile1": slice(30, 50), "tactile2": slice(20, 45)}  # the other pad touches ten frames earlier
TRUTH = np.array([100.0, 90.0, 300.0, 320.0])
CAMERAS = ("left_wrist", "top")
CASES = [(sensors, reading) for sensors in (1, 2) for reading in ("commanded", "measured")]


def joints() -> np.ndarray:
    """(T, 7) qpos: a slow swing of the arm while the gripper's command closes and, after the contact, opens."""
    t = np.arange(STEPS)
    q = np.array([0.1, -0.4, 1.6, 0.3, -1.5, 0.2]) + 0.1 * np.sin(0.1 * t[:, None] + np.arange(6))
    command = np.interp(t, [0, 8, 45, 50, 59], [0.95, 0.95, 0.1, 0.1, 0.8])
    return np.concatenate([q, command[:, None]], axis=1).astype(np.float32).astype(np.float64)  # as files store it


def touch(sensor: str, t: int) -> np.ndarray:
    """(H, W, 3) gel: even light, noise, a bright patch while it is pressed."""
    image = 110 + np.random.default_rng([t, len(sensor), int(sensor[-1])]).normal(0, 1.0, (80, 60, 3))
    if PRESSED[sensor].start <= t < PRESSED[sensor].stop:
        image[30:50, 20:40] += 70
    return np.clip(image, 0, 255).astype(np.uint8)


def pressed(sensor: str) -> np.ndarray:
    flags = np.zeros(STEPS, bool)
    flags[PRESSED[sensor]] = True
    return flags


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode with two touch streams; its truth is one and the same box in every frame."""
    qpos = joints()
    grey = {"left_wrist": np.full((480, 640, 3), 90, np.uint8), "top": np.full((240, 320, 3), 90, np.uint8)}
    return write_episode(
        tmp_path_factory.mktemp("two_pads") / "episode_init_0.hdf5",
        qpos=qpos,
        action=qpos,
        images={name: [image] * STEPS for name, image in grey.items()},
        touches={name: [touch(name, t) for t in range(STEPS)] for name in PRESSED},
        fps=FPS,
        extra={"truth/contact": pressed("tactile1")}
        | {f"truth/box/{camera}": np.tile(TRUTH, (STEPS, 1)) for camera in CAMERAS},
    )


def rig_of(sensors: int, reading: str) -> Rig:
    """Return the cell's rig, its second camera exposed late, with a sensor on one finger or on both."""
    rig = load_rig("cell")
    gripper = rig.gripper("left").model_copy(update={"reading": reading})
    top = rig.camera("top").model_copy(update={"delay_s": DELAY_S})
    mounted = dict(rig.sensors)
    if sensors == 2:
        mounted["tactile2"] = other_finger(rig, "tactile1").model_copy(update={"stream": "tactile2"})
    return rig.model_copy(
        update={
            "arms": {"left": rig.arms["left"].model_copy(update={"gripper": gripper})},
            "cameras": {**rig.cameras, "top": top},
            "sensors": mounted,
        }
    )


@dataclass(frozen=True)
class Case:
    """One rig, and what is right for tactile1: opening (T, 2) and, by camera, qpos (T, 7) and boxes (T, 4)."""

    path: Path
    rig: Rig
    opening: np.ndarray
    qpos: dict[str, np.ndarray]
    box: dict[str, np.ndarray]

    def equals(self, camera: str, box: Any, rows: Any = slice(None)) -> None:
        np.testing.assert_allclose(np.asarray(box), self.box[camera][rows], rtol=0, atol=1e-9)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}_{case[1]}")
def case(request: pytest.FixtureRequest, recording: Path) -> Case:
    """The answer by a plain loop over the frames."""
    sensors, reading = request.param
    rig = rig_of(sensors, reading)
    with open_episode(recording) as episode:
        qpos = episode.qpos
    touching = pressed("tactile1") | (pressed("tactile2") if sensors == 2 else False)
    opening, onset = np.empty((STEPS, 2)), None
    for t in range(STEPS):
        now = 0.045 * qpos[t, 6]
        onset = (now if onset is None else onset) if touching[t] and reading == "commanded" else None
        opening[t] = now if onset is None else max(now, onset)
    rows = np.arange(STEPS)
    late = np.clip(rows + DELAY_S * FPS, 0, STEPS - 1)
    exposed = {"left_wrist": qpos, "top": np.stack([np.interp(late, rows, column) for column in qpos.T], axis=1)}
    box = {
        camera: np.asarray(sensor_boxes(rig, camera, "tactile1", exposed[camera], opening).box) for camera in CAMERAS
    }
    return Case(recording, rig, opening, exposed, box)


def inputs(rig: Rig) -> tuple[Input, ...]:
    views = tuple(Input(f"{camera}-tactile1", camera, 64, 48, sensor="tactile1") for camera in CAMERAS)
    return (*views, Input("tactile1", rig.sensor("tactile1").stream, 30, 40))


def test_the_contact_of_a_stream_uses_the_gripper_and_the_reference_that_the_rig_names(
    recording: Path, tmp_path: Path
) -> None:
    with open_episode(recording) as episode:
        assert stream_contact(episode, "tactile1").evidence == "touch images"
        for reading in ("commanded", "measured"):
            found = stream_contact(episode, "tactile1", rig_of(1, reading))
            assert found.evidence == "touch images and gripper"
            np.testing.assert_array_equal(found.flags, pressed("tactile1"))
        image = tmp_path / "rest.png"
        cv2.imwrite(str(image), touch("tactile1", 0)[..., ::-1])
        for place in ({"file": str(image)}, {"frames": [0, 9]}, {"file": str(recording), "frames": 3}):
            rig = rig_of(1, "measured")
            named = rig.sensor("tactile1").model_copy(update={"no_contact": place})
            found = stream_contact(episode, "tactile1", rig.model_copy(update={"sensors": {"tactile1": named}}))
            assert found.evidence == "reference"
            np.testing.assert_array_equal(found.flags, pressed("tactile1"))


def test_actions_are_commanded_openings_only_where_they_are_targets(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[bool] = []

    def spy(touches: object, *, opening: object = None, command: object = None) -> None:
        commands.append(command is not None)

    monkeypatch.setattr("tactile_align.projection.episode_boxes.contact_of", spy)
    rig = rig_of(1, "measured")
    with open_episode(recording) as episode:
        for change in (False, True):
            changes = np.abs(np.diff(episode.qpos, axis=0, append=episode.qpos[-1:]))
            episode.action = changes if change else episode.qpos
            for stated in (None, "absolute", "delta"):
                state = episode.layout.state.model_copy(update={"action_is": stated})
                episode.layout = episode.layout.model_copy(update={"state": state})
                stream_contact(episode, "tactile1", rig)
    assert commands == [True, True, False, False, True, False]


def test_the_file_of_a_reference_is_relative_to_the_rig_or_layout_that_names_it(tmp_path: Path) -> None:
    rig = rig_of(1, "measured")
    named = rig.sensor("tactile1").model_copy(update={"no_contact": {"file": "rest.png"}})
    rig.model_copy(update={"sensors": {"tactile1": named}}).save(tmp_path / "rig.toml")
    place = load_rig(tmp_path / "rig.toml").sensor("tactile1").no_contact
    assert place is not None
    assert place.file == str(tmp_path / "rest.png")
    text = (Path(__file__).parents[2] / "datasets" / "xtrainer.toml").read_text()
    (tmp_path / "own.toml").write_text(text.replace("[touches]", '[touches]\nno_contact = { file = "rest.png" }'))
    assert load_layout(tmp_path / "own.toml").touches.no_contact == place
    with pytest.raises(
        ValueError, match=r"reference of 'tactile1' is stated as .*rest.png, which does not exist or is"
    ):
        no_contact_image(place, "tactile1")


def test_a_missing_reference_is_no_error_of_the_joints(recording: Path) -> None:
    rig = rig_of(1, "measured").with_sensor("tactile1", no_contact={"file": "gone.png"})
    with open_episode(recording) as episode:
        for collect in (lambda: gather(episode, rig), lambda: moment_facts(episode, rig, inputs(rig))):
            with pytest.raises(ValueError, match=r"hdf5: the no-contact reference .* stated as gone\.png"):
                collect()


def test_the_reference_of_a_rig_is_found_from_a_copy_of_the_rig_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("cell", "run"):
        Path(folder).mkdir()
    rig_of(1, "measured").with_sensor("tactile1", no_contact={"file": "rest.png"}).save("cell/rig.toml")
    load_rig("cell/rig.toml").save("run/rig.toml")
    place = load_rig("run/rig.toml").sensor("tactile1").no_contact
    assert place is not None
    assert place.file == str(tmp_path / "cell" / "rest.png")


def test_a_reference_that_names_no_row_or_too_many_is_refused(recording: Path) -> None:
    with pytest.raises(ValueError, match="needs a file or frames"):
        NoContact()
    with pytest.raises(ValueError, match=r"\(5, 5\) contains no row"):
        NoContact(frames=(5, 5))
    with open_episode(recording) as episode, pytest.raises(ValueError, match="has 60 rows and the touch streams tac"):
        no_contact_image(NoContact(frames=(50, 61)), "tactile1", episode)


def test_contact_that_cannot_be_determined_is_none_and_a_warning(
    recording: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rig_of(1, "commanded")
    with open_episode(recording) as episode:
        held = write_episode(
            tmp_path / "held.hdf5",
            qpos=episode.qpos,
            action=episode.action,
            images={"top": [episode.image("top", 0)] * STEPS},
            touches={"tactile1": [touch("tactile1", 30 + t % 20) for t in range(STEPS)]},
            fps=FPS,
        )
    with open_episode(held) as episode:
        assert not contact_flags(episode, rig, "tactile1").any()
    assert "held.hdf5: tactile1: the frames in contact cannot be determined: all frames look alike" in caplog.text


def test_the_contact_of_the_other_pad_moves_the_boxes_far(recording: Path) -> None:
    """What the tests below tell apart: holding by tactile1 alone, and by any sensor of the hand."""
    rig, qpos = rig_of(2, "commanded"), joints()
    contact = {name: pressed(name) for name in PRESSED}
    alone = episode_boxes(rig, "left_wrist", "tactile1", qpos, {"tactile1": contact["tactile1"]}, None).boxes.box
    both = episode_boxes(rig, "left_wrist", "tactile1", qpos, contact, None).boxes.box
    assert np.abs(alone - both)[30:50].max() > 30 and np.array_equal(alone[:20], both[:20])


def test_both_forms_give_these_boxes(case: Case) -> None:
    qpos, rig = joints(), case.rig
    with open_episode(case.path) as episode:
        contact = recorded_contact(episode, rig, rig.sensors)
    assert list(contact) == list(rig.sensors)
    for camera in CAMERAS:
        whole = episode_boxes(rig, camera, "tactile1", qpos, contact, FPS)
        case.equals(camera, whole.boxes.box)
        case.equals(camera, whole.at([[3, 22], [35, 47]]).boxes.box, [[3, 22], [35, 47]])
        held = HeldOpening(rig, "left")
        for t in range(STEPS):
            opening = held.step(qpos[t], {name: bool(flags[t]) for name, flags in contact.items()})
            np.testing.assert_allclose(opening, case.opening[t], rtol=0, atol=1e-12)
            single = ViewBoxes(rig, camera, "tactile1", case.qpos[camera][t], opening)
            case.equals(camera, single.boxes.box, t)
            np.testing.assert_allclose(single.T_camera_sensor, whole.T_camera_sensor[t], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_hold_of_single_steps_equals_that_of_whole_episodes(seed: int) -> None:
    rig, rng = rig_of(2, "commanded"), np.random.default_rng(seed)
    qpos = np.zeros((200, 7))
    qpos[:, 6] = rng.uniform(0, 1, 200)
    contact = {name: np.repeat(rng.random(40) < 0.3, 5) for name in rig.sensors}
    held = HeldOpening(rig, "left")
    steps = [held.step(q, {name: bool(flags[t]) for name, flags in contact.items()}) for t, q in enumerate(qpos)]
    whole = held_opening(rig, "left", qpos, contact)
    assert np.array_equal(steps, whole) and not np.array_equal(whole, rig.gripper("left").opening(qpos))


def test_a_step_without_the_contact_of_a_sensor_of_the_hand_names_it() -> None:
    held = HeldOpening(rig_of(2, "commanded"), "left")
    with pytest.raises(ValueError, match=r"contact lacks tactile2 \(found: tactile1\).*each of tactile1, tactile2"):
        held.step(joints()[0], {"tactile1": True})
    assert HeldOpening(rig_of(2, "measured"), "left").sensors == ()
    HeldOpening(rig_of(2, "measured"), "left").step(joints()[0], {})


def test_a_sensor_whose_stream_was_not_recorded_holds_nothing(recording: Path, tmp_path: Path) -> None:
    """Verify and training agree then, too: both hold by the sensors of the hand that the episode has."""
    rig = rig_of(2, "commanded")
    sensors = {**rig.sensors, "tactile2": rig.sensor("tactile2").model_copy(update={"stream": "elsewhere"})}
    rig = rig.model_copy(update={"sensors": sensors})
    contact = {"tactile1": pressed("tactile1")}
    with open_episode(recording) as episode:
        facts = moment_facts(episode, rig, inputs(rig))
        views = {view.camera: view.box for view in gather(episode, rig).views}
    for camera in CAMERAS:
        right = episode_boxes(rig, camera, "tactile1", joints(), contact, FPS).boxes.box
        np.testing.assert_array_equal(facts[f"frame_box/{camera}-tactile1"], right)
        np.testing.assert_array_equal(views[camera], right)


def test_verify_looks_at_these_boxes(case: Case) -> None:
    with open_episode(case.path) as episode:
        views = [view for view in gather(episode, case.rig).views if view.sensor == "tactile1"]
    assert [view.camera for view in views] == list(CAMERAS)
    for view in views:
        case.equals(view.camera, view.box)
        np.testing.assert_allclose(view.opening, case.opening, rtol=0, atol=1e-12)
        plain = sensor_boxes(case.rig, view.camera, "tactile1", case.qpos[view.camera]).box
        np.testing.assert_allclose(view.unheld, plain, rtol=0, atol=1e-9)


def test_training_sees_these_boxes(case: Case) -> None:
    with open_episode(case.path) as episode:
        facts = moment_facts(episode, case.rig, inputs(case.rig))
    for camera in CAMERAS:
        case.equals(camera, facts[f"frame_box/{camera}-tactile1"])
    np.testing.assert_allclose(facts["opening/tactile1"], case.opening, rtol=0, atol=1e-12)


def test_the_contact_of_a_pair_is_that_of_its_own_sensor_alone(case: Case) -> None:
    with open_episode(case.path) as episode:
        facts = moment_facts(episode, case.rig, inputs(case.rig))
    np.testing.assert_array_equal(facts["contact/tactile1"], pressed("tactile1"))
    assert "contact/tactile2" not in facts, "what no view looks at has no column in the table of moments"


def test_the_overlay_draws_these_boxes(case: Case) -> None:
    with Footage(case.path, case.rig, compare=case.rig) as footage:
        for camera in CAMERAS:
            seen = footage.seen[camera]["tactile1"]
            case.equals(camera, seen.boxes.box)
            case.equals(camera, seen.compared)
        np.testing.assert_allclose(footage.opening["left"], case.opening, rtol=0, atol=1e-12)


def test_the_finger_is_calibrated_where_these_boxes_are(case: Case) -> None:
    rows = [3, 22, 35, 47, 55]
    with open_episode(case.path) as episode:
        evidence = gather(episode, case.rig)
        for camera in CAMERAS:
            frames = FingerFrames.of(episode, case.rig, camera, "left/finger1", evidence, rows)
            found = frames.T_camera_flange @ frames.T_flange_finger() @ case.rig.sensor("tactile1").T_parent_this
            right = case.rig.T_camera_sensor(camera, "tactile1", case.qpos[camera], case.opening)[rows]
            np.testing.assert_allclose(found, right, rtol=0, atol=1e-12)


def test_what_moves_is_looked_for_in_these_boxes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = np.stack([np.arange(0, 50, 4), np.arange(5, 55, 4)], axis=1)
    taken: list[np.ndarray] = []

    def enlarge(box: np.ndarray, factor: float) -> np.ndarray:
        taken.append(np.asarray(box))
        return box

    monkeypatch.setattr(motion, "_pairs_of_openings", lambda *_: pairs)
    monkeypatch.setattr(motion, "enlarge", enlarge)
    with open_episode(case.path) as episode:
        contact = gather(episode, case.rig).contact
        for camera in CAMERAS:
            taken.clear()
            motion.finger_motion(episode, case.rig, camera, "tactile1", contact)
            right = sensor_boxes(case.rig, camera, "tactile1", case.qpos[camera], case.opening).raw[pairs]
            np.testing.assert_allclose(taken[0], right, rtol=0, atol=1e-9)  # the first hypothesis: the rig as written


def test_the_proof_of_the_boxes_proves_these(case: Case) -> None:
    for camera in CAMERAS:
        found = recorded_boxes([case.path], case.rig, camera, "tactile1", hold=True)
        right = sensor_boxes(case.rig, camera, "tactile1", case.qpos[camera], case.opening, min_side_px=1).box
        np.testing.assert_allclose(found.edges + TRUTH, right[np.isfinite(right[:, 0])], rtol=0, atol=1e-9)


def policy_of(rig: Rig, folder: Path) -> Policy:
    """Return an untrained policy that looks at tactile1 in both cameras."""
    views = [{"camera": camera, "sensor": "tactile1"} for camera in CAMERAS]
    config = small_training(folder, folder / "run", views=views, augment={"shift_px": 0})
    return Policy(make_model(config, 7, 7), config, rig, Statistics.of([(joints(), joints())]), {})


@pytest.mark.parametrize("stated", [True, False], ids=["contact_stated", "contact_seen"])
def test_a_policy_acts_on_these_boxes(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: bool
) -> None:
    policy, rig = policy_of(case.rig, tmp_path), case.rig
    boxes: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
    image_map = Input.image_map

    def noted(one: Input, width: int, height: int, box: Any = None) -> Any:
        if one.sensor is not None and box is not None:
            boxes[one.stream].append(np.asarray(box))
        return image_map(one, width, height, box)

    monkeypatch.setattr(Input, "image_map", noted)
    found: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
    with open_episode(case.path) as episode:
        policy.reset(free={name: episode.image(name, 0) for name in rig.sensors if name in policy.needs.sensors})
        for t in range(STEPS):
            more = {"contact": {name: bool(pressed(name)[t]) for name in policy.needs.sensors}} if stated else {}
            seen = observation(episode, t, exposure_qpos={"top": case.qpos["top"][t]}, **more)
            batch = policy.batch(checked(seen, policy.needs))
            for camera in CAMERAS:
                found[camera].append(batch.views[f"{camera}-tactile1"].box[0].numpy())
        monkeypatch.undo()
        trained = moment_facts(episode, rig, inputs_of(policy.config, rig))
    for camera in CAMERAS:
        case.equals(camera, boxes[camera])
        right = trained[f"box/{camera}-tactile1"]
        np.testing.assert_allclose(found[camera], right.astype(np.float32), rtol=1e-6, atol=1e-5)


def test_a_policy_needs_every_sensor_of_a_commanded_hand(recording: Path, tmp_path: Path) -> None:
    needs = {case: policy_of(rig_of(*case), tmp_path).needs for case in CASES}
    assert {case: (one.sensors, set(one.touches)) for case, one in needs.items()} == {
        (1, "commanded"): (("tactile1",), {"tactile1"}),
        (1, "measured"): (("tactile1",), {"tactile1"}),
        (2, "commanded"): (("tactile1", "tactile2"), {"tactile1", "tactile2"}),
        (2, "measured"): (("tactile1",), {"tactile1"}),
    }
    assert needs[2, "commanded"].for_contact == {"tactile2": "tactile2"}
    with open_episode(recording) as episode:
        seen = observation(episode, 0, exposure_qpos={"top": episode.qpos[0]})
    del seen["touches"]["tactile2"]
    with pytest.raises(ValueError, match=r"'tactile2'.*or state contact\['tactile2'\]"):
        checked(seen, needs[2, "commanded"])
    checked({**seen, "contact": {"tactile2": False}}, needs[2, "commanded"])


@pytest.mark.parametrize(
    ("column", "message", "free", "rows"),
    [(6, "gripper reading 7", False, (5, 20, 25)), (0, "joint", True, (20, 25))],
    ids=["no_touch_as_reference", "no_onset"],
)
def test_nothing_of_a_refused_observation_is_remembered_of_the_other_pad(
    recording: Path, tmp_path: Path, column: int, message: str, free: bool, rows: tuple[int, ...]
) -> None:
    policy = policy_of(rig_of(2, "commanded"), tmp_path)
    with open_episode(recording) as episode:
        seen = {t: observation(episode, t, exposure_qpos={"top": episode.qpos[t]}) for t in rows}
        given = {name: episode.image(name, 0) for name in PRESSED} if free else None

    def boxes() -> list[np.ndarray]:
        batches = [policy.batch(checked(seen[t], policy.needs)) for t in rows]
        return [np.asarray(one.views["left_wrist-tactile1"].box) for one in batches]

    policy.reset(given)
    right = boxes()
    policy.reset(given)
    bad = seen[25]["qpos"].copy()
    bad[column] = 7.0
    with pytest.raises(ValueError, match=message):
        policy.act({**seen[25], "qpos": bad, "exposure_qpos": {"top": bad}})
    np.testing.assert_array_equal(boxes(), right)


def test_the_checkpoint_knows_the_size_of_every_touch_a_box_needs(recording: Path, tmp_path: Path) -> None:
    rig = rig_of(2, "commanded")
    job = Job(EpisodeRef(recording), rig, inputs(rig), packed=False)
    moments = Moments([job], chunk=2, cache=tmp_path, progress=False)
    sizes = {"left_wrist": (640, 480), "top": (320, 240), "tactile1": (60, 80), "tactile2": (60, 80)}
    assert stream_sizes(moments) == sizes
