"""The small config, made available to the tests of this folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tactile_align.training.config import TrainConfig

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


@pytest.fixture
def small_config(regrasp_folder: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return a maker of small configs over the simulated recording; changes replace whole top-level entries."""

    def make(out: str = "run", recording: Path = regrasp_folder, **changes: Any) -> TrainConfig:
        entries: dict[str, Any] = {
            "data": [{"path": str(recording), "rig": str(recording / "rig.toml")}],
            "views": [{"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2}],
            "out": str(tmp_path / out),
            "features": {"vision": TOWER, "dim": 16, "margin": 2.2},
            "hsa": {"min_gap": 8, "learn_temperature": True},
            "policy": POLICY,
            "optimiser": {"lr": 1e-3, "lr_encoder": 1e-3, "warmup_steps": 2},
            "augment": {"shift_px": 3, "gain": 0.2, "shuffle_channels": 0.5},
            "batch_size": 12,
            "contact_share": 0.75,
            "steps": 6,
            "held_out": 1,
            "validate_every": 3,
            "validation_batches": 2,
            "save_every": 3,
            "keep_last": 5,
            "cache": str(regrasp_folder.parent / "cache"),
            "device": "cpu",
        }
        return TrainConfig.model_validate({**entries, **changes})

    return make
