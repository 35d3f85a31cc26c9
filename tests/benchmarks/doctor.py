"""Does the doctor raise false alarms, and at what cost: `python -m tests.benchmarks.doctor RECORDING [SEEDS]`.

RECORDING is a folder of simulated episodes with its rig.toml. Prints one line a healthy seed of the tiny
model, then one for a demo-size model. Exits 1 where a seed of the tiny model raises an alarm.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from tactile_align.config.presets import SMALL_ACT, SMALL_TOWER
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.training.data import Data, load_data

SMALL = {"d_model": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "vae_layers": 1, "latent_dim": 4}


def config_of(
    recording: Path, cache: Path, tower: dict[str, object], policy: dict[str, object], batch: int
) -> TrainConfig:
    """Return a healthy config."""
    return TrainConfig.model_validate(
        {
            "data": [{"path": str(recording), "rig": str(recording / "rig.toml")}],
            "views": [{"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2}],
            "features": {"vision": tower, "dim": 16 if batch < 16 else 128, "margin": 2.2},
            "hsa": {"min_gap": 8, "learn_temperature": True},
            "policy": policy,
            "optimiser": {"lr": 1e-3, "lr_tower": 1e-3, "lr_head": 1e-3, "warmup_steps": 40},
            "augment": {"shift_px": 3},
            "batch_size": batch,
            "contact_share": 0.75,
            "held_out": 1,
            "cache": str(cache),
        }
    )


def line(name: str, config: TrainConfig, data: Data) -> int:
    """Print one diagnosis in a line and return its alarms."""
    began, busy = time.perf_counter(), time.process_time()
    report = diagnose(config, data=data, parts=["data", "model", "learning"])  # the part memory takes a fixed time
    busy, wall = time.process_time() - busy, time.perf_counter() - began
    counts = {status: [c.id for c in report.checks if c.status == status] for status in ("fail", "warn")}
    which = ", ".join(counts["fail"] + counts["warn"])
    print(f"| {name} | {len(counts['fail'])} | {len(counts['warn'])} | {which} | {busy:.1f} | {wall:.1f} |", flush=True)
    return len(counts["fail"] + counts["warn"])


def main() -> int:
    """Print the table; return 1 where the tiny model raises an alarm."""
    recording, seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    torch.set_num_threads(1)
    print("| healthy run | fail | warn | which | CPU s | wall s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        small = config_of(
            recording, Path(folder), {**SMALL_TOWER, "image_size": [48, 32]}, {**SMALL, "chunk_size": 6}, 12
        )
        data = load_data(small, progress=False)
        alarms = sum(line(f"tiny, seed {seed}", small.model_copy(update={"seed": seed}), data) for seed in range(seeds))
        demo = config_of(recording, Path(folder), SMALL_TOWER, SMALL_ACT, 64)
        line("demo size, batch 64", demo, load_data(demo, progress=False))
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
