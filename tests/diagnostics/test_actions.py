"""Action errors by phase, the controls of a policy, and runs compared on the same moments."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics import evaluation
from tactile_align.diagnostics.actions import (
    LAST,
    LINEAR,
    NEAR_CHANGE,
    POLICY,
    REGION,
    STILL,
    TOUCH,
    ActionMoments,
    action_moments,
    compare_actions,
    contact_phases,
    linear_in_joints,
    other_episodes,
)
from tactile_align.diagnostics.evaluation import compare
from tactile_align.diagnostics.summary import Summary
from tactile_align.errors import InputError
from tactile_align.moments.columns import Columns
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.build import LoadedRun
from tactile_align.training.data import Data, load_data
from tactile_align.training.validation import validate
from tests.training.conftest import small_training


def made(error: np.ndarray, chunk: int = 4) -> ActionMoments:
    """Return errors (R,) of R moments of 10 episodes, the same at all steps; from step 3 on is padding."""
    errors = np.repeat(error[:, None], chunk, axis=1)
    real = np.ones_like(errors, dtype=bool)
    real[:, 3:] = False
    errors[:, 3:] = np.nan
    time = np.arange(len(error))
    phase = np.where(time % 2, "contact", "free")
    return ActionMoments(time // (len(error) // 10), time, phase, real, {POLICY: errors[..., None]}, {POLICY: errors})


def test_the_error_of_a_moment_is_the_mean_over_its_steps_that_are_not_padding() -> None:
    errors = np.array([[1.0, 9, 9], [1, 2, 6]])
    real = np.array([[True, False, False], [True, True, True]])
    columns = np.stack([errors, errors + 1], axis=2)
    moments = ActionMoments(np.arange(2), np.zeros(2), np.full(2, "free"), real, {POLICY: columns}, {POLICY: errors})
    assert moments.of(POLICY).tolist() == [1, 3] and moments.of(POLICY, 2).tolist() == [1, 1.5]
    assert moments.error().per_column == (2, 3) and moments.phases()["all"][POLICY].error == 2


def test_runs_are_compared_on_the_same_moments_by_phase() -> None:
    base = np.random.default_rng(0).lognormal(size=200)
    worse = base + np.where(np.arange(200) % 2, 0.1, 0.0)  # in contact only
    found = compare_actions({"a": made(base), "b": made(worse, chunk=6), "c": made(base)}, 2)
    assert list(found) == ["all", "free", "contact"]
    assert found["all"]["b"].value == pytest.approx(0.05) and found["contact"]["b"].value == pytest.approx(0.1)
    assert found["contact"]["b"].above_zero and not found["free"]["b"].above_zero
    assert (found["contact"]["b"].pairs, found["contact"]["b"].episodes) == (100, 10)
    assert all(found[phase]["c"].value == 0 for phase in found)


def test_a_control_is_compared_with_the_policy_on_the_same_steps() -> None:
    moments = made(np.ones(200))
    errors = moments.errors | {STILL: moments.errors[POLICY] + 0.5}
    table = replace(moments, errors=errors).phases()
    assert table["all"][STILL].minus_policy is not None and table["all"][STILL].minus_policy.value == 0.5
    assert table["all"][POLICY].error == 1.0 and table["all"][POLICY].minus_policy is None


def test_a_transition_is_near_the_begin_or_end_of_a_contact_of_the_same_episode() -> None:
    contact = np.zeros(120, dtype=bool)
    contact[40:80] = True
    contact[100:] = True  # the second episode begins in contact, which is no change
    episode = np.repeat([0, 1], [100, 20])
    moments = SimpleNamespace(touches={"t": SimpleNamespace(contact=contact)}, episode=episode)
    phase = contact_phases(moments)  # type: ignore[arg-type]
    assert set(phase[:30]) == {"free"} and set(phase[50:70]) == {"contact"} and set(phase[100:]) == {"contact"}
    for change in (40, 80):
        assert set(phase[change - NEAR_CHANGE : change + NEAR_CHANGE]) == {"transition"}
    assert set(phase[90:100]) == {"free"}


def test_short_contacts_in_a_row_keep_a_middle_that_is_contact_or_free() -> None:
    contact = np.tile(np.repeat([False, True], 4), 6)
    moments = SimpleNamespace(touches={"t": SimpleNamespace(contact=contact)}, episode=np.zeros(48, dtype=int))
    phase = contact_phases(moments)  # type: ignore[arg-type]
    assert list(phase[4:12]) == [
        "transition",
        "contact",
        "contact",
        "transition",
        "transition",
        "free",
        "free",
        "transition",
    ]
    assert list(phase[:4]) == ["free", "free", "free", "transition"], "an episode begins, which is no change"


def test_actions_that_are_linear_in_the_joints_are_predicted() -> None:
    rng = np.random.default_rng(0)
    rate = rng.normal(size=3)
    episodes = []
    for length in (40, 30):
        joints = rng.normal(size=(1, 3)) + np.arange(length)[:, None] * rate
        episodes.append((joints, joints @ np.array([[1.0, 0], [0, 2], [1, 1]]) + 0.5))
    train = SimpleNamespace(low_dim=lambda: episodes)
    chunk = linear_in_joints(train, episodes[0][0][:20], 3)  # type: ignore[arg-type]
    assert chunk.shape == (20, 3, 2)
    np.testing.assert_allclose(chunk[:, 0], episodes[0][1][:20], atol=0.2 * np.abs(episodes[0][1]).max())


@pytest.fixture(scope="module")
def run(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Data]:
    """An untrained policy and its data, with two held-out episodes."""
    config = small_training(regrasp_folder, tmp_path_factory.mktemp("run") / "run", held_out=2)
    return config, load_data(config, progress=False)


def test_every_control_of_a_policy_is_measured_at_once(run: tuple[TrainConfig, Data]) -> None:
    config, data = run
    loaded = LoadedRun.untrained(config, data.held_out)
    found = action_moments(loaded, data.train)
    assert list(found.errors) == [POLICY, STILL, LAST, LINEAR, TOUCH, REGION]
    policy, touch, region = (found.errors[row] for row in (POLICY, TOUCH, REGION))
    assert (policy != touch).any() and (policy != region).any()
    error = found.error()
    assert np.mean(error.per_column) == pytest.approx(found.phases()["all"][POLICY].error)
    # Standing still, computed from the recording.
    held, errors = data.held_out, []
    for qpos, action in held.low_dim():
        for t in range(len(qpos)):
            errors.append(np.abs(qpos[t] - action[t : t + held.chunk]))
    assert error.standing_still_per_column == pytest.approx(np.concatenate(errors).mean(axis=0), rel=0.05)
    assert error.standing_still_is.startswith("guessed: column 0, column 1") and "absolute" in error.standing_still_is


def test_delta_actions_are_compared_with_no_change_and_the_last_action_not_with_the_state(
    run: tuple[TrainConfig, Data],
) -> None:
    config, data = run
    delta = np.random.default_rng(0).normal(scale=0.01, size=(len(data.held_out), 7))
    changed, start = copy.copy(data.held_out), 0
    changed._facts = []
    for facts in data.held_out._facts:
        changed._facts.append({**facts, "action": delta[start : start + len(facts["qpos"])]})
        start += len(facts["qpos"])
    columns = Columns(
        qpos=tuple("abcdefg"), action=tuple("tuvwxyz"), action_is=("delta",) * 7, state=(None,) * 7, source="stated"
    )
    statistics = Statistics.of(changed.low_dim())
    changed = changed.normalised(statistics.model_copy(update={"columns": columns}))
    error = action_moments(LoadedRun.untrained(config, changed), data.train).error()
    assert error.standing_still_per_column == pytest.approx(np.full(7, 0.008), rel=0.15), "mean |N(0, 0.01)|"
    assert error.last_action_per_column == pytest.approx(np.full(7, 0.0113), rel=0.15), "sqrt(2) times that"
    assert error.columns == tuple("tuvwxyz") and error.standing_still_is == "stated"
    means = validate(LoadedRun.untrained(config, changed).model, changed, config, torch.device("cpu"))
    assert means["standing_still"] == pytest.approx(0.8, rel=0.15), "the standard deviation is 0.01"
    unknown = columns.model_copy(update={"action_is": (), "source": "left out: x"})
    changed = changed.normalised(statistics.model_copy(update={"columns": unknown}))
    found = action_moments(LoadedRun.untrained(config, changed), data.train)
    assert STILL not in found.errors and LAST in found.errors and found.error().standing_still_is == "left out: x"


def test_a_policy_that_ignores_its_touch_does_not_change_when_it_is_shuffled(run: tuple[TrainConfig, Data]) -> None:
    config, data = run
    loaded = LoadedRun.untrained(config, data.held_out)
    assert loaded.model.touch_to_act is not None
    loaded.model.touch_to_act.weight.data.zero_()
    found = action_moments(loaded, data.train)
    np.testing.assert_allclose(found.errors[TOUCH], found.errors[POLICY], atol=1e-6)
    assert np.abs(found.errors[REGION] - found.errors[POLICY]).max() > 1e-6


def test_what_is_shuffled_comes_from_other_episodes() -> None:
    episode = np.repeat([0, 1, 2], [30, 5, 15])
    donors = other_episodes(episode)
    assert donors is not None and (episode[donors] != episode).all() and len(set(donors)) > 20
    assert other_episodes(np.zeros(4)) is None


def test_one_episode_has_no_other_to_shuffle_with(run: tuple[TrainConfig, Data]) -> None:
    config, _ = run
    alone = config.model_copy(update={"held_out": 1})
    one = load_data(alone, progress=False)
    assert list(action_moments(LoadedRun.untrained(alone, one.held_out), one.train).errors) == [
        POLICY,
        STILL,
        LAST,
        LINEAR,
    ]


def test_runs_on_other_episodes_are_refused_and_so_is_a_run_given_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="got a run twice"):
        compare([tmp_path / "a", tmp_path / "." / "a"])
    hashes = {"a": "x", "b": "x", "c": "y"}
    monkeypatch.setattr(evaluation, "_judged_episodes", lambda folder: ("test", (hashes[folder.name],)))

    def judged(*_: object) -> None:
        raise AssertionError("a run was judged before the lists of all runs were compared")

    monkeypatch.setattr(evaluation, "_judge", judged)
    with pytest.raises(InputError, match=r"c is judged on other episodes than .*a"):
        compare([tmp_path / "a", tmp_path / "b", tmp_path / "c"])


def features_of(contacts: np.ndarray, noise: float) -> dict[str, np.ndarray]:
    """Return features of contacts (N, 2), whose retrieval is the worse the larger the noise."""
    exact = np.random.default_rng(contacts[:, 0] * 100 + contacts[:, 1]).normal(size=(len(contacts), 8))
    worse = exact + noise * np.random.default_rng(1).normal(size=exact.shape)
    return {"h_tau": exact, "h_w": worse, "episode": contacts[:, 0], "contact": contacts[:, 1]}


def test_views_are_compared_on_common_contacts_in_one_gallery_and_what_is_not_compared_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contacts = np.stack([np.repeat(np.arange(6), 5), np.tile(np.arange(5), 6)], axis=1)
    features = {
        "a": {"v": features_of(contacts, 0.0), "w": features_of(contacts[:3], 0.0)},
        "b": {"v": features_of(contacts[:20], 2.0), "w": features_of(contacts[3:], 0.0)},
        "c": {"u": features_of(contacts, 0.0)},
        "d": {"v": features_of(contacts, 2.0)},
    }
    actions = {"a": made(np.ones(200)), "b": made(np.ones(200)), "c": None, "d": made(np.ones(200))}
    monkeypatch.setattr(evaluation, "_judged_episodes", lambda _: ("test", ("x",)))

    def judged(folder: Path, *_: object) -> evaluation._Judged:
        name = folder.name
        return evaluation._Judged(Summary(name, "none", "test"), actions[name], features[name])

    monkeypatch.setattr(evaluation, "_judge", judged)
    found = compare([tmp_path / name for name in "abcd"])
    assert list(found.retrieval) == ["v"] and list(found.retrieval["v"]) == list(found.actions["all"]) == ["b", "d"]
    assert found.retrieval["v"]["b"].pairs == 20 and found.retrieval["v"]["b"].value < 0
    assert found.comparisons == 2 * (1 + 3), "two runs, one view and three phases"
    assert found.left_out == {
        "R@1, view w, b": "the runs have fewer than two contacts in common",
        "R@1, view v, c": "c has no view v",
        "R@1, view w, c": "c has no view w",
        "R@1, view u, c": "a has no view u",
        "R@1, view w, d": "d has no view w",
        "action error, c": "c has no policy",
    }
    assert "all 8 intervals over episodes hold together" in found.text()
    assert "  action error, c: not compared: c has no policy" in found.text()
