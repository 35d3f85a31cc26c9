"""Conversion of ACT weights from and to LeRobot and the original code (tonyzhaozh/act).

LeRobot, the original code and ours implement the same network. LeRobot's policy adds the prefix `model.` to the names.
The original code uses other names, one ResNet for all cameras or one per camera, seven decoder layers of which only the
first is used, and a padding head that no loss trains.
"""

from pathlib import Path

import torch
from torch import Tensor

from tactile_align.errors import InputError
from tactile_align.features.tensor_files import mismatches, read_tensors, require_finite, require_floating
from tactile_align.policies.act import ACT, ACTConfig

# Pairs (prefix in the original, our prefix). What follows the prefix is the same in both.
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
    ("backbones.0.0.body.", "backbone."),
)
_UNREAD = ("transformer.decoder.layers.", "is_pad_head.")
# LeRobot stored its statistics in the model up to version 0.4.
_STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")


def load_act(path: Path, config: ACTConfig) -> ACT:
    """Return an ACT with weights from a LeRobot folder, or from a weight file of LeRobot, the original code or ours.

    Normalisation statistics are not loaded: LeRobot stores them in its processor file, the original code in
    `dataset_stats.pkl`.

    Raises:
        FileNotFoundError: The file does not exist, or the folder has no model.safetensors.
        InputError: The tensors do not fit an ACT with this config.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    tensors = _bare(read_tensors(file)[0])
    try:
        if any(k.startswith("transformer.") for k in tensors):
            tensors = from_original(tensors, config)
        _check(tensors, config)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    model = ACT(config, fill_vision=False)
    require_floating(tensors, model, file)
    require_finite(tensors, file)
    model.load_state_dict(tensors, strict=True)
    return model


def from_original(tensors: dict[str, Tensor], config: ACTConfig) -> dict[str, Tensor]:
    """Return the tensors of the original ACT under our names, without its unused decoder layers and its padding head.

    Args:
        tensors: State dict of the original ACT, with or without the policy's `model.` prefix.
        config: Config of the ACT that the tensors will be loaded into.

    Raises:
        InputError: `config` has no parameter for a tensor, or has more than one decoder layer.
    """
    _refuse("the original ACT", config, "decoder_layers")
    ours = {theirs: name for name, theirs in _original_names(config).items()}
    tensors = _bare(tensors)
    unknown = [key for key in tensors if key not in ours and not key.startswith(_UNREAD)]
    if any(key.startswith("backbones.1.") for key in unknown):
        raise InputError(
            "the tensors contain one backbone per camera, but the config has one backbone for all cameras. "
            "Set per_camera_backbones = true."
        )
    if unknown:
        raise InputError(
            f"expected the tensors of an original ACT with this config; found unknown tensors ({len(unknown)}), "
            f"such as {', '.join(unknown[:3])}. Set layers, cameras and use_vae as in its training. Weights with a "
            f"codebook (VQ) cannot be loaded."
        )
    return {ours[key]: tensor for key, tensor in tensors.items() if key in ours}


def to_original(state: dict[str, Tensor], config: ACTConfig, decoder_layers: int = 7) -> dict[str, Tensor]:
    """Return an ACT's state dict under the names of the original policy, ready for a strict `load_state_dict` there.

    Tensors that the original code has but never uses are filled in: each further decoder layer repeats the first, and
    the padding head is zero.

    Args:
        state: `ACT.state_dict()`.
        config: Config of that ACT.
        decoder_layers: Number of decoder layers that the receiving network builds.

    Raises:
        InputError: The network has parts that the original does not support, or has no latent.
    """
    _check(state, config)
    _refuse("the original ACT", config, "decoder_layers", "use_vae", "camera_embedding", "extra_tokens", "vision")
    out = {f"model.{theirs}": state[name] for name, theirs in _original_names(config).items()}
    first = "model.transformer.decoder.layers.0."
    layer = {name.removeprefix(first): tensor for name, tensor in out.items() if name.startswith(first)}
    for i in range(1, decoder_layers):
        # Copies, because safetensors refuses tensors that share memory.
        out |= {f"model.transformer.decoder.layers.{i}.{name}": tensor.clone() for name, tensor in layer.items()}
    weight = state["action_head.weight"]
    out["model.is_pad_head.weight"] = weight.new_zeros(1, config.d_model)
    out["model.is_pad_head.bias"] = weight.new_zeros(1)
    return out


def to_lerobot(state: dict[str, Tensor], config: ACTConfig) -> dict[str, Tensor]:
    """Return an ACT's state dict under the names of LeRobot's ACTPolicy.

    Raises:
        InputError: The network has parts that LeRobot's ACT does not support.
    """
    _check(state, config)
    _refuse("LeRobot's ACT", config, "per_camera_backbones", "camera_embedding", "extra_tokens", "vision")
    return {f"model.{k}": t for k, t in state.items()}


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {k: t for k, t in tensors.items() if not k.startswith(_STATISTICS)}
    prefix = "model." if all(k.startswith("model.") for k in kept) else ""
    return {k.removeprefix(prefix): t for k, t in kept.items()}


def _original_names(config: ACTConfig) -> dict[str, str]:
    """Return the original code's tensor names by our names, for the tensors that both have."""
    names = {}
    for name in _on_meta(config).state_dict():
        for theirs, ours in _PREFIXES:
            if name.startswith(ours):
                names[name] = theirs + name.removeprefix(ours)
        if name.startswith("backbones."):
            _, camera, rest = name.split(".", 2)
            names[name] = f"backbones.{camera}.0.body.{rest}"
    return names


def _refuse(receiver: str, config: ACTConfig, *options: str) -> None:
    """Raise an InputError for options that are not at their defaults, because the receiver does not support them."""
    homeless = [name for name in options if getattr(config, name) != ACTConfig.model_fields[name].default]
    if homeless:
        raise InputError(
            f"{receiver} does not support {', '.join(f'{name} = {getattr(config, name)!r}' for name in homeless)}. "
            f"Leave {', '.join(homeless)} at the default"
        )


def _on_meta(config: ACTConfig) -> ACT:
    with torch.device("meta"):
        return ACT(config, fill_vision=False)


def _check(tensors: dict[str, Tensor], config: ACTConfig) -> None:
    if faults := mismatches(tensors, _on_meta(config)):
        raise InputError(
            f"expected the tensors of an ACT with this config; {len(faults)} do not fit: "
            f"{'; '.join(faults[:4])}. Set dimensions, chunk_size, widths, layers and cameras as in its training."
        )
