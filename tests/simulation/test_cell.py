"""Closed loop of the cell: what only touch can tell, one stepping for recorder and policy, policies of others."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tactile_align.calibration.rig import load_rig
from tactile_align.config.cell import CellOptions
from tactile_align.datasets.copies import copies
from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import InputError
from tactile_align.geometry.frames import pose
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.simulation.cell import LIFTED_M, Cell, cell_rig
from tactile_align.simulation.cell_tasks import TASKS, Relief
from tactile_align.simulation.env import CellEnv
from tactile_align.simulation.record import recorded_options, simulate
from tactile_align.simulation.world import Moment

SMALL = cell_rig().with_camera("left_wrist", image_map=(("resize", 96, 72),))
SMALL = SMALL.with_camera("top", image_map=(("resize", 80, 60),))


def actions_of(cell: Cell) -> list[np.ndarray]:
    """Return the expert's actions for class 0, as shares of the stroke."""
    cell.reset(5, 0)
    steps = list(cell.demonstrate(noise=0.0))
    actions = [step.action for step in steps if step.action is not None]
    return [np.append(action[:-1], cell.share(action[-1])) for action in actions]


def played(cell: Cell, cls: int, actions: list[np.ndarray]) -> list[tuple[Moment, np.ndarray]]:
    cell.reset(5, cls)
    out = []
    for action in actions:
        moment = cell.moment()
        out.append((moment, cell.qpos(moment)))
        cell.step(action)
    return out


@pytest.mark.parametrize("task", ["feel", "sort"])
def test_under_equal_actions_the_classes_differ_in_the_touch_alone(task: str) -> None:
    cell = Cell(task, rig=SMALL)
    actions = actions_of(cell)[:30]  # beyond the grip and the lift
    one, two = played(cell, 0, actions), played(cell, cell.task.classes - 1, actions)
    for (a, q), (b, p) in zip(one, two, strict=True):
        assert q.tobytes() == p.tobytes()
        for name in a.images:
            assert a.images[name].tobytes() == b.images[name].tobytes()
        assert a.truth.contact == b.truth.contact
    touching = [a.touch.astype(float) - b.touch for (a, _), (b, _) in zip(one, two, strict=True) if a.truth.contact]
    assert len(touching) > 5 and min(np.abs(d).max() for d in touching) > 20
    before = [a.touch.tobytes() == b.touch.tobytes() for (a, _), (b, _) in zip(one, two, strict=True)][:10]
    assert all(before), "no touch, no difference"


def test_marks_are_seen_and_not_felt() -> None:
    cell = Cell("look", rig=SMALL)
    actions = actions_of(cell)[:25]
    marked = played(cell, 0, actions)
    plain = played(Cell("look", CellOptions(visible_marks=False), rig=SMALL), 0, actions)
    for (a, q), (b, p) in zip(marked, plain, strict=True):
        assert a.touch.tobytes() == b.touch.tobytes() and q.tobytes() == p.tobytes()
    assert (marked[-1][0].images["left_wrist"] != plain[-1][0].images["left_wrist"]).any()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_expert_fulfils_every_task_with_every_class(task: str) -> None:
    cell = Cell(task, rig=SMALL, cameras=())
    for cls in range(0, cell.task.classes, 3):
        cell.reset((1, cls), cls)
        for _ in cell.demonstrate():
            pass
        assert cell.outcome().correct and cell.over()
        assert cell.world.thing_place()[2] - cell.start[2] > LIFTED_M


def test_a_policy_that_does_nothing_fails() -> None:
    cell = Cell("feel", rig=SMALL, cameras=())
    cell.reset(0, 1)
    still = np.append(cell.q0, cell.share(cell.target[-1]))
    for _ in range(cell.task.horizon):
        cell.step(still)
    assert not (cell.outcome().lifted or cell.outcome().decided or cell.over())


def test_a_recorded_demonstration_played_without_noise_ends_as_recorded(tmp_path: Path) -> None:
    """Recorder and roll-out share their stepping: the recorded commands reach the recorded states."""
    paths = simulate(tmp_path, episodes=2, seed=4, task="feel", gripper="commanded", processes=1, progress=False)
    with open_episode(paths[1]) as episode:
        assert episode.attributes["cls"] == 1 and episode.attributes["side"] == -1 and episode.attributes["success"]
        assert len(episode) == TASKS["feel"].horizon and episode.fps == 10
        qpos, wrist = episode.qpos, episode.image("left_wrist", 20)
    cell = Cell("feel", rig=cell_rig("commanded"))
    cell.reset((4, 0, 1), 1)
    for t, step in enumerate(cell.demonstrate()):
        np.testing.assert_allclose(cell.qpos(step.moment), qpos[t], atol=1e-6)
        if t == 20:
            assert np.abs(step.moment.images["left_wrist"].astype(int) - wrist).mean() < 2  # JPEG
            break
    assert load_rig(tmp_path / "rig.toml") == cell_rig("commanded")


def test_play_shows_the_marks_that_the_task_of_sort_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tactile_align.simulation.tasks.CONTACTS", (2, 2))
    (path,) = simulate(tmp_path, episodes=1, seed=4, task="sort-play", processes=1, progress=False)
    with open_episode(path) as episode:
        frame = episode.image("left_wrist", 3).astype(int)
    hidden = Cell("sort", rig=SMALL)
    hidden.reset((4, 0, 2), 0)
    marks = [part for part in hidden.world.look.parts if not part.felt]
    assert _marked(frame) > 20 and not marks and _marked(hidden.moment().images["left_wrist"].astype(int)) == 0


def _marked(frame: np.ndarray) -> int:
    """Return the number of pixels in the dark blue of the marks."""
    return int(((frame[..., 2] > 2 * frame[..., 0] + 8) & (frame[..., 2] < 60) & (frame[..., 1] < 25)).sum())


def test_a_gel_that_recovers_slowly_shows_a_contact_after_its_release() -> None:
    remains = []
    for relaxation in (False, True):
        cell = Cell("feel", CellOptions(relaxation=relaxation), cameras=())
        cell.reset(4)
        tcp, world = cell.world.T_world_tcp()[:3, 3], cell.world
        world.place_thing(pose(np.eye(3), tcp))
        world.settle()
        world.place_arm(cell.q0, (world.thickness()[0] - 0.001, 0.03))
        for place in (tcp, np.array([0.0, 0.0, -1.0])):
            world.place_thing(pose(np.eye(3), place))
            world.settle()
            world.wait(0.1)
            moment = cell.moment()
            assert moment.truth.contact == (place is tcp)
        shown, rest = (cv2.blur(image, (9, 9)).astype(float) for image in (moment.touch, world.gel.reference))
        remains.append(np.abs(shown - rest).max())
    assert remains[0] < 3 < 8 < remains[1]


def test_options_of_the_cell_are_refused_for_other_tasks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'regrasp' has no options.*sort"):
        simulate(tmp_path, episodes=1, options=CellOptions(clutter=True), progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2, 2.5])
def test_the_lines_of_a_relief_end_inside_the_face(angle: float) -> None:
    lines = Relief(angle, 4.0, 7).lines(10.0, 17.0)
    along = np.array([np.sin(angle), np.cos(angle)])
    for centre, half in lines:
        ends = centre + np.array([[-1.0], [1.0]]) * half * along
        assert (np.abs(ends) <= [9 + 1e-9, 16 + 1e-9]).all()
        assert np.isclose(np.abs(ends), [9, 16]).any(axis=1).all(), "each end lies on the rim"
    assert len(lines) >= 3


def test_a_shifted_rig_shifts_all_boxes_and_the_pictures_stay() -> None:
    cell = Cell("look", CellOptions(box_offset_px=10), rig=cell_rig())
    cell.reset(1, 0)
    moment = cell.moment()
    qpos, opening = cell.qpos(moment), moment.truth.opening
    right = sensor_boxes(cell.rig, "left_wrist", "tactile1", qpos, opening).box
    wrong = sensor_boxes(cell.policy_rig(), "left_wrist", "tactile1", qpos, opening).box
    np.testing.assert_allclose(wrong - right, [5, 0, 5, 0], atol=1e-6)  # frames are stored at half the raw size
    turned = Cell("look", CellOptions(rig_error_mm=3, rig_error_deg=2), rig=cell_rig()).policy_rig()
    T, Q = (rig.cameras["left_wrist"].T_parent_this for rig in (cell.rig, turned))
    error = np.linalg.inv(T) @ Q
    assert np.linalg.norm(error[:3, 3]) == pytest.approx(0.003)
    assert np.degrees(np.arccos((np.trace(error[:3, :3]) - 1) / 2)) == pytest.approx(2)
    assert (cell.rig.cameras["top"].T_parent_this == turned.cameras["top"].T_parent_this).all()


def test_occlusion_hides_sixty_percent_of_the_box_with_the_pad() -> None:
    options = CellOptions(occlude=True)
    cell = Cell("look", options, rig=cell_rig(), cameras=("left_wrist", "top"))
    cell.reset(2, 1)
    moment = cell.moment()
    grey = (moment.images["left_wrist"] == 128).all(axis=2)
    u0, v0, u1, v1 = moment.truth.box["left_wrist"]
    rows, columns = np.nonzero(grey)
    assert grey.sum() / ((u1 - u0) * (v1 - v0)) == pytest.approx(0.6, abs=0.06)
    assert columns.min() >= u0 - 1 and columns.max() <= u1 + 1 and rows.min() >= v0 - 1 and rows.max() <= v1 + 1
    pad = np.rint(cell._pad_pixel("left_wrist")).astype(int)
    assert grey[pad[1], pad[0]]
    assert not (moment.images["top"] == 128).all(axis=2).any()


def test_another_gel_unit_changes_the_touch_and_nothing_else() -> None:
    same, other = (Cell("feel", CellOptions(random_units=flag), rig=SMALL) for flag in (False, True))
    same.reset(3, 0)
    other.reset(3, 0)
    a, b = same.moment(), other.moment()
    assert (a.touch != b.touch).any() and np.abs(a.touch.mean((0, 1)) - b.touch.mean((0, 1))).max() > 3
    np.testing.assert_array_equal(other.world.gel.reference.mean((0, 1)).round(), b.touch.mean((0, 1)).round())
    assert other.world.gel.unit is not None and same.world.gel.unit is None


@pytest.mark.parametrize("bad", [np.zeros(6), np.full(7, np.nan), np.zeros((7, 1))])
def test_an_action_that_is_no_action_is_refused(bad: np.ndarray) -> None:
    cell = Cell("lift", rig=SMALL, cameras=())
    cell.reset(0)
    with pytest.raises(ValueError, match=r"7 finite numbers.*Policy\.act"):
        cell.step(bad)
    with pytest.raises(ValueError, match=r"classes 0 to 0; got 2"):
        cell.reset(0, 2)
    with pytest.raises(ValueError, match=r"'pour' is unknown.*feel"):
        Cell("pour")


def test_gymnasium_accepts_the_environment() -> None:
    env = gymnasium.make("tactile_align/Feel-v0", cameras=("left_wrist",), disable_env_checker=True)
    check_env(env.unwrapped, skip_render_check=False)


class Scripted:
    """Policy of somebody else, which knows gymnasium only: it plays recorded actions."""

    def __init__(self, actions: list[np.ndarray]) -> None:
        self.actions = list(actions)

    def __call__(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        return self.actions.pop(0)


def test_policies_of_somebody_else_act_through_gymnasium_alone() -> None:
    cell = Cell("feel", cameras=())
    cell.reset(8, 1)
    steps = list(cell.demonstrate(noise=0.0))
    scripted = Scripted([np.append(s.action[:-1], cell.share(s.action[-1])) for s in steps if s.action is not None])
    env = gymnasium.make("tactile_align/Feel-v0", cameras=())
    rng = np.random.default_rng(0)
    for policy in (scripted, lambda seen: seen["qpos"] + rng.normal(0, 0.02, 7)):
        observation, info = env.reset(seed=8, options={"cls": 1})
        total, terminated, truncated = 0.0, False, False
        while not (terminated or truncated):
            observation, reward, terminated, truncated, info = env.step(np.asarray(policy(observation)))
            total += float(reward)
        assert set(info) == {"lifted", "decided", "side", "correct", "contact", "phase", "cls"}
        if policy is scripted:
            assert terminated and total == 1 and info["correct"] and info["side"] == -1 and info["phase"] == "decided"
        else:
            assert truncated and total == 0 and not info["lifted"]


def test_the_environment_returns_what_the_cell_does() -> None:
    env = CellEnv("look")
    observation, _ = env.reset(seed=3, options={"cls": 1})
    cell = Cell("look")
    cell.reset(3, 1)
    want = cell.observation(cell.moment())
    assert observation["qpos"].tobytes() == want["qpos"].tobytes()
    assert observation["images"]["top"].tobytes() == want["images"]["top"].tobytes()
    assert observation["touches"]["tactile1"].tobytes() == want["touches"]["tactile1"].tobytes()


def test_demonstrations_of_one_seed_move_differently_so_that_none_counts_as_a_copy(tmp_path: Path) -> None:
    paths = simulate(tmp_path, episodes=2, seed=4, task="feel", gripper="measured", processes=1, progress=False)
    states = []
    for path in paths:
        with open_episode(path) as episode:
            states.append(np.hstack([episode.qpos, episode.action]))
    assert not copies(states)


def test_noise_of_the_cameras_is_as_large_as_stated_and_equal_for_all_classes() -> None:
    clean, noisy = (Cell("feel", CellOptions(camera_noise=sigma), rig=SMALL) for sigma in (0.0, 3.0))
    frames = []
    for cell, cls in ((clean, 0), (noisy, 0), (noisy, 1)):
        cell.reset(3, cls)
        frames.append([cell.moment().images["left_wrist"].astype(float) for _ in range(2)])
    difference = frames[1][0] - frames[0][0]
    assert np.std(difference) == pytest.approx(3, rel=0.1) and abs(difference.mean()) < 0.2
    assert (frames[1][0] != frames[1][1]).any(), "the noise is new in each image"
    assert (frames[1][0] == frames[2][0]).all()


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_touch_and_images_do_not_depend_on_the_cameras_that_are_rendered(sigma: float) -> None:
    moments: list[list[Moment]] = []
    for cameras in (("left_wrist", "top"), ("left_wrist",), ()):
        cell = Cell("feel", CellOptions(camera_noise=sigma), rig=SMALL, cameras=cameras)
        cell.reset(3, 0)
        moments.append([cell.moment() for _ in range(2)])
    for both, one, none in zip(*moments, strict=True):
        assert both.touch.tobytes() == one.touch.tobytes() == none.touch.tobytes()
        assert both.images["left_wrist"].tobytes() == one.images["left_wrist"].tobytes()


@pytest.mark.parametrize("text", ["{", b"none", 3.0, np.array(["{}", "{}"], dtype=h5py.string_dtype())])
def test_options_of_a_recording_that_are_not_json_are_named(tmp_path: Path, text: Any) -> None:
    with h5py.File(tmp_path / "episode_init_0.hdf5", "w") as file:
        file.attrs["simulated_options"] = text
    with pytest.raises(InputError, match=r"episode_init_0\.hdf5: simulated_options must be JSON; got "):
        recorded_options(tmp_path / "episode_init_0.hdf5")


def test_only_options_that_are_set_are_stored_and_files_with_all_options_are_still_recognised(tmp_path: Path) -> None:
    options = CellOptions(stripe_mm=1.2, visible_marks=False)
    (path,) = simulate(tmp_path, episodes=1, task="lift", options=options, processes=1, progress=False)
    with h5py.File(path, "r+") as file:
        stored = json.loads(file.attrs["simulated_options"])
        assert stored == {"stripe_mm": 1.2, "visible_marks": False}
        file.attrs["simulated_options"] = json.dumps(
            {name: getattr(options, name) for name in CellOptions.model_fields}
        )
    assert recorded_options(path) == options
    simulate(tmp_path, episodes=1, task="lift", options=options, processes=1, progress=False)
    with h5py.File(path, "r+") as file:
        file.attrs["simulated_options"] = json.dumps({**stored, "later": 1})
    with pytest.raises(ValueError, match=r"episode_init_0\.hdf5: simulated_options: later: unknown key"):
        simulate(tmp_path, episodes=1, task="lift", options=options, processes=1, progress=False)


def share_right(x: np.ndarray) -> float:
    """Return the share of moments whose class a ridge regression tells, each seed left out in turn.

    `x` is (seeds, 2 classes, moments, features).
    """
    x = (x - x.mean(axis=(0, 1, 2))) / (x.std(axis=(0, 1, 2)) + 1e-6)  # of all classes alike, so nothing leaks
    y = np.broadcast_to(np.array([-1.0, 1.0])[:, None], x.shape[1:3])
    right = []
    for seed in range(len(x)):
        others = np.delete(x, seed, axis=0).reshape(-1, x.shape[-1])
        target = np.tile(y.ravel(), len(x) - 1)
        weights = np.linalg.solve(others @ others.T + x.shape[-1] * np.eye(len(others)), target)
        right.append(np.sign(x[seed] @ others.T @ weights) == y)
    return float(np.mean(right))


def test_before_the_sides_part_demonstrations_tell_the_class_by_touch_alone() -> None:
    cell, found = Cell("feel", rig=SMALL, cameras=("left_wrist",)), list[list[np.ndarray]]()
    for number in range(10):
        for cls in (0, 1):
            cell.reset((7, number, 1), cls)  # as recorded
            steps = [s for s in islice(cell.demonstrate(), 29) if s.phase == "lift"]
            rows = [
                (np.append(s.moment.q, s.moment.truth.opening), s.moment.images["left_wrist"], s.moment.touch)
                for s in steps
            ]
            found += [[np.ravel(part).astype(float) for part in row] for row in rows]
    state, wrist, touch = (np.stack(parts).reshape(10, 2, -1, parts[0].size) for parts in zip(*found, strict=True))
    assert share_right(touch[..., ::8]) > 0.9, "the probe finds the class where it is"
    for blind in (state, wrist, np.concatenate([state, wrist], axis=-1)):
        assert abs(share_right(blind) - 0.5) < 0.15


def test_both_ways_of_the_expert_start_pixel_equal_and_lift_the_block_a_quarter_turn_apart() -> None:
    cell = Cell("lift", CellOptions(two_ways=True), rig=SMALL, cameras=("top",))
    starts, turns, coins = [], [], set()
    for way in (0, 1):
        cell.reset(5)
        steps = list(islice(cell.demonstrate(noise=0.0, way=way), 34))
        starts.append((steps[0].moment.images["top"].tobytes(), cell.qpos(steps[0].moment).tobytes()))
        turns.append(float(np.arctan2(*cell.world.T_world_tcp()[[1, 0], [0, 0]])))
        assert cell.outcome().lifted
    assert starts[0] == starts[1]
    assert abs(np.degrees(turns[1] - turns[0])) == pytest.approx(90, abs=3)
    for seed in range(8):
        cell.reset(seed)
        coins.add(cell.way)
    assert coins == {0, 1}


def test_without_the_option_no_coin_is_drawn() -> None:
    cell = Cell("lift", rig=SMALL, cameras=())
    for seed in range(4):
        cell.reset(seed)
        assert cell.way == 0
