"""ACT weights from elsewhere and back: from LeRobot, and from the original code (tonyzhaozh/act).

All three hold the same network. LeRobot's policy adds the prefix `model.`; the original has other names, one
ResNet for all cameras or one for each, seven decoder layers of which it reads the first, and a padding head
that no loss trains.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from tactile_align.errors import InputError
from tactile_align.policies.act import ACT, ACTConfig
from tactile_align.policies.vision import read_tensors

# The original's prefix, ours. Layers below a prefix carry the same names in both.
_PREFIXES = (
    ("transformer.encoder.", "encoder."),
    ("transformer.decoder.layers.0.", "decoder.layers.0."),
    ("transformer.decoder.norm.", "decoder.norm."),
    ("encoder.", "vae_encoder."),
    ("input_proj.", "encoder_img_feat_input_proj."),
    ("input_proj_robot_state.", "encoder_robot_state_input_proj."),
    ("latent_out_proj.", "encoder_latent_input_proj."),
    ("additional_pos_embed.", "encoder_1d_feature_pos_embed."),
    ("query_embed.", "decoder_pos_embed."),
    ("cls_embed.", "vae_encoder_cls_embed."),
    ("encoder_action_proj.", "vae_encoder_action_input_proj."),
    ("encoder_joint_proj.", "vae_encoder_robot_state_input_proj."),
    ("latent_proj.", "vae_encoder_latent_output_proj."),
    ("pos_table", "vae_encoder_pos_enc"),
    ("action_head.", "action_head."),
)
_UNREAD = ("transformer.decoder.layers.", "is_pad_head.")
# LeRobot kept its statistics in the model until 0.4.
_STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")


def load_act(path: Path, config: ACTConfig) -> ACT:
    """Return the network of a LeRobot folder, or of a file of LeRobot's, the original's or our own tensors.

    Statistics are not in it: LeRobot keeps them in its processor file, the original in `dataset_stats.pkl`.

    Raises:
        FileNotFoundError: There is no such file, or no model.safetensors in the folder.
        InputError: The tensors are not those of an ACT of this config.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    tensors = _bare(read_tensors(file))
    original = any(k.startswith("transformer.") for k in tensors)
    try:
        if original:
            tensors = from_original(tensors, config)
        _check(tensors, config)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    model = ACT(config, fill_vision=False)
    model.load_state_dict(tensors, strict=True)
    return model


def from_original(tensors: dict[str, Tensor], config: ACTConfig) -> dict[str, Tensor]:
    """Return the original's tensors under our names, without its unread decoder layers and its padding head.

    Args:
        tensors: The original's state dict, with or without the policy's `model.` prefix.
        config: What the tensors are to be loaded into.

    Raises:
        InputError: A tensor has no place in `config`, or `config` has more decoder layers than one.
    """
    _check_decoder(config)
    out: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in _bare(tensors).items():
        name = _our_name(key, config)
        if name is not None:
            out[name] = tensor
        elif not key.startswith(_UNREAD):
            unknown.append(key)
    if any(k.startswith("backbones.1.") for k in unknown):
        raise InputError(
            "needed one backbone for all cameras; the original's tensors hold one for each. "
            "Set per_camera_backbones = true."
        )
    if unknown:
        raise InputError(
            f"needed the tensors of the original ACT; got {len(unknown)} others, such as "
            f"{', '.join(unknown[:3])}. Train it without a codebook and with images, as ACT is."
        )
    return out


def to_original(state: dict[str, Tensor], config: ACTConfig, decoder_layers: int = 7) -> dict[str, Tensor]:
    """Return an ACT's state dict as the original policy's, ready for its strict `load_state_dict`.

    What the original holds but never uses is filled: further decoder layers repeat the first, its padding
    head is zero.

    Args:
        state: `ACT.state_dict()`.
        config: Its config.
        decoder_layers: How many the receiver builds.

    Raises:
        InputError: The network has parts that the original has no place for.
    """
    _check_decoder(config)
    _check(state, config)
    if not config.use_vae or config.vision == "none":
        raise InputError(
            "the original ACT always has a CVAE and a ResNet; this config has "
            f"use_vae = {config.use_vae}, vision = '{config.vision}'. Export a network that has both."
        )
    out: dict[str, Tensor] = {}
    homeless = []
    for key, tensor in state.items():
        name = _original_name(key)
        if name is None:
            homeless.append(key)
        else:
            out[f"model.{name}"] = tensor
    if homeless:
        raise InputError(
            f"the original ACT has no place for {', '.join(homeless)}. "
            "Export a network without extra tokens and camera embedding."
        )
    first = "model.transformer.decoder.layers.0."
    for i in range(1, decoder_layers):
        # Copies, since safetensors refuses two names for one memory.
        again = {f"{first[:-2]}{i}.{k[len(first) :]}": t.clone() for k, t in out.items() if k.startswith(first)}
        out |= again
    weight = state["action_head.weight"]
    out["model.is_pad_head.weight"] = weight.new_zeros(1, config.d_model)
    out["model.is_pad_head.bias"] = weight.new_zeros(1)
    return out


def to_lerobot(state: dict[str, Tensor], config: ACTConfig) -> dict[str, Tensor]:
    """Return an ACT's state dict as LeRobot's ACTPolicy holds it.

    Raises:
        InputError: The network has parts that LeRobot's has no place for.
    """
    _check(state, config)
    options = {
        "per_camera_backbones": config.per_camera_backbones,
        "camera_embedding": config.camera_embedding,
        "extra_tokens": config.extra_tokens > 0,
        "vision = 'none'": config.vision == "none",
    }
    if any(options.values()):
        raise InputError(
            f"LeRobot's ACT has no place for {', '.join(k for k, on in options.items() if on)}. "
            "Export a network without."
        )
    return {f"model.{k}": t for k, t in state.items()}


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {k: t for k, t in tensors.items() if not k.startswith(_STATISTICS)}
    if kept and all(k.startswith("model.") for k in kept):
        return {k.removeprefix("model."): t for k, t in kept.items()}
    return kept


def _our_name(key: str, config: ACTConfig) -> str | None:
    backbone = re.fullmatch(r"backbones\.(\d+)\.0\.body\.(.+)", key)
    if backbone:
        camera, rest = backbone.groups()
        if config.per_camera_backbones:
            return f"backbones.{camera}.{rest}"
        return f"backbone.{rest}" if camera == "0" else None
    for theirs, ours in _PREFIXES:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return None


def _original_name(key: str) -> str | None:
    if key.startswith("backbone."):
        return f"backbones.0.0.body.{key.removeprefix('backbone.')}"
    if key.startswith("backbones."):
        _, camera, rest = key.split(".", 2)
        return f"backbones.{camera}.0.body.{rest}"
    for theirs, ours in _PREFIXES:
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return None


def _check_decoder(config: ACTConfig) -> None:
    if config.decoder_layers != 1:
        raise InputError(
            "the original ACT acts on the first decoder layer alone, so decoder_layers must be 1; "
            f"got {config.decoder_layers}. Set decoder_layers = 1."
        )


def _check(tensors: dict[str, Tensor], config: ACTConfig) -> None:
    with torch.device("meta"):
        wanted = {k: tuple(t.shape) for k, t in ACT(config, fill_vision=False).state_dict().items()}
    found = {k: tuple(t.shape) for k, t in tensors.items()}
    wrong = [f"{k} is {found[k]} instead of {wanted[k]}" for k in wanted if k in found and found[k] != wanted[k]]
    missing = [f"{k} is missing" for k in wanted if k not in found]
    unknown = [f"{k} is unknown" for k in found if k not in wanted]
    faults = wrong + missing + unknown
    if faults:
        raise InputError(
            f"needed the {len(wanted)} tensors of an ACT of this config; {len(faults)} do not fit: "
            f"{'; '.join(faults[:4])}. Set dimensions, chunk_size, widths, layers and cameras as they were."
        )
