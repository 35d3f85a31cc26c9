"""Small config of a policy on joints alone, for the tests of action heads."""

from pathlib import Path
from typing import Any

from tactile_align.config.train import TrainConfig

SHAPE = {"chunk_size": 6, "d_model": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1}
BLIND = {"vision": "none", "region_tokens": False, "touch_tokens": False}


def on_joints(recording: Path, out: Path, head: str, **changes: Any) -> TrainConfig:
    """Return a config over a simulated recording whose policy uses no image; changes replace top-level entries."""
    own = {"vae_layers": 1, "latent_dim": 4} if head == "act" else {"denoiser": {"layers": 2}}
    entries: dict[str, Any] = {
        "data": [{"path": str(recording), "rig": str(recording / "rig.toml")}],
        "out": str(out),
        "hsa": {"weight": 0.0},
        "policy": {"head": head, **SHAPE, **BLIND, **own},
        "optimiser": {"lr": 2e-3, "warmup_steps": 2, "ema": 0.9, "clip_norm": 1.0},
        "batch_size": 16,
        "contact_share": "natural",
        "steps": 4,
        "held_out": 1,
        "validate_every": 2,
        "validation_batches": 2,
        "save_every": 2,
        "keep_last": 5,
        "log": {"every": 1},
        "cache": str(recording.parent / "cache"),
        "device": "cpu",
    }
    return TrainConfig.model_validate({**entries, **changes})
