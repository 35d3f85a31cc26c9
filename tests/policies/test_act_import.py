"""Weights of the original ACT and of LeRobot, in and out."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tactile_align.policies.act import ACT, ACTConfig
from tactile_align.policies.act_import import from_original, load_act, to_lerobot, to_original

D, FFN, STATE, ACTION, CHUNK, LATENT = 16, 24, 7, 5, 6, 3
CONFIG = ACTConfig(
    state_dim=STATE,
    action_dim=ACTION,
    chunk_size=CHUNK,
    cameras=("top", "wrist"),
    vision_weights="scratch",
    d_model=D,
    heads=2,
    ffn_dim=FFN,
    encoder_layers=2,
    vae_layers=1,
    latent_dim=LATENT,
)
ATTENTION = {"in_proj_weight": (3 * D, D), "in_proj_bias": (3 * D,), "out_proj.weight": (D, D), "out_proj.bias": (D,)}


def layer(prefix: str, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {f"{prefix}.{a}.{k}": s for a in attentions for k, s in ATTENTION.items()}
    out |= {f"{prefix}.linear1.weight": (FFN, D), f"{prefix}.linear1.bias": (FFN,)}
    out |= {f"{prefix}.linear2.weight": (D, FFN), f"{prefix}.linear2.bias": (D,)}
    for i in range(len(attentions) + 1):
        out |= {f"{prefix}.norm{i + 1}.weight": (D,), f"{prefix}.norm{i + 1}.bias": (D,)}
    return out


def resnet(prefix: str) -> dict[str, tuple[int, ...]]:
    """ResNet-18 by its published table: four stages of two blocks, a 1x1 shortcut where the width changes."""

    def unit(conv: str, norm: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        norms = {f"{prefix}.{norm}.{k}": shape[:1] for k in ("weight", "bias", "running_mean", "running_var")}
        return {f"{prefix}.{conv}.weight": shape, **norms}

    out = unit("conv1", "bn1", (64, 3, 7, 7))
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            at = f"layer{stage}.{block}"
            out |= unit(f"{at}.conv1", f"{at}.bn1", (width, before, 3, 3))
            out |= unit(f"{at}.conv2", f"{at}.bn2", (width, width, 3, 3))
            if before != width:
                out |= unit(f"{at}.downsample.0", f"{at}.downsample.1", (width, before, 1, 1))
            before = width
    return out


def original_shapes(backbones: int = 1) -> dict[str, tuple[int, ...]]:
    """The state dict of the original's ACTPolicy (detr/models/detr_vae.py), from its constructors."""
    out: dict[str, tuple[int, ...]] = {}
    for i in range(2):
        out |= layer(f"transformer.encoder.layers.{i}", ("self_attn",))
    for i in range(7):
        out |= layer(f"transformer.decoder.layers.{i}", ("self_attn", "multihead_attn"))
    out |= layer("encoder.layers.0", ("self_attn",))
    for i in range(backbones):
        out |= resnet(f"backbones.{i}.0.body")
    linear = {
        "action_head": (ACTION, D),
        "is_pad_head": (1, D),
        "input_proj_robot_state": (D, STATE),
        "encoder_action_proj": (D, ACTION),
        "encoder_joint_proj": (D, STATE),
        "latent_proj": (2 * LATENT, D),
        "latent_out_proj": (D, LATENT),
        "input_proj": (D, 512, 1, 1),
    }
    for name, shape in linear.items():
        out |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    out |= {"transformer.decoder.norm.weight": (D,), "transformer.decoder.norm.bias": (D,)}
    out |= {"query_embed.weight": (CHUNK, D), "cls_embed.weight": (1, D), "additional_pos_embed.weight": (2, D)}
    out["pos_table"] = (1, 2 + CHUNK, D)
    return {f"model.{k}": s for k, s in out.items()}


def original(backbones: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {k: torch.rand(s, generator=g) * 0.1 for k, s in original_shapes(backbones).items()}


def variant(**changes: object) -> ACTConfig:
    return ACTConfig.model_validate({**CONFIG.model_dump(), **changes})


@pytest.mark.parametrize(("backbones", "config"), [(1, CONFIG), (2, variant(per_camera_backbones=True))])
def test_an_original_checkpoint_fills_every_tensor_and_comes_back(backbones: int, config: ACTConfig) -> None:
    theirs = original(backbones)
    ours = from_original(theirs, config)
    ACT(config).load_state_dict(ours, strict=True)
    back = to_original(ours, config)
    assert {k: tuple(t.shape) for k, t in back.items()} == original_shapes(backbones)
    unread = re.compile(r"model\.(transformer\.decoder\.layers\.[1-6]|is_pad_head)\.")
    assert all(torch.equal(back[k], theirs[k]) for k in theirs if not unread.match(k))
    assert len([k for k in theirs if unread.match(k)]) == 108 + 2
    again = from_original(back, config)
    assert again.keys() == ours.keys() and all(torch.equal(again[k], ours[k]) for k in ours)


def test_tensors_land_where_the_map_says() -> None:
    theirs = original()
    ours = from_original(theirs, CONFIG)
    for name, source in {
        "encoder.layers.1.linear2.weight": "transformer.encoder.layers.1.linear2.weight",
        "decoder.layers.0.norm3.weight": "transformer.decoder.layers.0.norm3.weight",
        "decoder.norm.bias": "transformer.decoder.norm.bias",
        "vae_encoder.layers.0.norm2.weight": "encoder.layers.0.norm2.weight",
        "backbone.layer4.1.bn2.running_var": "backbones.0.0.body.layer4.1.bn2.running_var",
        "encoder_img_feat_input_proj.weight": "input_proj.weight",
        "encoder_robot_state_input_proj.weight": "input_proj_robot_state.weight",
        "encoder_latent_input_proj.bias": "latent_out_proj.bias",
        "encoder_1d_feature_pos_embed.weight": "additional_pos_embed.weight",
        "decoder_pos_embed.weight": "query_embed.weight",
        "vae_encoder_cls_embed.weight": "cls_embed.weight",
        "vae_encoder_action_input_proj.weight": "encoder_action_proj.weight",
        "vae_encoder_robot_state_input_proj.weight": "encoder_joint_proj.weight",
        "vae_encoder_latent_output_proj.weight": "latent_proj.weight",
        "vae_encoder_pos_enc": "pos_table",
        "action_head.weight": "action_head.weight",
    }.items():
        assert ours[name] is theirs[f"model.{source}"]


def test_an_exported_network_acts_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ACT(CONFIG).eval()
    state, images = torch.randn(2, STATE), torch.randn(2, 2, 3, 64, 96)
    expected = model(state, images).actions
    exported = to_original(model.state_dict(), CONFIG)
    torch.save(exported, tmp_path / "policy_best.ckpt")
    save_file(exported, tmp_path / "policy.safetensors")
    (tmp_path / "pretrained_model").mkdir()
    statistics = {"normalize_inputs.buffer_observation_state.mean": torch.zeros(STATE)}
    lerobot = to_lerobot(model.state_dict(), CONFIG) | statistics
    save_file(lerobot, tmp_path / "pretrained_model" / "model.safetensors")
    torch.save(model.state_dict(), tmp_path / "own.pt")
    for name in ("policy_best.ckpt", "policy.safetensors", "pretrained_model", "own.pt"):
        assert torch.equal(load_act(tmp_path / name, CONFIG).eval()(state, images).actions, expected)


def test_a_backbone_per_camera_is_not_squeezed_into_one() -> None:
    with pytest.raises(ValueError, match=r"one backbone per camera.*per_camera_backbones = true"):
        from_original(original(2), CONFIG)


def test_a_checkpoint_of_another_shape_is_named_with_its_tensors(tmp_path: Path) -> None:
    save_file(original(), tmp_path / "policy.safetensors")
    with pytest.raises(ValueError, match=r"policy\.safetensors.*decoder_pos_embed.weight is \(6, 16\) instead of \(9,"):
        load_act(tmp_path / "policy.safetensors", variant(chunk_size=9))
    with pytest.raises(ValueError, match=r"policy\.safetensors.*extra_token_pos_embed\.weight is missing"):
        load_act(tmp_path / "policy.safetensors", variant(extra_tokens=2))
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*no such file"):
        load_act(tmp_path, CONFIG)


def test_what_the_original_never_had_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown tensors \(1\), such as latent_embed\.weight"):
        from_original({**original(), "model.latent_embed.weight": torch.zeros(2, 2)}, CONFIG)
    with pytest.raises(ValueError, match="decoder_layers = 2"):
        from_original(original(), variant(decoder_layers=2))
    for config, message in (
        (variant(extra_tokens=2), "does not support extra_tokens = 2"),
        (variant(camera_embedding=True), "does not support camera_embedding = True"),
        (variant(use_vae=False), "use_vae = False"),
    ):
        with pytest.raises(ValueError, match=message):
            to_original(ACT(config).state_dict(), config)


def test_what_lerobot_never_had_is_refused() -> None:
    for option in ({"extra_tokens": 2}, {"camera_embedding": True}, {"per_camera_backbones": True}):
        config = variant(**option)
        with pytest.raises(ValueError, match=f"does not support {next(iter(option))}"):
            to_lerobot(ACT(config).state_dict(), config)
