"""Presets: named sets of default values. The entries of a config file override them."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from tactile_align.config.policy import OF_ACT
from tactile_align.errors import InputError

Preset = Literal["conservative", "balanced", "aggressive", "tiny"]

_ORIGINAL: dict[str, Any] = {
    "batch_size": 16,
    "contact_share": "natural",
    "steps": 30000,
    "validate_every": 500,
    "save_every": 10000,
    "held_out": 0.02,
    "test": 0,
    "optimiser": {"lr": 2e-5, "lr_backbone": 2e-5, "lr_tower": 2e-5, "lr_head": 2e-5},
    "policy": {"vision": "resnet18", "chunk_size": 45, "d_model": 512, "ffn_dim": 3200, "kl_weight": 10.0},
}
SMALL_TOWER = {"model": "ViT-demo", "pretrained": "scratch", "stem": "conv"}
"""Options of a small ViT with random initial weights, for laptops."""
SMALL_ACT = {
    "chunk_size": 10,
    "d_model": 64,
    "heads": 4,
    "ffn_dim": 256,
    "encoder_layers": 1,
    "vae_layers": 1,
    "latent_dim": 8,
}
"""Options of a small ACT policy, for laptops."""
PRETRAINING: dict[str, Any] = {
    "train_policy": False,
    "hsa": {"weight": 0.0},
    "select_by": "last",
    "optimiser": {"lr_tower": 5e-4, "lr_head": 5e-4, "weight_decay": 0.05, "clip_norm": 1.0, "warmup_steps": 100},
    "steps": 1000,
    "validate_every": 100,
}
"""Default values of a config with [pretrain]. The learning rate and the weight decay are those of LeJEPA."""
PRESETS: dict[Preset, dict[str, Any]] = {
    # The three presets of the original implementation differ only in weight and temperature of the alignment loss.
    "conservative": {**_ORIGINAL, "hsa": {"weight": 0.5, "temperature": 0.07}},
    "balanced": {**_ORIGINAL, "hsa": {"weight": 1.0, "temperature": 0.07}},
    "aggressive": {**_ORIGINAL, "hsa": {"weight": 2.0, "temperature": 0.05}},
    "tiny": {
        "batch_size": 32,
        "steps": 400,
        "validate_every": 100,
        "save_every": 400,
        "features": {"vision": SMALL_TOWER, "dim": 64, "margin": 2.2},
        "hsa": {"weight": 1.0, "learn_temperature": True, "min_gap": 8},
        "policy": SMALL_ACT,
        "optimiser": {"lr": 1e-3, "lr_tower": 1e-3, "lr_head": 1e-3, "warmup_steps": 40},
    },
}


DENOISER_LR = 1e-4
"""Smallest learning rate of the heads flow and diffusion in a preset: that of Diffusion Policy for a width of 256 to
512. The original's rate, 2e-5, is for ACT."""


def _for_denoiser(preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset for the heads flow and diffusion: no options of ACT, and Diffusion Policy's optimiser."""
    policy = {name: value for name, value in preset["policy"].items() if name not in OF_ACT}
    recipe = {"lr": max(DENOISER_LR, preset["optimiser"]["lr"]), "betas": (0.95, 0.999), "clip_norm": 1.0, "ema": 0.999}
    return {**preset, "policy": policy, "optimiser": {**preset["optimiser"], **recipe}}


def with_preset(data: Mapping[str, Any], source: str, head: str | None = None) -> dict[str, Any]:
    """Return the entries of a config merged with the entries of the preset that the key `preset` selects.

    Tables are merged key by key. If both the config and the preset have a key, the value of the config is used. With
    policy.head = "flow" or "diffusion", the preset has Diffusion Policy's optimiser and no options of ACT. A config
    with [pretrain] gets the entries of PRETRAINING in place of a preset.

    Args:
        data: The content of the config file.
        source: Name of the config file, for the error message.
        head: Action head that the entries get later, such as that of a study's row; None: the one that they state.

    Raises:
        InputError: The preset does not exist (the message lists the existing presets), or the config has [pretrain].
    """
    stated = {name: value for name, value in data.items() if name != "preset"}
    if "pretrain" in data:
        if "preset" in data:
            raise InputError(
                f"{source}: a preset is for a run that trains a policy; got preset = {data['preset']!r} with "
                f"[pretrain]. Remove the key `preset`"
            )
        return _over(PRETRAINING, stated)
    if "preset" not in data:
        return stated
    name = data["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(
            f"{source}: unknown preset {name!r}; the presets are {', '.join(get_args(Preset))}. Choose one of these, "
            f"or remove the key `preset`"
        )
    head = head or stated_head(stated) or "act"
    return _over(PRESETS[name] if head == "act" else _for_denoiser(PRESETS[name]), stated)


def stated_head(entries: Mapping[str, Any]) -> str | None:
    """Return the entry policy.head of a config; None if the config does not state it."""
    policy = entries.get("policy")
    return policy.get("head") if isinstance(policy, Mapping) else None


def _over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in top.items():
        below = merged.get(name)
        merged[name] = _over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
