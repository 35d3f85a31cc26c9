"""Training with each action head: exact resume, equal random numbers on all processes, logs, and acting."""

import shutil
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tactile_align.cli import run
from tactile_align.config.presets import with_preset
from tactile_align.config.study import merged
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.act import ACTConfig
from tactile_align.policies.aligned import act_config
from tactile_align.policies.build import make_model
from tactile_align.policies.checkpoint import latest_checkpoint, load_checkpoint
from tactile_align.policies.export import export_policy
from tactile_align.policies.heads.build import make_head
from tactile_align.policies.heads.denoising import Denoising
from tactile_align.policies.heads.head import Observed
from tactile_align.policies.observation import checked
from tactile_align.policies.runtime import Policy
from tactile_align.training.data import load_data
from tactile_align.training.distributed import Group
from tactile_align.training.logs import read_metrics
from tactile_align.training.loop import make_trainer, train
from tests.policies.heads.test_heads import batch_of
from tests.training.heads import on_joints

HEADS, DENOISERS = ("act", "flow", "diffusion"), ("flow", "diffusion")


@pytest.mark.parametrize("head", DENOISERS)
def test_a_resumed_run_equals_one_that_never_stopped_and_logs_its_chance_level(
    regrasp_folder: Path, tmp_path: Path, head: str
) -> None:
    whole = train(on_joints(regrasp_folder, tmp_path / "whole", head), progress=False)
    shutil.copytree(whole, tmp_path / "resumed")
    for late in ("step_00000004.pt", "best_action.safetensors"):
        (tmp_path / "resumed" / "checkpoints" / late).unlink()
    resumed = train(on_joints(regrasp_folder, tmp_path / "resumed", head), resume=True, progress=False)
    a, b = (load_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (whole, resumed))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert all(torch.equal(a["mean"]["tensors"][name], b["mean"]["tensors"][name]) for name in a["mean"]["tensors"])
    records = read_metrics(whole / "metrics.jsonl")
    assert {r["kind"] for r in records} == {"train", "validation"}, "no finding, not even of the first gradient"
    for record in records:
        assert record["loss"] == record["denoise"] and {"denoise/q4", "denoise_chance"} <= set(record)
    assert records[0]["denoise"] == pytest.approx(records[0]["denoise_chance"], rel=0.1)


def test_each_process_gets_its_rows_of_the_noise_of_the_batch(regrasp_folder: Path, tmp_path: Path) -> None:
    config = on_joints(regrasp_folder, tmp_path / "run", "flow")
    data = load_data(config, progress=False)
    trainer = make_trainer(config, data)
    rows = list(range(0, 48, 3))
    whole = trainer.prepared(data.train.batch(rows), 3)
    for rank in (0, 1):
        trainer.group = Group(rank, 2, torch.device("cpu"))
        part = trainer.prepared(data.train.batch(rows[rank::2]), 3)
        assert part.noise is not None and part.level is not None and whole.noise is not None and whole.level is not None
        assert torch.equal(part.noise, whole.noise[rank::2]) and torch.equal(part.level, whole.level[rank::2])


@pytest.mark.parametrize("preset", ["balanced", "tiny"])
@pytest.mark.parametrize("head", DENOISERS)
def test_on_a_preset_the_loss_starts_at_chance_and_the_options_of_act_are_left_out(preset: str, head: str) -> None:
    entries = {"preset": preset, "data": [{"path": "a", "rig": "b"}], "hsa": {"weight": 0.0}}
    policy = {"head": head, "vision": "none", "region_tokens": False, "touch_tokens": False}
    config = TrainConfig.model_validate(with_preset({**entries, "policy": policy}, "test"))
    assert (config.optimiser.clip_norm, config.optimiser.ema, config.optimiser.betas) == (1.0, 0.999, (0.95, 0.999))
    shape = act_config(config.policy, 2, 3, 0).model_dump() | {"chunk_size": 6, "encoder_layers": 1}
    network = make_head(ACTConfig.model_validate(shape)).eval()
    assert isinstance(network, Denoising)
    batch = batch_of(network, rows=200)
    with torch.no_grad():
        log = network.losses(Observed(batch.qpos), batch)
    assert 0.95 < float(log["denoise"] / log["denoise_chance"]) < 1.10


def test_a_flag_does_not_change_the_head_of_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        'preset = "balanced"\npolicy = { vision = "none" }\nhsa = { weight = 0.0 }\ndata = [{ path = "a" }]\n'
    )
    for flag in (["--policy.head", "flow"], ["--policy.head=flow"]):
        assert run(["train", str(file), *flag]) == 2
        assert "State policy.head in the file, whose preset depends on it" in capsys.readouterr().err.replace("\n", " ")


def test_a_denoiser_without_a_running_mean_of_the_weights_is_refused(regrasp_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"policy\.head = 'flow' needs a running mean.*optimiser\.ema = 0\.999"):
        on_joints(regrasp_folder, tmp_path, "flow", optimiser={"lr": 1e-3})


@pytest.fixture(scope="module")
def policies(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    """Untrained policies whose denoisers have a random output layer, in place of zeros."""
    made = {}
    for head in HEADS:
        config = on_joints(regrasp_folder, tmp_path_factory.mktemp("acting"), head)
        config = TrainConfig.model_validate(merged(config.model_dump(), {"policy": {"execute": 4}}))
        data = load_data(config, progress=False)
        model = make_model(config, *data.train.state_width)
        if isinstance(model.act, Denoising):
            torch.nn.init.normal_(model.act.denoiser.output.weight)
        made[head] = Policy(model, config, data.rigs[0], data.statistics, {})
    return made


def seen(folder: Path, t: int) -> dict[str, object]:
    with open_episode(list_episodes(folder)[0]) as episode:
        return {"qpos": episode.qpos[t], "images": {}, "touches": {}}


@pytest.mark.parametrize("head", HEADS)
def test_a_call_repeats_after_a_reset_with_its_seed_and_the_queue_holds_the_executed_actions(
    regrasp_folder: Path, policies: dict[str, Policy], head: str
) -> None:
    policy, observations = policies[head], [seen(regrasp_folder, t) for t in range(8)]
    policy.reset(seed=3)
    first, second = policy.act(observations[0]), policy.act(observations[4])
    policy.reset(seed=3)
    queued = np.stack([policy.next_action(observation) for observation in observations])
    assert np.array_equal(queued, np.concatenate([first[:4], second[:4]]))
    policy.reset(seed=4)
    assert np.array_equal(policy.act(observations[0]), first) is (head == "act")
    policy.next_action(observations[0])
    with pytest.raises(ValueError, match="qpos"):
        policy.act({**observations[0], "qpos": observations[0]["qpos"][:3]})  # type: ignore[index]


def test_the_number_of_executed_actions_lies_within_a_chunk_and_act_forgets_the_queue(
    regrasp_folder: Path, policies: dict[str, Policy]
) -> None:
    policy, observations = copy(policies["act"]), [seen(regrasp_folder, t) for t in range(3)]
    for wrong in (0, -1, 7):
        with pytest.raises(ValueError, match=rf"execute must be at least 1 and at most chunk_size = 6; got {wrong}"):
            policy.execute = wrong
    policy.execute = 6
    policy.reset()
    policy.next_action(observations[0])
    chunk = policy.act(observations[2])
    assert np.array_equal(policy.next_action(observations[2]), chunk[0])


@pytest.mark.parametrize("head", DENOISERS)
def test_ensembling_of_chunks_of_different_ways_is_refused_with_the_reason(
    policies: dict[str, Policy], head: str
) -> None:
    p = policies[head]
    with pytest.raises(ValueError, match=rf"ensemble = 0\.01 averages over chunks.*'{head}'.*policy\.execute"):
        Policy(p.model, p.config, p.rig, p.statistics, {}, ensemble=0.01)
    with pytest.raises(ValueError, match=rf"head = '{head}' needs statistics with action_range"):
        Policy(p.model, p.config, p.rig, p.statistics.model_copy(update={"action_range": None}), {})


def test_ensembling_of_a_policy_without_views_remembers_earlier_chunks(
    regrasp_folder: Path, policies: dict[str, Policy]
) -> None:
    p = policies["act"]
    mean = Policy(p.model, p.config, p.rig, p.statistics, {}, ensemble=0.01)
    chunks = [p.act(seen(regrasp_folder, t)) for t in (0, 40)]
    actions = [mean.act(seen(regrasp_folder, t)) for t in (0, 40)]
    weights = np.array([1.0, np.exp(-0.01)])
    assert actions[1] == pytest.approx(weights @ [chunks[0][1], chunks[1][0]] / weights.sum(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("head", DENOISERS)
def test_an_exported_program_makes_the_same_actions_from_the_same_noise(
    regrasp_folder: Path, policies: dict[str, Policy], tmp_path: Path, head: str
) -> None:
    policy = policies[head]
    batch = policy.batch(checked(seen(regrasp_folder, 0), policy.needs))
    names = export_policy(policy, batch, tmp_path / "policy.pt2")
    assert names == ("qpos", "noise")
    program = torch.export.load(tmp_path / "policy.pt2").module()
    policy.reset(seed=7)
    noise = policy.model.act.noise(1, torch.Generator().manual_seed(7))  # type: ignore[union-attr]
    other = policy.batch(checked(seen(regrasp_folder, 50), policy.needs))
    restored = policy.statistics.restore_action(program(other.qpos, noise)[0].detach().double().numpy())
    assert np.abs(restored - policy.act(seen(regrasp_folder, 50))).max() < 1e-5


def test_a_range_of_actions_with_swapped_ends_is_refused() -> None:
    entries = Statistics.of([(np.zeros((2, 1)), np.array([[-1.0], [1.0]]))], scale_to_range=True).model_dump()
    with pytest.raises(ValueError, match=r"action_range must have pairs.*got \[1\.0, -1\.0\]"):
        Statistics.model_validate(entries | {"action_range": [(1.0, -1.0)]})


def test_actions_are_scaled_to_minus_one_to_one_by_their_range_and_back() -> None:
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-3, 5, (9, 4)) for _ in range(3)]
    for action in actions:
        action[:, 2], action[:, 3] = 0.7, 0.4 + 1e-4 * action[:, 3]
    made = Statistics.of([(a, a) for a in actions], scale_to_range=True)
    scaled = made.normalise_action(np.concatenate(actions))
    assert scaled[:, :2].min(axis=0) == pytest.approx(-1) and scaled[:, :2].max(axis=0) == pytest.approx(1)
    assert np.abs(scaled[:, 2]).max() < 1e-12, "a column that does not move has the range 1"
    assert np.abs(scaled[:, 3]).max() < 0.05, "the noise of a column that hardly moves is not amplified"
    np.testing.assert_allclose(made.restore_action(scaled), np.concatenate(actions))
    assert made.restore_action(np.array([[0.0, 0, 1, 0]]))[0, 2] == pytest.approx(1.2)
    assert Statistics.model_validate_json(made.model_dump_json()) == made
