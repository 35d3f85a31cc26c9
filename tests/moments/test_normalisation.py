"""Statistics and splits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tactile_align.moments.normalisation import Statistics
from tactile_align.moments.sampling import split_episodes

Pair = tuple[np.ndarray, np.ndarray]


def episodes(count: int = 5) -> list[Pair]:
    rng = np.random.default_rng(3)
    lengths = rng.integers(4, 40, count)
    return [(rng.normal(3, 2, (n, 7)), rng.normal(-5, 0.5, (n, 9))) for n in lengths]


def test_statistics_are_those_of_all_rows_together() -> None:
    data = episodes()
    statistics = Statistics.of(data)
    rows = np.concatenate([e[0] for e in data])
    np.testing.assert_allclose(statistics.qpos_mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.qpos_std, rows.std(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.action_std, np.concatenate([e[1] for e in data]).std(0), rtol=1e-12)
    assert statistics.steps == len(rows)
    assert statistics.episodes == 5


def test_a_far_offset_costs_no_precision() -> None:
    data = [(e[0] + 1e9, e[1]) for e in episodes()]
    rows = np.concatenate([e[0] for e in data])
    np.testing.assert_allclose(Statistics.of(data).qpos_std, rows.std(0), rtol=1e-6)


def test_numpy_and_torch_give_the_same_and_come_back() -> None:
    statistics = Statistics.of(episodes())
    raw = np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32)
    normal = statistics.normalise_qpos(raw)
    assert normal.dtype == np.float32
    tensor = torch.tensor(raw, requires_grad=True)
    there = statistics.normalise_qpos(tensor)
    assert there.dtype == torch.float32
    np.testing.assert_allclose(there.detach().numpy(), normal, rtol=1e-6)
    there.sum().backward()
    np.testing.assert_allclose(tensor.grad[0, 0], 1 / np.array(statistics.qpos_std), rtol=1e-5)
    np.testing.assert_allclose(normal * np.array(statistics.qpos_std) + statistics.qpos_mean, raw, atol=1e-5)
    action = np.ones((4, 9))
    np.testing.assert_allclose(statistics.restore_action(statistics.normalise_action(action)), action)


def test_a_joint_that_never_moves_is_divided_by_the_floor() -> None:
    still = [(np.full((5, 2), 1.5), np.zeros((5, 1)))]
    np.testing.assert_allclose(Statistics.of(still).normalise_qpos(np.array([1.51, 1.5])), [1.0, 0.0])
    with pytest.raises(ValueError, match="std_floor must be positive"):
        Statistics.of(still, std_floor=0)


def test_a_file_gives_back_the_same_numbers(tmp_path: Path) -> None:
    statistics = Statistics.of(episodes())
    statistics.save(tmp_path / "run" / "statistics.json")
    assert Statistics.load(tmp_path / "run" / "statistics.json") == statistics
    (tmp_path / "odd.json").write_text(statistics.model_dump_json().replace('"steps"', '"stepz"'))
    with pytest.raises(ValueError, match=r"odd\.json: stepz: unknown key"):
        Statistics.load(tmp_path / "odd.json")
    with pytest.raises(FileNotFoundError, match="no such file"):
        Statistics.load(tmp_path / "none.json")


def test_a_row_of_another_robot_is_refused() -> None:
    with pytest.raises(ValueError, match=r"qpos must have shape \(\.\.\., 7\).*7 columns; got \(14,\)"):
        Statistics.of(episodes()).normalise_qpos(np.zeros(14))
    with pytest.raises(ValueError, match="episodes of one robot"):
        Statistics.of([*episodes(2), (np.zeros((3, 8)), np.zeros((3, 9)))])
    with pytest.raises(ValueError, match="no training episodes"):
        Statistics.of([])


def test_a_split_keeps_every_episode_once_and_does_not_depend_on_the_order_of_listing() -> None:
    names = [f"episode_{i}" for i in range(20)]
    train, held_out, test = split_episodes(names, seed=4, held_out=0.2, test=5)
    assert (len(held_out), len(test)) == (4, 5)
    assert sorted((*train, *held_out, *test)) == sorted(names)
    assert split_episodes(names[::-1], seed=4, held_out=4, test=0.25) == (train, held_out, test)
    assert split_episodes(names, seed=5, held_out=4, test=5) != (train, held_out, test)
    assert split_episodes(names, seed=4, held_out=4)[1:] == (held_out, ())


@pytest.mark.parametrize(("episodes", "test", "expected"), [(19, 0.1, 0), (20, 0.1, 4), (60, 0.1, 6), (40, 0, 0)])
def test_a_tenth_but_at_least_four_of_twenty_or_more_episodes_are_kept_for_the_test(
    episodes: int, test: float, expected: int
) -> None:
    assert len(split_episodes(range(episodes), seed=0, held_out=0.1, test=test)[2]) == expected


@pytest.mark.parametrize(("episodes", "test", "came"), [(19, 4, "4 of 19"), (30, 3, "3 of 30"), (30, 4.5, "got 4.5")])
def test_a_stated_number_of_test_episodes_that_cannot_be_kept_is_refused(episodes: int, test: float, came: str) -> None:
    with pytest.raises(ValueError, match=rf"test.*{came}.*(Raise test or record more|Use 4)"):
        split_episodes(range(episodes), seed=0, held_out=1, test=test)


@pytest.mark.parametrize("held_out", [0, 3, 5])
def test_a_split_needs_both_sides(held_out: int) -> None:
    with pytest.raises(ValueError, match="both need at least one"):
        split_episodes(["a", "b", "c"], seed=0, held_out=held_out)


def test_an_episode_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="listed more than once"):
        split_episodes(["a", "b", "a"], seed=0)
