"""Flow and diffusion: schedules, samplers, losses and masks, each against an independent oracle."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from tactile_align.config.policy import QUARTERS, DenoiserConfig, Head, PolicyConfig
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.act import ACT, ACTConfig
from tactile_align.policies.heads.build import make_head
from tactile_align.policies.heads.denoiser import HIGHEST
from tactile_align.policies.heads.denoising import Denoising
from tactile_align.policies.heads.diffusion import ddim_step, kept_signal, sample_levels
from tactile_align.policies.heads.flow import Flow
from tactile_align.policies.heads.head import Observed

ROWS, CHUNK, COLUMNS = 5, 6, 3
DENOISERS: tuple[Head, ...] = ("flow", "diffusion")


def head_of(kind: Head, **denoiser: Any) -> Denoising:
    """Return a small head with random weights."""
    shape = {"state_dim": 2, "action_dim": COLUMNS, "chunk_size": CHUNK, "d_model": 16, "heads": 2, "ffn_dim": 8}
    config = ACTConfig(vision="none", encoder_layers=1, head=kind, denoiser=DenoiserConfig(**denoiser), **shape)
    torch.manual_seed(0)
    head = make_head(config).eval()
    assert isinstance(head, Denoising)
    return head


def opened(head: Denoising) -> Denoising:
    """Return the head with a random output layer in place of the zeros it starts with."""
    nn.init.normal_(head.denoiser.output.weight)
    return head


def batch_of(head: Denoising, rows: int = ROWS, seed: int = 1) -> MomentBatch:
    """Return a batch whose rows have 0 to 4 padded actions, with its random numbers."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.rand(rows, CHUNK, COLUMNS, generator=generator) * 2 - 1
    is_pad = torch.arange(CHUNK) >= CHUNK - torch.arange(rows)[:, None] % 5
    index = torch.arange(rows)
    state = torch.randn(rows, 2, generator=generator)
    batch = MomentBatch(qpos=state, qpos_raw=state, action=action, is_pad=is_pad, episode=index, time=index)
    return head.random(rows, generator).into(batch)


def losses_of(head: Denoising, batch: MomentBatch, **more: Any) -> dict[str, Tensor]:
    return head.losses(Observed(batch.qpos), batch, **more)


@pytest.mark.parametrize("steps", [20, 100])
def test_the_schedule_is_the_one_of_diffusers(steps: int) -> None:
    theirs = DDIMScheduler(num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    assert (kept_signal(steps) - theirs.alphas_cumprod).abs().max() < 1e-6
    for count in (1, 2, 3, 10, steps):
        theirs.set_timesteps(count)
        assert sample_levels(steps, count) == theirs.timesteps.tolist()


@pytest.mark.parametrize("place", range(10))
def test_a_sampling_step_is_the_one_of_diffusers(place: int) -> None:
    theirs = DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        prediction_type="epsilon",
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(10)
    x, noise = torch.randn(2, ROWS, CHUNK, COLUMNS)
    expected = theirs.step(noise, theirs.timesteps[place], x).prev_sample
    kept, levels = kept_signal(100).float(), sample_levels(100, 10)
    after = kept[levels[place + 1]] if place < 9 else torch.tensor(1.0)
    assert (ddim_step(x, noise, kept[levels[place]], after) - expected).abs().max() < 1e-6


MEAN, CHOLESKY = torch.tensor([0.1, -0.2, 0.05]), torch.tensor([[0.2, 0, 0], [0.1, 0.1, 0], [-0.05, 0.05, 0.15]])
COVARIANCE = CHOLESKY @ CHOLESKY.T


class Analytic(nn.Module):
    """Best possible prediction for actions of a normal distribution, in closed form."""

    def __init__(self, head: Denoising) -> None:
        super().__init__()
        self.head = head

    def keys_values(self, memory: Any) -> None:
        return None

    def forward(self, x: Tensor, level: Tensor, memory: Any) -> Tensor:
        one = torch.eye(COLUMNS)
        if isinstance(self.head, Flow):
            signal, noise = 1 - level[0, 0] / HIGHEST, level[0, 0] / HIGHEST
        else:
            kept = kept_signal(100)[round(float(level[0, 0]))].float()
            signal, noise = kept.sqrt(), (1 - kept).sqrt()
        precision = torch.linalg.inv(signal**2 * COVARIANCE + noise**2 * one)
        away = x - signal * MEAN
        expected_noise = away @ (noise * precision)
        expected_actions = MEAN + away @ (signal * precision @ COVARIANCE)
        return expected_actions - expected_noise if isinstance(self.head, Flow) else expected_noise


@pytest.mark.parametrize("kind", DENOISERS)
def test_with_the_best_prediction_samples_have_the_mean_and_covariance_of_the_actions(kind: Head) -> None:
    gaps = []
    for steps in (25, 100):
        head = head_of(kind, sample_steps=steps)
        head.denoiser = Analytic(head)  # type: ignore[assignment]
        noise = head.noise(2000, torch.Generator().manual_seed(0))
        noise = torch.cat((noise, -noise))  # the samples' mean is then exact
        actions = head.sample(Observed(torch.zeros(4000, 2)), noise).flatten(0, 1)
        assert (actions.mean(0) - MEAN).abs().max() < 0.01
        gaps.append(float((actions.T.cov() - COVARIANCE).abs().max() / COVARIANCE.max()))
    # What is left is the error of finite steps.
    assert gaps[1] < 0.07 and gaps[1] < 0.45 * gaps[0]


@pytest.mark.parametrize(("steps", "least"), [(1, 0), (2, 0.15), (3, 0.25), (60, 0.9)])
def test_samples_of_any_number_of_steps_start_as_pure_noise(steps: int, least: float) -> None:
    head = head_of("diffusion", sample_steps=steps)
    head.denoiser = Analytic(head)  # type: ignore[assignment]
    noise = head.noise(2000, torch.Generator().manual_seed(0))
    actions = head.sample(Observed(torch.zeros(4000, 2)), torch.cat((noise, -noise))).flatten(0, 1)
    spread = actions.std(0) / COVARIANCE.diagonal().sqrt()
    assert (actions.mean(0) - MEAN).abs().max() < 1e-3
    assert spread.min() >= least and spread.max() < 1  # few steps draw samples towards the mean, never away from it


@pytest.mark.parametrize("kind", DENOISERS)
def test_before_any_step_the_output_is_zero_and_the_loss_is_at_chance(kind: Head) -> None:
    head = head_of(kind)
    batch = batch_of(head, rows=200)
    with torch.no_grad():
        found = losses_of(head, batch)
    real = ~batch.is_pad
    expected = 1 + float(batch.action[real].square().mean()) if kind == "flow" else 1.0
    assert float(found["denoise_chance"]) == pytest.approx(expected, rel=1e-5)
    assert float(found["denoise"]) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("kind", DENOISERS)
def test_the_loss_is_the_mean_over_real_actions_and_each_quarter_has_its_part(kind: Head) -> None:
    head = opened(head_of(kind))
    batch = batch_of(head)
    with torch.no_grad():
        errors, found = head.errors(Observed(batch.qpos), batch), losses_of(head, batch)
    levels = head.levels(batch.level)
    kept = [(errors[i, s, ~batch.is_pad[i]], min(3, int(levels[i, s] / 25))) for i in range(ROWS) for s in range(4)]
    assert float(found["denoise"]) == pytest.approx(float(torch.cat([e for e, _ in kept]).mean()), rel=1e-5)
    for n, name in enumerate(QUARTERS):
        own = [e for e, quarter in kept if quarter == n]
        value = float(found[f"denoise/{name}"])
        assert value == pytest.approx(float(torch.cat(own).mean()), rel=1e-5) if own else math.isnan(value)
    assert torch.equal(found["action"], found["denoise"])


@pytest.mark.parametrize("kind", DENOISERS)
def test_the_losses_of_two_halves_of_a_batch_add_up_to_that_of_the_batch(kind: Head) -> None:
    head = opened(head_of(kind))
    batch = batch_of(head, rows=40)
    totals = {"rows": torch.tensor(40), **head.counts(batch)}
    parts = [losses_of(head, batch.rows(slice(i, None, 2)), totals=totals) for i in range(2)]
    for name, value in losses_of(head, batch).items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value)


@pytest.mark.parametrize("kind", DENOISERS)
def test_padded_actions_change_nothing(kind: Head) -> None:
    head = opened(head_of(kind))
    batch = batch_of(head)
    odd = torch.where(batch.is_pad[..., None], 7.0, batch.action)
    for name, value in losses_of(head, replace(batch, action=odd)).items():
        torch.testing.assert_close(value, losses_of(head, batch)[name], equal_nan=True)


@pytest.mark.parametrize("kind", DENOISERS)
def test_equal_noise_gives_equal_actions_and_other_noise_gives_others(kind: Head) -> None:
    head = opened(head_of(kind))
    state = Observed(torch.randn(2, 2))
    first, second = (head.noise(2, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(head.sample(state, first), head.sample(state, first))
    assert torch.equal(head.sample(state), head.sample(state, first))
    assert not torch.allclose(head.sample(state, first), head.sample(state, second))


@pytest.mark.parametrize("kind", DENOISERS)
def test_the_prediction_depends_on_state_level_noise_and_extra_tokens_but_not_on_absent_ones(kind: Head) -> None:
    config = head_of(kind).config.model_copy(update={"extra_tokens": 2})
    head = make_head(config).eval()
    assert isinstance(head, Denoising)
    opened(head)
    state, extra, noisy, levels = torch.randn(2, 2), torch.randn(2, 2, 16), torch.randn(2, 4, CHUNK, COLUMNS), 50.0
    absent = torch.tensor([[False, True]] * 2)

    def out(**changed: Tensor) -> Tensor:
        given = {"state": state, "extra_tokens": extra, "noisy": noisy, "levels": torch.full((2, 4), levels), **changed}
        return head(images=None, extra_is_pad=absent, **given)

    assert not torch.allclose(out(), out(state=state + 1))
    assert not torch.allclose(out(), out(levels=torch.full((2, 4), 10.0)))
    assert not torch.allclose(out(), out(noisy=noisy + 1))
    other = extra.clone()
    other[:, 1] += 5
    assert torch.equal(out(), out(extra_tokens=other))
    other[:, 0] += 5
    assert not torch.allclose(out(), out(extra_tokens=other))
    # Each noise of a moment is denoised on its own.
    torch.testing.assert_close(out()[:, 1:2], out(noisy=noisy[:, 1:2], levels=torch.full((2, 1), levels)))


def test_flow_draws_levels_of_the_beta_distribution_and_diffusion_draws_each_level_equally() -> None:
    uniform = torch.rand(20000, 1, generator=torch.Generator().manual_seed(0))
    flow, diffusion = head_of("flow"), head_of("diffusion")
    u = torch.distributions.Beta(1.5, 1.0)
    levels = flow.levels(uniform) / HIGHEST  # 1 - t = 0.001 + 0.999 u
    assert float(levels.mean()) == pytest.approx(0.001 + 0.999 * float(u.mean), abs=0.005)
    assert float(levels.var()) == pytest.approx(0.999**2 * float(u.variance), abs=0.003)
    counts = diffusion.levels(uniform).long().flatten().bincount(minlength=100)
    assert len(counts) == 100 and int(counts.min()) > 130


def test_only_diffusion_needs_a_level_of_its_own_for_each_sampling_step() -> None:
    assert PolicyConfig.model_validate({"head": "flow", "denoiser": {"sample_steps": 200}}).denoiser.sample_steps == 200
    with pytest.raises(ValueError, match=r"sample_steps = 200 exceeds train_steps = 100"):
        PolicyConfig.model_validate({"head": "diffusion", "denoiser": {"sample_steps": 200}})


def test_options_that_a_head_ignores_are_refused_by_name() -> None:
    for head in DENOISERS:
        for name, value in {"use_vae": False, "kl_weight": 1.0, "vae_layers": 1, "latent_dim": 8}.items():
            with pytest.raises(ValueError, match=rf"policy\.{name}.*head = '{head}' ignores"):
                PolicyConfig.model_validate({"head": head, name: value})
    with pytest.raises(ValueError, match=r"policy\.decoder_layers, policy\.loss_reduction, policy\.init_gain"):
        PolicyConfig(head="flow", decoder_layers=2, loss_reduction="all", init_gain=0.5)
    with pytest.raises(ValueError, match=r"policy\.denoiser: policy\.head = 'act' ignores this"):
        PolicyConfig(denoiser=DenoiserConfig(layers=2))
    with pytest.raises(ValueError, match=r"policy\.denoiser\.train_steps.*'flow'"):
        PolicyConfig(head="flow", denoiser=DenoiserConfig(train_steps=50))
    assert PolicyConfig(head="diffusion", denoiser=DenoiserConfig(train_steps=50)).denoiser.train_steps == 50
    with pytest.raises(ValueError, match=r"execute = 9 exceeds policy\.chunk_size = 8"):
        PolicyConfig(execute=9, chunk_size=8)


def test_act_is_a_head_that_refuses_noise() -> None:
    act = ACT(ACTConfig(state_dim=2, action_dim=3, chunk_size=4, d_model=16, heads=2, ffn_dim=8, vision="none")).eval()
    state = torch.randn(2, 2)
    assert torch.equal(act.sample(Observed(state)), act(state).actions)
    assert act.noise(2, torch.Generator()) is None
    with pytest.raises(ValueError, match="latent of zeros; got noise"):
        act.sample(Observed(state), torch.zeros(2, 4, 3))
