"""The small config, made available to the tests of this folder and of the policies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tactile_align.config.train import TrainConfig

TOWER = {"model": "ViT-demo", "pretrained": "scratch", "stem": "conv", "image_size": [48, 32]}
POLICY = {
    "chunk_size": 6,
    "d_model": 16,
    "heads": 2,
    "ffn_dim": 32,
    "encoder_layers": 1,
    "vae_layers": 1,
    "latent_dim": 4,
}


def small_training(recording: Path, out: Path, **changes: Any) -> TrainConfig:
    """Return a small config over a simulated recording; changes replace top-level entries, tables key by key."""
    entries: dict[str, Any] = {
        "data": [{"path": str(recording), "rig": str(recording / "rig.toml")}],
        "views": [{"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2}],
        "out": str(out),
        "features": {"vision": TOWER, "dim": 16, "margin": 2.2},
        "hsa": {"min_gap": 8, "learn_temperature": True},
        "policy": POLICY,
        "optimiser": {"lr": 1e-3, "lr_tower": 1e-3, "lr_head": 1e-3, "warmup_steps": 2},
        "augment": {"shift_px": 3, "gain": 0.2, "shuffle_channels": 0.5},
        "batch_size": 12,
        "contact_share": 0.75,
        "steps": 6,
        "held_out": 1,
        "validate_every": 3,
        "validation_batches": 2,
        "save_every": 3,
        "keep_last": 5,
        "cache": str(recording.parent / "cache"),
        "device": "cpu",
    }
    for name, value in changes.items():
        entries[name] = {**entries[name], **value} if isinstance(value, dict) and name in entries else value
    return TrainConfig.model_validate(entries)


@pytest.fixture
def small_config(regrasp_folder: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return a maker of small configs over the simulated recording; see `small_training`."""

    def make(out: str = "run", recording: Path = regrasp_folder, **changes: Any) -> TrainConfig:
        return small_training(recording, tmp_path / out, **changes)

    return make
