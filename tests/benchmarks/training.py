"""What alignment costs in training and acting: `python tests/benchmarks/training.py RECORDING`.

RECORDING is a folder of simulated episodes with its rig.toml. Prints a step of ACT alone, of ACT beside HSA, and of ACT
beside HSA the original's way (one image at a time through PIL); the share of a step spent waiting for data; one
`Policy.act`, tiny and with an ACT of the paper's size. CPU time of one thread.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tactile_align.config.train import TrainConfig
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.features.encoder import Encoder
from tactile_align.policies.runtime import Policy
from tactile_align.training.data import load_data
from tactile_align.training.loop import make_trainer, train
from tactile_align.training.step import Trainer

STEPS, ACTS = 12, 20
TOWER = {"model": "ViT-demo", "pretrained": "scratch", "stem": "conv"}
TINY = {"chunk_size": 10, "d_model": 64, "heads": 4, "ffn_dim": 256, "encoder_layers": 1, "vae_layers": 1}


class OneByOne(Encoder):
    """The original's way: each image alone, by way of PIL, through the encoder."""

    def tokens(self, images: Tensor) -> Tensor:
        """See Encoder."""
        return torch.cat([super(OneByOne, self).tokens(by_way_of_pil(image)) for image in images])


def by_way_of_pil(image: Tensor) -> Tensor:
    """Take one image off the device, through PIL's resize, and back."""
    picture = Image.fromarray(image.cpu().numpy())
    picture = picture.resize((picture.width * 2, picture.height * 2)).resize((picture.width, picture.height))
    return torch.from_numpy(np.asarray(picture).copy())[None].to(image.device)


def config_of(recording: Path, out: Path, **changes: Any) -> TrainConfig:
    """Return a demo-size run at batch 16."""
    entries: dict[str, Any] = {
        "data": [{"path": str(recording), "rig": str(recording / "rig.toml")}],
        "views": [{"camera": "left_wrist", "sensor": "tactile1", "zoom": 2.2}],
        "features": {"vision": TOWER, "dim": 128, "margin": 2.2},
        "hsa": {"min_gap": 8},
        "policy": TINY,
        "augment": {"shift_px": 8, "gain": 0.3},
        "contact_share": 0.75,
        "batch_size": 16,
        "held_out": 1,
        "out": str(out),
        "cache": str(out.parent / "cache"),
    }
    return TrainConfig.model_validate({**entries, **changes})


def seconds(trainer: Trainer, rows: list[list[int]]) -> tuple[float, float]:
    """Return the median seconds of a step and of getting its batch."""
    clock = time.perf_counter if trainer.group.device.type == "cuda" else time.process_time
    steps, waits = [], []
    for step, indices in enumerate(rows):
        began = clock()
        batch = trainer.data.train.batch(indices).to(trainer.group.device)
        loaded = clock()
        trainer.step(batch, step)
        if trainer.group.device.type == "cuda":
            torch.cuda.synchronize()
        steps.append(clock() - loaded)
        waits.append(loaded - began)
    return float(np.median(steps[2:])), float(np.median(waits[2:]))


def steps_table(recording: Path, out: Path) -> None:
    """Print the cost of a step, three ways."""
    whole = config_of(recording, out)
    data = load_data(whole, progress=False)
    rng = np.random.default_rng(0)
    rows = [rng.choice(len(data.train), 16, replace=False).tolist() for _ in range(STEPS)]
    plain = {**TINY, "vision": "none", "region_tokens": False, "touch_tokens": False}
    alone = config_of(recording, out, policy=plain, hsa={"weight": 0.0, "min_gap": 8})
    print("| step at batch 16 | ms | data ms | data share |\n|---|---|---|---|")
    for name, config in (("ACT alone", alone), ("ACT + HSA", whole), ("ACT + HSA, one image at a time", whole)):
        trainer = make_trainer(config, data)
        if "one image" in name and trainer.model.alignment is not None:
            trainer.model.alignment.towers.vision.__class__ = OneByOne  # shared with the touches
        step, wait = seconds(trainer, rows)
        print(f"| {name} | {1000 * step:.1f} | {1000 * wait:.2f} | {wait / (step + wait):.1%} |", flush=True)


def acting_table(recording: Path, out: Path) -> None:
    """Print the cost of `Policy.act`."""
    print("\n| Policy.act | parameters | ms, median | ms, slowest |\n|---|---|---|---|")
    full: dict[str, Any] = {"vision": "resnet18"} | {
        "cameras": ["top", "left_wrist"],
        "image_size": [320, 240],
        "vision_weights": "scratch",
    }
    for name, policy in (("tiny ACT", TINY), ("ACT of the paper's size, 2 cameras", full)):
        folder = out.with_name(name.replace(" ", "_").replace(",", "").replace("'", ""))
        config = config_of(recording, folder, policy=policy, steps=1, batch_size=4, validation_batches=1)
        acting = Policy.load(train(config, progress=False))
        with open_episode(list_episodes(recording)[0]) as episode:
            seen = {
                "qpos": episode.qpos[0],
                "images": {name: episode.image(name, 0) for name in episode.cameras},
                "touches": {name: episode.image(name, 0) for name in episode.sensors},
            }
        taken = []
        for _ in range(ACTS):
            began = time.process_time()
            acting.act(seen)
            taken.append(1000 * (time.process_time() - began))
        count = sum(p.numel() for p in acting.model.parameters())
        print(f"| {name} | {count:,} | {np.median(taken):.1f} | {max(taken):.1f} |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps_table(arguments.recording, Path(folder) / "run")
        acting_table(arguments.recording, Path(folder) / "run")


if __name__ == "__main__":
    main()
