"""Roll-outs in the simulated cell: outcomes, donors, what they leave unchanged, and which runs are refused."""

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.cli import run as run_verb
from tactile_align.config.cell import CellOptions
from tactile_align.diagnostics.outcomes import compare_played, success
from tactile_align.diagnostics.rollout import Filmed, Rollouts, play, policy_of, recorded_cell, rollout
from tactile_align.diagnostics.summary import json_of, result_of
from tactile_align.policies.observation import Needs
from tactile_align.simulation.cell import Cell
from tactile_align.simulation.record import simulate
from tactile_align.training.data import EpisodeEntry, EpisodeLists
from tactile_align.training.loop import train
from tests.conftest import shared_folder
from tests.training.conftest import small_training

SEEDS = range(4)


@cache
def demonstration(seed: int | tuple[int, int], cls: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the expert's actions (T, 7) and the touches of an episode of `feel`."""
    cell = Cell("feel", cameras=())
    cell.reset(seed, cls)
    steps = list(cell.demonstrate(noise=0.0))
    actions = [np.append(s.action[:-1], cell.share(s.action[-1])) for s in steps if s.action is not None]
    return np.array(actions), [step.moment.touch for step in steps]


class Scripted:
    """Policy that plays expert actions; `choose` selects the class from (true class, last observation)."""

    def __init__(self, choose: Callable[[int, Mapping[str, Any]], int], cameras: tuple[str, ...] = ()) -> None:
        self.needs = Needs(7, dict.fromkeys(cameras), {"tactile1": None}, (), {}, ())
        self.choose, self.episode, self.asked = choose, -1, list[int]()

    def reset(self) -> None:
        self.episode += 1
        self.asked.append(0)

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        seed, true = divmod(self.episode, 2)
        t, self.asked[-1] = 3 * self.asked[-1], self.asked[-1] + 1
        assert torch.get_num_threads() == 1 and set(observation["images"]) == set(self.needs.cameras)
        return demonstration(seed, self.choose(true, observation))[0][t : t + 5]


def slant(touch: np.ndarray) -> float:
    """Return the structure tensor's off-diagonal entry: its sign is the direction of slanted lines."""
    grey = touch.astype(float).sum(axis=2)
    down, right = np.gradient(grey - np.median(grey))
    return float((down * right).sum())


def read(true: int, observation: Mapping[str, Any]) -> int:
    """Return the class that the touch shows."""
    first = slant(demonstration(0, 0)[1][28])
    return int(np.sign(slant(observation["touches"]["tactile1"])) != np.sign(first))


def test_the_experts_actions_succeed_and_a_blind_choice_is_right_with_one_class_of_each_seed() -> None:
    knows, blind = Scripted(lambda true, _: true), Scripted(lambda true, _: 0)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    known, guessed = play(knows, "feel", SEEDS), play(blind, "feel", SEEDS)
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before + 1, "play uses one thread, and restores their number"
    rates = success(known)
    assert (rates.correct.hits, rates.correct.of, rates.both_right.hits, rates.pairs_that_differ) == (8, 8, 4, 4)
    assert rates.lifted.hits == rates.decided.hits == 8 and rates.follows_donor is None
    assert rates.correct.interval is not None and rates.correct.interval[1] > 0.99 > rates.correct.interval[0]
    rates = success(guessed)
    assert (rates.decided.hits, rates.correct.hits, rates.both_right.hits, rates.pairs_that_differ) == (8, 4, 0, 0)
    assert [p.correct for p in guessed] == 4 * [True, False] and {p.side for p in guessed} == {1}
    assert knows.asked == [-(-p.steps // 3) for p in known] and all(p.steps < 44 for p in known)
    compared = compare_played(known, guessed)
    assert (compared.more, compared.fewer, compared.equal) == (4, 0, 0) and compared.p == 2 / 2**4
    assert compared.difference.value == 0.5


def test_a_policy_that_reads_the_touch_is_right_and_follows_the_donor_of_a_shuffled_touch() -> None:
    assert success(play(Scripted(read), "feel", SEEDS)).correct.hits == 8
    film: list[Filmed] = []
    shuffled = play(Scripted(read), "feel", SEEDS, touch="shuffle", film=film)
    rates = success(shuffled)
    assert rates.follows_donor is not None and (rates.follows_donor.hits, rates.follows_donor.of) == (8, 8)
    assert rates.correct.hits == 4 and rates.pairs_that_differ == 0
    assert {p.donor_side for p in shuffled} == {-1, 1}, "choose other seeds, whose donors have both classes"
    one, two = (episode.moments for episode in film)
    for a, b in zip(one, two, strict=True):
        assert a["tactile1"].tobytes() == b["tactile1"].tobytes()
    true = demonstration(0, 0)[1][24], demonstration(0, 1)[1][24]
    assert all(one[8]["tactile1"].tobytes() != touch.tobytes() for touch in true)


def test_a_touch_that_is_always_zero_shows_no_contact() -> None:
    film: list[Filmed] = []
    play(Scripted(lambda true, _: true), "feel", [0], touch="zero", film=film)
    touches = np.array([moment["tactile1"] for moment in film[0].moments])
    assert (touches == touches[0]).all() and len(touches) > 10
    assert np.abs(touches[0] - demonstration(0, 0)[1][0].astype(float)).mean() < 2


def test_a_policy_that_depends_on_every_bit_but_the_touch_does_the_same_with_both_classes() -> None:
    """The audit of leaks: a bit of a camera or of qpos that tells the classes apart would move the arm."""

    class Sensitive(Scripted):
        def act(self, observation: Mapping[str, Any]) -> np.ndarray:
            bits = b"".join(image.tobytes() for image in observation["images"].values())
            jitter = np.random.default_rng(zlib.crc32(bits + observation["qpos"].tobytes())).normal(0, 2e-3, (5, 7))
            seen.append(observation["qpos"])
            return super().act(observation) + jitter

    seen: list[np.ndarray] = []
    played = play(Sensitive(lambda true, _: 0, ("left_wrist", "top")), "feel", [0, 1])
    assert success(played).pairs_that_differ == 0 and [p.decided for p in played] == 4 * [True]
    n = len(seen) // 2
    first, second = np.split(np.array(seen[: -(-played[0].steps // 3) * 2]), 2)
    assert first.tobytes() == second.tobytes() and n > 20
    assert np.ptp(np.array(seen)[:, :6], axis=0).min() > 1e-3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on demonstrations of `feel`; read only."""

    def made(folder: Path) -> None:
        recording = folder / "data"
        simulate(recording, episodes=4, seed=3, task="feel", gripper="measured", processes=1, progress=False)
        train(small_training(recording, folder / "run", steps=3, optimiser={"ema": 0.5}), progress=False)

    return shared_folder(tmp_path_factory, "rollout", made) / "run"


def test_a_run_played_twice_gives_the_same_outcomes_bit_for_bit(tiny: Path) -> None:
    films: list[dict[str, list[Filmed]]] = [{}, {}]
    one, two = (rollout([tiny], "feel", [0], film=film, progress=False) for film in films)
    assert one == two and one.runs[0].weights == "last, step 3, running mean"
    for a, b in zip(*(film["run"] for film in films), strict=True):
        assert len(a.moments) == -(-a.played.steps // 3) + 1
        for first, second in zip(a.moments, b.moments, strict=True):
            assert {name: image.tobytes() for name, image in first.items()} == {
                name: image.tobytes() for name, image in second.items()
            }
    again = result_of(Rollouts, json.loads(json_of(one)), "x")
    assert again == one
    text = one.text()
    assert "simulated cell" in text and "ghost" in text and "SCRATCH" in text and "too few" in text


def test_the_last_weights_are_played_unless_the_best_are_asked_for(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    path = copy / "checkpoints" / "step_00000003.pt"
    state = torch.load(path, weights_only=True)
    name = next(name for name, value in state["mean"]["tensors"].items() if value.ndim == 2)
    state["mean"]["tensors"][name].fill_(0.25)
    torch.save(state, path)
    last, best = (policy_of(copy, "feel", weights=weights)[0] for weights in ("last", "best"))
    assert (last.model.state_dict()[name] == 0.25).all() and (best.model.state_dict()[name] != 0.25).any()
    assert policy_of(copy, "feel", weights="best")[1].startswith("best, step ")
    (copy / "checkpoints" / "best_action.safetensors").unlink()
    with pytest.raises(ValueError, match=r"best_action.*weights last"):
        policy_of(copy, "feel", weights="best")


def test_the_policy_gets_the_rig_with_the_errors_that_the_options_state(tiny: Path) -> None:
    options = CellOptions(box_offset_px=10)
    shifted, _ = policy_of(tiny, "feel", options)
    right, _ = policy_of(tiny, "feel")
    K, L = (policy.rig.cameras["left_wrist"].raw.K for policy in (shifted, right))
    np.testing.assert_allclose(np.asarray(K) - L, [[0, 0, 10], [0, 0, 0], [0, 0, 0]], atol=1e-9)
    with pytest.raises(ValueError, match=r"box_offset_px = 10 needs .*policy_of"):
        play(right, "feel", [0], options=options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_map": ()}, r"needs camera 'left_wrist' 640x480.*'left_wrist' 320x240.*--task feel"),
        ({"image_map": (("resize", 96, 72),)}, r"needs camera 'left_wrist' 96x72"),
    ],
)
def test_a_run_with_another_rig_is_refused_by_name(
    tiny: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    load_rig(other / "rig.toml").with_camera("left_wrist", **change).save(other / "rig.toml")
    with pytest.raises(ValueError, match=f"other: the policy {message}"):
        rollout([tiny, other], "feel", [0], progress=False)


def test_a_policy_that_needs_what_the_cell_lacks_is_refused() -> None:
    policy = Scripted(lambda true, _: true, ("head",))
    policy.needs = Needs(14, {"head": (64, 48)}, {"tactile2": None}, (), {}, ())
    with pytest.raises(ValueError, match=r"needs qpos of 14 columns, camera 'head' 64x48, touch 'tactile2'; the"):
        play(policy, "feel", [0])
    short = Scripted(lambda true, _: true)
    short.act = lambda observation: np.zeros((2, 7))  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"executes 3 actions.*shape \(2, 7\).*chunk_size"):
        play(short, "feel", [0])
    with pytest.raises(ValueError, match=r"each once; got \[1, 1\]"):
        rollout(["a"], "feel", [1, 1])


def test_the_reading_of_the_gripper_is_that_of_the_runs_rig(tiny: Path, tmp_path: Path) -> None:
    commanded = tmp_path / "commanded"
    shutil.copytree(tiny, commanded)
    load_rig(commanded / "rig.toml").with_gripper("left", reading="commanded").save(commanded / "rig.toml")
    policy, _ = policy_of(commanded, "feel")
    assert policy.rig.gripper("left").reading == "commanded"
    readings = []
    plain = policy.act

    def act(observation: Mapping[str, Any]) -> np.ndarray:
        readings.append(observation["qpos"][6])
        return plain(observation)

    policy.act = act  # type: ignore[assignment, method-assign]
    policy.execute = 5
    played = play(policy, "feel", [0])
    assert len(readings) == sum(-(-one.steps // 5) for one in played), "as many actions of a chunk as the policy states"
    assert readings[0] == Cell("feel").share(0.030), "the command itself, not where the fingers are"


def test_the_verb_prints_the_table_and_writes_the_film(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, copy = tmp_path / "film.png", tmp_path / "copy"
    shutil.copytree(tiny, copy)
    words = [
        "rollout",
        str(tiny),
        str(copy),
        "--task",
        "feel",
        "--seeds",
        "1",
        "--touch",
        "shuffle",
        "--film",
        str(film),
    ]
    assert run_verb(words) == 0
    table = capsys.readouterr().out
    assert "touch shuffle" in table and "follows the donor" in table and "seeds that differ" in table
    assert "1 seeds from 5000" in table and "default options of the cell" in table
    assert "compared with run seed by seed" in table and "copy: correct +0.00 (too few" in table
    assert "equal in 1; exact sign test p = 1" in table
    assert "last, step 3" in table and film.stat().st_size > 10000
    assert run_verb(words) == 2
    assert "film.png already exists" in capsys.readouterr().err


def run_on(folder: Path, *episodes: Path) -> Path:
    """Write the episode lists of a run that was trained on these episodes, and return its folder."""
    folder.mkdir()
    rows = tuple(EpisodeEntry(path=str(p), group="", data=i, hash=str(i)) for i, p in enumerate(episodes))
    EpisodeLists(train=rows, held_out=rows).save(folder)
    return folder


def episode_with(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        if options:
            file.attrs["simulated_options"] = json.dumps(options)
    return path


def test_the_cell_is_that_of_the_training_episodes_without_errors_of_the_rig(tmp_path: Path) -> None:
    path = episode_with(tmp_path / "a.hdf5", stripe_mm=1.2, camera_noise=3.0, occlude=True, box_offset_px=4)
    run = run_on(tmp_path / "run", path)
    assert recorded_cell([run]) == (CellOptions(stripe_mm=1.2, camera_noise=3.0), "cell as in the training episodes")
    plain = run_on(tmp_path / "plain", episode_with(tmp_path / "b.hdf5"))
    assert recorded_cell([plain]) == (
        CellOptions(),
        "training episodes that state no cell: default options of the cell",
    )
    with pytest.raises(
        ValueError, match=r"these differ: .*run .*'stripe_mm': 1\.2.*plain .*the defaults.*on their own"
    ):
        recorded_cell([run, plain])


def test_training_episodes_that_moved_are_named(tmp_path: Path) -> None:
    options, text = recorded_cell([run_on(tmp_path / "run", tmp_path / "gone.hdf5")])
    assert options == CellOptions() and "gone.hdf5, an episode that" in text and "default options" in text
