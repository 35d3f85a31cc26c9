"""ACT: what it computes, what it refuses, and that its options stay out of the way when off."""

import math

import pytest
import torch
from torch import Tensor

from tactile_align.policies.act import ACT, ACTConfig, sine_positions_2d

SMALL = ACTConfig(
    state_dim=7,
    action_dim=5,
    chunk_size=6,
    cameras=("top", "wrist"),
    vision_weights="scratch",
    d_model=32,
    heads=4,
    ffn_dim=48,
    encoder_layers=2,
    vae_layers=1,
    latent_dim=3,
)
BLIND = SMALL.model_copy(update={"cameras": (), "vision": "none", "vision_weights": None})


def build(config: ACTConfig, seed: int = 0) -> ACT:
    torch.manual_seed(seed)
    return ACT(config).eval()


def variant(config: ACTConfig, **changes: object) -> ACTConfig:
    return ACTConfig.model_validate({**config.model_dump(), **changes})


def batch(size: int = 3, seed: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "state": torch.randn(size, 7, generator=g),
        "images": torch.randn(size, 2, 3, 64, 96, generator=g),
        "actions": torch.randn(size, 6, 5, generator=g),
        "is_pad": torch.arange(6) >= torch.tensor([6, 4, 2])[:size, None],
    }


def test_the_default_network_has_the_recorded_size() -> None:
    config = ACTConfig(state_dim=14, action_dim=14, cameras=("a", "b", "c"), vision_weights="scratch")
    with torch.device("meta"):
        model = ACT(config)
    assert len(model.state_dict()) == 234
    assert sum(p.numel() for p in model.parameters()) == 51_613_582


def test_actions_come_as_one_chunk_per_moment() -> None:
    b = batch()
    out = build(SMALL)(b["state"], b["images"])
    assert out.actions.shape == (3, 6, 5)
    assert out.mu is None and out.logvar is None


def test_extra_tokens_that_are_configured_but_not_given_change_no_bit() -> None:
    b = batch()
    plain = build(SMALL)
    more = build(variant(SMALL, extra_tokens=4, extra_token_dim=11))
    shared = plain.state_dict()
    assert all(torch.equal(v, more.state_dict()[k]) for k, v in shared.items())
    assert set(more.state_dict()) - set(shared) == {
        "extra_token_input_proj.weight",
        "extra_token_input_proj.bias",
        "extra_token_pos_embed.weight",
    }
    expected = plain(b["state"], b["images"]).actions
    assert torch.equal(more(b["state"], b["images"]).actions, expected)
    assert torch.equal(more(b["state"], b["images"], torch.zeros(3, 0, 11)).actions, expected)


def test_extra_tokens_reach_the_actions_and_receive_their_gradient() -> None:
    b = batch()
    model = build(variant(SMALL, extra_tokens=4, extra_token_dim=11))
    tokens = torch.randn(3, 2, 11, requires_grad=True)
    actions = model(b["state"], b["images"], tokens).actions
    assert (actions - model(b["state"], b["images"]).actions).abs().max() > 1e-3
    actions.square().sum().backward()
    assert tokens.grad is not None and (tokens.grad.abs().sum(-1) > 0).all()
    assert not torch.allclose(actions, model(b["state"], b["images"], tokens.flip(1)).actions, atol=1e-4)


def test_a_masked_extra_token_is_as_good_as_absent_and_only_in_its_row() -> None:
    b = batch()
    model = build(variant(SMALL, extra_tokens=4))
    tokens = torch.randn(3, 2, 32)
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    masked = model(b["state"], b["images"], tokens, extra_is_pad=mask).actions
    torch.testing.assert_close(masked[0], model(b["state"], b["images"]).actions[0])
    torch.testing.assert_close(masked[1], model(b["state"], b["images"], tokens[:, :1]).actions[1])
    torch.testing.assert_close(masked[2], model(b["state"], b["images"], tokens).actions[2])


def test_without_vision_image_tokens_come_in_as_extra_tokens() -> None:
    b = batch()
    model = build(variant(BLIND, extra_tokens=12, extra_token_dim=9))
    assert not any("backbone" in k or "img" in k for k in model.state_dict())
    assert model(b["state"], extra_tokens=torch.randn(3, 12, 9)).actions.shape == (3, 6, 5)


def test_padded_actions_do_not_touch_the_latent() -> None:
    b = batch()
    model = build(BLIND)
    first = model(b["state"], actions=b["actions"], is_pad=b["is_pad"])
    spoilt = b["actions"].masked_fill(b["is_pad"][..., None], 1e3)
    second = model(b["state"], actions=spoilt, is_pad=b["is_pad"])
    assert first.mu is not None and second.mu is not None
    torch.testing.assert_close(first.mu, second.mu)
    third = model(b["state"], actions=spoilt)
    assert third.mu is not None and torch.equal(third.mu[0], second.mu[0])
    assert not torch.allclose(third.mu[1:], second.mu[1:], atol=1e-3)


def test_the_latent_is_mean_plus_noise_times_deviation() -> None:
    b = batch()
    model = build(BLIND)
    noise = torch.randn(3, 3)
    out = model(b["state"], actions=b["actions"], noise=noise)
    assert out.mu is not None and out.logvar is not None
    z = out.mu + noise * out.logvar.exp().sqrt()
    seen: list[Tensor] = []
    model.encoder_latent_input_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(b["state"], actions=b["actions"], noise=noise)
    model(b["state"])
    torch.testing.assert_close(seen[0], z)
    assert torch.equal(seen[1], torch.zeros(3, 3))


def test_cameras_are_anonymous_unless_an_option_names_them() -> None:
    b = batch()
    swapped = b["images"].flip(1)

    def moved(config: ACTConfig) -> float:
        model = build(config)
        return (model(b["state"], b["images"]).actions - model(b["state"], swapped).actions).abs().max().item()

    assert moved(SMALL) < 1e-5
    assert moved(variant(SMALL, camera_embedding=True)) > 1e-3
    assert moved(variant(SMALL, per_camera_backbones=True)) > 1e-3


def test_equal_backbones_per_camera_do_what_the_shared_one_does() -> None:
    b = batch()
    shared = build(SMALL)
    split = build(variant(SMALL, per_camera_backbones=True))
    state = {k: v for k, v in shared.state_dict().items() if not k.startswith("backbone.")}
    for i in range(2):
        state |= {f"backbones.{i}.{k}": v for k, v in shared.backbone.state_dict().items()}
    split.load_state_dict(state)
    torch.testing.assert_close(
        split(b["state"], b["images"]).actions, shared(b["state"], b["images"]).actions, atol=1e-5, rtol=0
    )


def test_image_positions_follow_the_published_formula() -> None:
    rows, columns, width = 3, 5, 16
    table = sine_positions_2d(rows, columns, width, torch.device("cpu"))
    half = width // 2
    for r in range(rows):
        for c in range(columns):
            for k in range(width):
                turn = (r + 1) / rows if k < half else (c + 1) / columns
                j = k % half
                angle = 2 * math.pi * turn / 10000 ** (2 * (j // 2) / half)
                expected = math.sin(angle) if j % 2 == 0 else math.cos(angle)
                assert table[r * columns + c, k].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_parameter_that_can_learn_gets_a_gradient(pre_norm: bool) -> None:
    b = batch()
    model = build(variant(SMALL, pre_norm=pre_norm, camera_embedding=True, decoder_layers=2)).train()
    with torch.no_grad():
        for p in model.parameters():  # biases start at zero, which would hide more
            p.add_(torch.randn_like(p) * 0.02)
    model(**b).actions.square().sum().backward()
    dead = {k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # The decoder starts from zeros, so what its first self-attention looks at is all the same.
    known = {"self_attn.in_proj_weight", "self_attn.in_proj_bias"} | ({"norm1.weight"} if pre_norm else set())
    assert dead <= {f"decoder.layers.0.{k}" for k in known}


def test_a_forward_pass_never_waits_for_the_device() -> None:
    # Tensors on "meta" have no values, so any look at one from the host raises.
    config = variant(SMALL, extra_tokens=2, extra_token_dim=11, camera_embedding=True)
    with torch.device("meta"):
        model = ACT(config).train()
    b = {k: v.to("meta") for k, v in batch().items()}
    out = model(**b, extra_tokens=torch.empty(3, 2, 11, device="meta"))
    assert out.actions.device.type == "meta"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": torch.zeros(3, 8)}, r"state must have shape \(B, 7\).*got \(3, 8\)"),
        ({"images": None}, r"images is missing; .*\['top', 'wrist'\]"),
        ({"images": torch.zeros(3, 3, 64, 96)}, r"images must have shape \(B, 2, 3, H, W\)"),
        ({"images": torch.zeros(3, 1, 3, 64, 96)}, r"images must have shape \(B, 2, 3, H, W\)"),
        ({"actions": torch.zeros(3, 7, 5)}, r"actions must have shape \(B, 6, 5\).*got \(3, 7, 5\)"),
        ({"actions": None}, r"actions is None.*use_vae"),
        ({"is_pad": torch.zeros(2, 6, dtype=torch.bool)}, r"is_pad must have shape \(B, 6\)"),
        ({"extra_tokens": torch.zeros(3, 1, 32)}, r"extra_tokens must have shape \(B, K <= 0, 32\)"),
        ({"noise": torch.zeros(3, 4)}, r"noise must have shape \(B, 3\)"),
    ],
)
def test_a_wrong_shape_is_named_with_the_right_one(changes: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(SMALL).train()(**{**batch(), **changes})


def test_images_for_a_network_without_vision_are_refused() -> None:
    b = batch()
    with pytest.raises(ValueError, match=r"vision 'none'.*images=None"):
        build(BLIND)(b["state"], b["images"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_weights": None}, "requires vision_weights.*'scratch'"),
        ({"cameras": ()}, "cameras is empty"),
        ({"cameras": ("top", "top")}, "a name more than once"),
        ({"vision": "none"}, "cameras, vision_weights require an image backbone"),
        ({"d_model": 30}, r"multiple of heads \(4\).*got 30. Use d_model = 32"),
        ({"extra_token_dim": 9}, "requires extra_tokens >= 1"),
        ({"hidden_dim": 9}, "Extra inputs are not permitted"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant(SMALL, **changes)
