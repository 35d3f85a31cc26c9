"""Columns of qpos and action: what a layout states, and what episodes show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tactile_align.datasets.layout import Layout, load_layout
from tactile_align.errors import InputError
from tactile_align.moments.columns import Columns
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.observation import Needs


def layout(**state: Any) -> Layout:
    base = load_layout("xtrainer")
    return Layout.model_validate(base.model_dump() | {"state": base.state.model_dump() | state})


def walk(seed: int, dim: int = 7, rows: int = 120) -> np.ndarray:
    rate = np.random.default_rng(seed).normal(scale=0.02, size=(rows, dim))
    return np.cumsum(0.7 * rate + 0.3 * np.roll(rate, 1, axis=0), axis=0) + np.linspace(-1, 1, dim)


def following(qpos: np.ndarray) -> np.ndarray:
    return np.vstack([qpos[1:], qpos[-1:]])


def test_targets_changes_and_commands_that_hold_are_told_apart_from_the_episodes() -> None:
    episodes = []
    for seed in range(3):
        qpos = walk(seed)
        noise = np.random.default_rng(9 + seed).normal(scale=1e-3, size=qpos.shape)
        action = following(qpos) - qpos + noise  # three changes, in metres
        action[:, 3:6] = (following(qpos) + noise)[:, 3:6]  # three targets
        action[:, 6] = np.where(np.arange(120) < 60, -1.0, 1.0)  # a gripper's command
        episodes.append((qpos, action))
    columns = Columns.of([layout()], episodes)
    assert columns.action_is == ("delta",) * 3 + ("absolute",) * 4
    assert columns.state == (None, None, None, 3, 4, 5, None)
    assert (
        columns.source == "guessed: column 0, column 1, column 2 delta; column 3, column 4, column 5, column 6 absolute"
    )
    qpos, last = np.arange(7.0)[None], np.full((1, 7), 9.0)
    assert columns.still(qpos, last) == pytest.approx(np.array([[0, 0, 0, 3, 4, 5, 9.0]]))


def test_equal_column_counts_alone_do_not_make_an_action_a_target() -> None:
    rng = np.random.default_rng(0)
    qpos = walk(0)
    for action in (rng.normal(scale=0.01, size=(120, 7)), rng.normal(size=(120, 6))):
        columns = Columns.of([layout()], [(qpos, action)])
        assert columns.action_is == () and columns.still(qpos, qpos) is None
        assert columns.source.startswith("left out: column 0") and "action_is" in columns.source


def test_small_changes_beside_a_large_command_are_not_taken_for_columns_that_hardly_move() -> None:
    change = np.random.default_rng(0).normal(scale=0.004, size=(120, 6))  # metres and radians a step
    action = np.hstack([change, np.where(np.arange(120) < 60, 0.0, 1.0)[:, None]])
    columns = Columns.of([layout()], [(walk(0, dim=8), action)])
    assert columns.action_is == () and columns.source.startswith("left out: column 0, column 1")


def test_what_the_layout_states_wins_over_a_guess_and_names_match_columns() -> None:
    qpos = walk(0, dim=4)
    names = {"qpos_names": ("a", "b", "c", "width"), "action_names": ("width", "b"), "action_units": ("m", "rad")}
    columns = Columns.of([layout(action_is="absolute", **names)], [(qpos, following(qpos)[:, [3, 1]])])
    assert columns.source == "stated" and columns.state == (3, 1) and columns.action == ("width [m]", "b [rad]")
    assert columns.still(qpos, qpos[:, :2]) == pytest.approx(qpos[:, [3, 1]])
    changes = Columns.of([layout(action_is=("delta", "absolute"), qpos_units="rad")], [(qpos, qpos[:, :2])])
    assert changes.action_is == ("delta", "absolute") and changes.qpos[2] == "column 2 [rad]"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"action_names": ("x", "y")}, r"action_names has 2 entries, but action has 7 columns"),
        ({"action_is": ("delta",) * 6}, r"action_is has 6 entries, but action has 7 columns"),
        ({"qpos_units": ("rad",) * 3}, r"qpos_units has 3 entries, but qpos has 7 columns"),
    ],
)
def test_a_layout_that_states_another_number_of_columns_is_refused(state: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Columns.of([layout(**state)], [(walk(0), walk(1))])


def test_equal_names_and_layouts_of_different_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="action_names contains x twice"):
        layout(action_names=("x", "x"))
    with pytest.raises(InputError, match="differ in action_is"):
        Columns.of([layout(action_is="delta"), layout(action_is="absolute")], [(walk(0), walk(1))])


def test_the_meaning_of_the_columns_travels_with_the_statistics_to_the_needs_of_a_policy(tmp_path: Path) -> None:
    qpos = walk(0, dim=2)
    stated = layout(
        qpos_names=("joint", "width"), qpos_units=("rad", "m"), action_names=("dx", "grip"), action_is="delta"
    )
    columns = Columns.of([stated], [(qpos, qpos)])
    Statistics.of([(qpos, qpos)]).model_copy(update={"columns": columns}).save(tmp_path / "statistics.json")
    kept = Statistics.load(tmp_path / "statistics.json").columns
    assert kept == columns
    text = Needs(2, {}, {}, (), {}, (), kept).text()
    assert text == "qpos (2,) float: joint [rad], width [m]; returns actions: dx delta, grip delta"
    assert Needs(2, {}, {}, (), {}, (), Columns.of([layout()], [(qpos, following(qpos))])).text() == "qpos (2,) float"
