"""ACT weights from elsewhere and back: from LeRobot, and from the original code (tonyzhaozh/act).

All three hold the same network. LeRobot's policy adds the prefix `model.`; the original has other names, one
ResNet for all cameras or one for each, seven decoder layers of which it reads the first, and a padding head
that no loss trains.
"""

from pathlib import Path

import torch
from torch import Tensor

from tactile_align.errors import InputError
from tactile_align.policies.act import ACT, ACTConfig
from tactile_align.policies.vision import mismatches, read_tensors

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
    ("backbones.0.0.body.", "backbone."),
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
    try:
        if any(k.startswith("transformer.") for k in tensors):
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
    _refuse("the original ACT", config, "decoder_layers")
    ours = {theirs: name for name, theirs in _original_names(config).items()}
    tensors = _bare(tensors)
    unknown = [key for key in tensors if key not in ours and not key.startswith(_UNREAD)]
    if any(key.startswith("backbones.1.") for key in unknown):
        raise InputError(
            "needed one backbone for all cameras; the original's tensors hold one for each. "
            "Set per_camera_backbones = true."
        )
    if unknown:
        raise InputError(
            f"needed the tensors of an original ACT of this config; got {len(unknown)} others, such as "
            f"{', '.join(unknown[:3])}. Set layers, cameras and use_vae as they were; a codebook has no place."
        )
    return {ours[key]: tensor for key, tensor in tensors.items() if key in ours}


def to_original(state: dict[str, Tensor], config: ACTConfig, decoder_layers: int = 7) -> dict[str, Tensor]:
    """Return an ACT's state dict as the original policy's, ready for its strict `load_state_dict`.

    What the original holds but never uses is filled: further decoder layers repeat the first, its padding
    head is zero.

    Args:
        state: `ACT.state_dict()`.
        config: Its config.
        decoder_layers: How many the receiver builds.

    Raises:
        InputError: The network has parts that the original has no place for, or lacks its latent.
    """
    _check(state, config)
    _refuse("the original ACT", config, "decoder_layers", "use_vae", "camera_embedding", "extra_tokens", "vision")
    out = {f"model.{theirs}": state[name] for name, theirs in _original_names(config).items()}
    first = "model.transformer.decoder.layers.0."
    layer = {name.removeprefix(first): tensor for name, tensor in out.items() if name.startswith(first)}
    for i in range(1, decoder_layers):
        # Copies, since safetensors refuses two names for one memory.
        out |= {f"model.transformer.decoder.layers.{i}.{name}": tensor.clone() for name, tensor in layer.items()}
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
    _refuse("LeRobot's ACT", config, "per_camera_backbones", "camera_embedding", "extra_tokens", "vision")
    return {f"model.{k}": t for k, t in state.items()}


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {k: t for k, t in tensors.items() if not k.startswith(_STATISTICS)}
    prefix = "model." if all(k.startswith("model.") for k in kept) else ""
    return {k.removeprefix(prefix): t for k, t in kept.items()}


def _original_names(config: ACTConfig) -> dict[str, str]:
    """Return the original's name of each tensor that it has a place for, by ours."""
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
    """Refuse options that are not at their defaults."""
    homeless = [name for name in options if getattr(config, name) != ACTConfig.model_fields[name].default]
    if homeless:
        raise InputError(
            f"{receiver} has no place for {', '.join(f'{name} = {getattr(config, name)!r}' for name in homeless)}. "
            f"Leave {', '.join(homeless)} at the default"
        )


def _on_meta(config: ACTConfig) -> ACT:
    with torch.device("meta"):
        return ACT(config, fill_vision=False)


def _check(tensors: dict[str, Tensor], config: ACTConfig) -> None:
    if faults := mismatches(tensors, _on_meta(config)):
        raise InputError(
            f"needed the tensors of an ACT of this config; {len(faults)} do not fit: "
            f"{'; '.join(faults[:4])}. Set dimensions, chunk_size, widths, layers and cameras as they were."
        )
