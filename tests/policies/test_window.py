"""A window of touches: the same rows, pixels and features in training and when acting."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tactile_align.calibration.rig import load_rig
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.diagnostics import rollout
from tactile_align.errors import InputError
from tactile_align.moments.augment import augment
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.build import inputs_of, make_model
from tactile_align.policies.observation import checked
from tactile_align.policies.runtime import Policy
from tests.policies.conftest import observation
from tests.training.conftest import TOWER, small_training

STRIDE, ROWS = 2, list(range(9))
TOUCH = {**TOWER, "image_size": [160, 120]}  # large enough that frames are decoded at their full size
OFF = {"frames": 1, "stride": 1, "time": "channels"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the cache that all windows share."""
    return tmp_path_factory.mktemp("window")


def cell(folder: Path, out: Path, frames: int, stride: int, time: str) -> tuple[TrainConfig, Moments, Policy]:
    """Return config, moments and policy of one episode, with random weights."""
    window = {"touch_frames": frames, "touch_stride": stride, "touch_time": time}
    config = small_training(folder, out / "run", features={"touch": TOUCH, **window}, policy={"execute": 3})
    rig = load_rig(folder / "rig.toml")
    job = Job(EpisodeRef(folder / "episode_init_0.hdf5"), rig, inputs_of(config, rig), packed=True)
    moments = Moments([job], chunk=6, cache=out / "cache", progress=False)
    statistics = Statistics.of(moments.low_dim())
    policy = Policy(make_model(config, *moments.state_width).eval(), config, rig, statistics, {})
    return config, moments.normalised(statistics), policy


@pytest.mark.parametrize("time", ["channels", "last", "attention"])
def test_an_episode_gives_the_same_features_in_training_and_when_acting(
    regrasp_folder: Path, out: Path, time: str
) -> None:
    config, moments, policy = cell(regrasp_folder, out, 3, STRIDE, time)
    trained = augment(moments.batch(ROWS), config.augment)
    with open_episode(moments.jobs[0].ref) as episode:
        policy.reset()
        acted = [policy.batch(checked(observation(episode, t), policy.needs)) for t in ROWS]
    with torch.no_grad():
        wanted = policy.model.see(trained).touches["tactile1"]
        found = [policy.model.see(batch, alignment=False).touches["tactile1"] for batch in acted]
    assert wanted.tokens.shape[1] == 16
    for part in ("vector", "tokens"):
        together = torch.cat([getattr(features, part) for features in found])
        torch.testing.assert_close(together, getattr(wanted, part), atol=1e-5, rtol=1e-5)
    apart = (wanted.vector[1:] - wanted.vector[:-1]).norm(dim=1)
    assert apart.min() > 1e-4, "touches of consecutive rows differ, so a shifted window would be seen"


def test_a_window_holds_the_rows_it_states_and_the_first_row_before_the_start(regrasp_folder: Path, out: Path) -> None:
    _, plain, policy = cell(regrasp_folder, out, **OFF)  # type: ignore[arg-type]
    _, windowed, _ = cell(regrasp_folder, out, 3, STRIDE, "channels")
    assert plain.folders == windowed.folders, "a window needs no other cache"
    assert policy.needs.steps == 1
    rows = [0, 1, 3, 4, 50]
    found = windowed.batch(rows).touches["tactile1"]
    wanted = [[0, 0, 0], [1, 0, 0], [3, 1, 0], [4, 2, 0], [50, 48, 46]]  # newest first
    for image, window in zip(found.image, wanted, strict=True):
        alone = plain.batch(window).touches["tactile1"].image
        assert torch.equal(image, torch.cat(list(alone), dim=2))
    assert torch.equal(found.present, plain.batch(rows).touches["tactile1"].image)


def test_a_policy_keeps_the_touches_of_steps_at_which_it_predicts_nothing(regrasp_folder: Path, out: Path) -> None:
    _, moments, policy = cell(regrasp_folder, out, 3, STRIDE, "last")
    assert policy.needs.steps == 5 and "window of 5" in policy.needs.text()
    with open_episode(moments.jobs[0].ref) as episode:
        seen = [observation(episode, t) for t in range(7)]
    every = [policy.act(one)[0] for one in seen]
    policy.reset()
    queued = [policy.next_action(one) for one in seen]  # predicts at rows 0, 3 and 6
    assert np.array_equal(queued[6], every[6]) and np.array_equal(queued[3], every[3])
    policy.reset()
    for one in seen[:6]:
        policy.observe(one["touches"])
    assert np.array_equal(policy.act(seen[6])[0], every[6])
    policy.reset()
    assert not np.array_equal(policy.act(seen[6])[0], every[6]), "reset clears the window"
    policy.reset()
    policy.act(seen[0])
    for wrong, message in (({}, "must contain 'tactile1'"), ({"tactile1": np.zeros((2, 2))}, "must be a uint8 RGB")):
        with pytest.raises(InputError, match=message):
            policy.observe(wrong)
    with pytest.raises(InputError, match="must be finite"):
        policy.act({**seen[1], "qpos": np.full(7, np.nan)})
    again = [policy.act(one)[0] for one in seen[1:]]
    assert np.array_equal(again[-1], every[6]), "what was refused is not kept"


def test_a_window_needs_its_options_and_a_touch_encoder(tmp_path: Path) -> None:
    for features, message in (
        ({"touch_stride": 2}, r"touch_stride = 2 .* need a window"),
        ({"touch_time": "last"}, r"touch_time = 'last' need a window"),
        ({"touch_frames": 2}, r"needs a touch encoder of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            small_training(tmp_path, tmp_path / "run", features=features)
    config = small_training(tmp_path, tmp_path / "run", features={"touch_frames": 3, "touch_time": "attention"})
    assert config.features.touch_earlier == (1, 2)
    model = make_model(config, 7, 7)
    image = torch.zeros(2, 32, 48, 6, dtype=torch.uint8)
    assert model.alignment is not None
    with pytest.raises(ValueError, match=r"3 touch images .* \(2, 32, 48, 9\); got \(2, 32, 48, 6\)"):
        model.alignment.towers.of_touch(image)


def test_a_roll_out_gives_the_policy_the_touches_between_its_chunks(regrasp_folder: Path, out: Path) -> None:
    _, moments, policy = cell(regrasp_folder, out, 3, STRIDE, "last")
    with open_episode(moments.jobs[0].ref) as episode:
        seen = [observation(episode, t) for t in range(7)]

    class Replay:
        """A cell that shows a recording, whatever is done in it."""

        def __init__(self) -> None:
            self.count, self.task, self.done = 0, SimpleNamespace(horizon=7), list[np.ndarray]()

        def over(self) -> bool:
            return False

        def moment(self) -> int:
            return self.count

        def observation(self, moment: int) -> dict[str, object]:
            return seen[moment]

        def step(self, action: np.ndarray) -> None:
            self.done.append(action)
            self.count += 1

    replay = Replay()
    rollout._act(policy, replay, None, None, seed=0)  # type: ignore[arg-type]  # asked at rows 0, 3 and 6
    policy.reset()
    assert np.array_equal(replay.done[6], [policy.act(one)[0] for one in seen][6])


def test_the_pooling_over_time_learns_only_where_something_reads_it(tmp_path: Path) -> None:
    window = {"touch_frames": 2, "touch_time": "last"}
    for hsa, tokens, learns in (({"weight": 0.0}, False, False), ({"weight": 0.0}, True, True), ({}, False, True)):
        config = small_training(
            tmp_path, tmp_path / "run", features=window, hsa=hsa, policy={"touch_tokens": tokens, "region_tokens": True}
        )
        alignment = make_model(config, 7, 7).alignment
        assert alignment is not None and alignment.towers.touch_over_time is not None
        assert {p.requires_grad for p in alignment.towers.touch_over_time.parameters()} == {learns}
