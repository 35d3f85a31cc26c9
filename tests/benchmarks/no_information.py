"""Training on images that tell nothing of each other; exit 1 when a bar is missed.

Run it with `python -m tests.benchmarks.no_information [NAME ...] [--steps N]`; no name means all combinations.

Touches and camera images are unrelated textures, paired anew at each step. Two small towers train from scratch. The
loss must stay at chance, in the last 50 steps and on held-out pairs, and held-out retrieval within its binomial
interval around 1/64. A box and the boxes beside it show the same kind of texture, but their places in the image may
differ: with 2 region negatives in a batch of 32, a model that knows the place of its box reaches ln 32 / ln 34 = 0.98.

A bank of 512 is up to 16 steps old, and the copy of the towers moves in these steps, so the training loss can use the
age of a key: 0.95 of chance after 300 steps. If the bank's negatives cost nothing, it is ln 32 / ln 544 = 0.55.
Held-out pairs are compared without the bank.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import binom

from tactile_align.config.features import EncoderConfig, FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.moments.batch import MomentBatch, TouchBatch, ViewBatch
from tactile_align.policies.alignment import Alignment, View

COMBINATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "symmetric": {"symmetric": True, "learn_temperature": True},
    "bank": {"symmetric": True, "bank": 512},
    "regions": {"region_negatives": 2, "hardness": 0.5},
    "bank-and-regions": {"symmetric": True, "bank": 512, "region_negatives": 2, "touch_ceiling": 0.9},
    "hardest": {"symmetric": True, "hardest": 8, "temperature_final": 0.07, "temperature": 0.2},
}
LOWEST, LOWEST_WITH_BANK = 0.97, 0.9
"""Loss as a share of chance; the second is the bar of the training loss with a bank."""
WIDTH, HEIGHT, BATCH, MOMENTS, GALLERY, BOX = 64, 48, 32, 512, 64, 14.0
VIEW = View("wrist-touch", "wrist", "touch", 1.0)


def textures(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return (count, HEIGHT, WIDTH, 3) uint8 images of smooth noise."""
    coarse = torch.rand(count, 3, HEIGHT // 6, WIDTH // 6, generator=generator)
    fine = F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
    return (255 * fine).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def moments(count: int, seed: int) -> MomentBatch:
    """Return moments of `count` episodes: textures with a box at a random place, and touches of their own."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH - BOX, HEIGHT - BOX]) - 0.5
    every = torch.ones(count, dtype=torch.bool)
    zeros = torch.zeros(count, dtype=torch.int64)
    view = ViewBatch(textures(count, generator), torch.cat([corner, corner + BOX], dim=1), every)
    touch = TouchBatch(image=textures(count, generator), contact=every, contact_index=zeros)
    low = {"qpos": torch.zeros(count, 7), "qpos_raw": torch.zeros(count, 7), "action": torch.zeros(count, 1, 7)}
    rows = {"is_pad": every[:, None], "episode": torch.arange(count), "time": zeros}
    return MomentBatch(views={VIEW.key: view}, touches={VIEW.sensor: touch}, **low, **rows)


def permuted(batch: MomentBatch, generator: torch.Generator) -> MomentBatch:
    """Return the moments with their touches exchanged."""
    touch = batch.touches[VIEW.sensor]
    image = touch.image[torch.randperm(len(batch), generator=generator)]
    return replace(batch, touches={VIEW.sensor: replace(touch, image=image)})


def train(hsa: HSAConfig, steps: int) -> tuple[Alignment, list[float]]:
    """Return the towers after `steps` steps, and loss / chance at each step."""
    torch.manual_seed(0)
    tower = EncoderConfig(model="ViT-demo", pretrained="scratch", stem="conv", image_size=(WIDTH, HEIGHT))
    model = Alignment(FeatureConfig(vision=tower, touch=tower, dim=32), hsa, (VIEW,)).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    every, generator, found = moments(MOMENTS, 0), torch.Generator().manual_seed(1), []
    for step in range(steps):
        batch = permuted(every.rows(torch.randperm(MOMENTS, generator=generator)[:BATCH]), generator)
        model.at_step(step)
        copied = model.copied(batch)
        loss, log = model(batch, model.see(batch), copied=copied)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if copied is not None:
            model.remember([(batch, copied)])
        found.append(float(log[f"hsa/{VIEW.key}"] / log[f"chance/{VIEW.key}"]))
    return model.eval(), found


@torch.no_grad()
def held_out(model: Alignment, times: int = 8) -> tuple[float, int, int]:
    """Return loss / chance over held-out moments, and the retrieval hits among GALLERY regions of how many touches."""
    every, generator = moments(GALLERY * times, 99), torch.Generator().manual_seed(2)
    ratios, hits = [], 0.0
    for rows in torch.arange(GALLERY * times).chunk(times):
        batch = permuted(every.rows(rows), generator)
        _, log = model(batch, model.see(batch))
        ratios.append(float(log[f"hsa/{VIEW.key}"] / log[f"chance/{VIEW.key}"]))
        hits += GALLERY * float(log[f"r1/{VIEW.key}"])
    return sum(ratios) / times, round(hits), GALLERY * times


def main(argv: Sequence[str] | None = None) -> int:
    """Train the combinations, print a row for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(COMBINATIONS))
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    missed = 0
    print("| combination | loss / chance, last 50 steps | held out | R@1 of 64 | 99 % of chance | CPU s |")
    print("|---|---|---|---|---|---|")
    for name in arguments.names:
        options = dict(COMBINATIONS[name])
        if "temperature_final" in options:
            options["temperature_steps"] = arguments.steps
        began = time.process_time()
        model, found = train(HSAConfig(**options), arguments.steps)
        trained = sum(found[-50:]) / len(found[-50:])
        ratio, hits, asked = held_out(model)
        low, high = binom.interval(0.99, asked, 1 / GALLERY)
        seconds = time.process_time() - began
        bounds = f"{low / asked:.3f} to {high / asked:.3f}"
        print(f"| {name} | {trained:.3f} | {ratio:.3f} | {hits / asked:.3f} | {bounds} | {seconds:.0f} |", flush=True)
        bar = LOWEST_WITH_BANK if "bank" in options else LOWEST
        missed += not (trained >= bar and ratio >= LOWEST and low <= hits <= high)
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
