"""Which stripes of `look` show the class in the crop at the box and not in the whole frame?

A ridge regression and a small convolutional network are trained to tell the two classes, once on whole frames and once
on crops, both 64 x 64 px, for each width and contrast of the stripes. The episodes have seeds that no study uses. Run
from the root of the repository:

    python -m tests.benchmarks.marks
"""

from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import nn

from tactile_align.config.cell import CellOptions
from tactile_align.datasets.codec import decode, encode_jpeg
from tactile_align.simulation.cell import Cell
from tactile_align.simulation.record import CAMERA_QUALITY
from tactile_align.simulation.world import World

CAMERA = "left_wrist"
NOISE = 3.0  # grey levels
STRIPES = ((1.2, 0.15), (1.2, 0.3), (2.4, 1.0))  # width, mm, and contrast
SEEDS, TRAINED_ON, FIRST = 60, 40, 500_000
MOMENTS = (16, 20, 24, 27)  # above the object, around it, in the grip, lifted
SIDE, ZOOM = 64, 2.2


def pictures(seed: int) -> dict[tuple[tuple[float, float], str], np.ndarray]:
    """Return pictures (2 classes, moments, 64, 64, 3) of an episode by (stripes, "whole" or "crop")."""
    cell = Cell("look", cameras=())
    cell.reset(seed, 0)
    states = [cell.world.data.qpos.copy() for t, _ in enumerate(cell.demonstrate()) if t in MOMENTS]
    out: dict[tuple[tuple[float, float], str], list[np.ndarray]] = {}
    for stripes in STRIPES:
        options = CellOptions(stripe_mm=stripes[0], mark_contrast=stripes[1])
        for cls in (0, 1):
            look, rngs = (
                cell.task.look(np.random.default_rng(0), cls, options),
                {CAMERA: np.random.default_rng((seed, cls))},
            )
            world = World(cell.rig, look, camera_noise=NOISE, noise_rngs=rngs)
            for qpos in states:
                world.data.qpos[:] = qpos
                world.settle()
                picture, box, _ = world.look_through(CAMERA)
                # As the recorder stores it and as training reads it.
                image = decode(encode_jpeg(world._with_noise(picture.rgb, CAMERA), CAMERA_QUALITY))
                whole = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                middle, half = (box[:2] + box[2:]) / 2, ZOOM * (box[2:] - box[:2]).max() / 2
                M = np.array([[SIDE / 2 / half, 0, SIDE / 2 - middle[0] * SIDE / 2 / half],
                              [0, SIDE / 2 / half, SIDE / 2 - middle[1] * SIDE / 2 / half]])  # fmt: skip
                crop = cv2.warpAffine(image, M, (SIDE, SIDE), flags=cv2.INTER_AREA)
                out.setdefault((stripes, "whole"), []).append(whole)
                out.setdefault((stripes, "crop"), []).append(crop)
    return {key: np.stack(images).reshape(2, len(states), SIDE, SIDE, 3) for key, images in out.items()}


def accuracy(images: np.ndarray, seed: int = 0) -> float:
    """Return the share of right answers on the last episodes; `images` is (episodes, 2 classes, moments, 64, 64, 3)."""
    torch.manual_seed(seed)
    x = torch.from_numpy(images).float().div(255).sub(0.4).permute(0, 1, 2, 5, 3, 4)
    y = torch.arange(2)[None, :, None].expand(x.shape[:3])
    (a, b), (u, v) = ((t[:TRAINED_ON].flatten(0, 2), t[TRAINED_ON:].flatten(0, 2)) for t in (x, y))
    widths = (3, 16, 32, 32)
    layers = [nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in pairwise(widths)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * 64, 2))
    steps, rate = 300, 2e-3
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(a), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(a[rows]), u[rows]).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return float((model.eval()(b).argmax(1) == v).float().mean())


def linear_accuracy(images: np.ndarray) -> float:
    """Return the share of right answers of a ridge regression on the pixels; `images` as for `accuracy`."""
    x = images.reshape(*images.shape[:3], -1).astype(float) / 255
    a, b = x[:TRAINED_ON], x[TRAINED_ON:]
    y, truth = (np.broadcast_to([[[-1.0], [1.0]]], t.shape[:3]).ravel() for t in (a, b))
    a, b = a.reshape(len(y), -1), b.reshape(len(truth), -1)
    middle = a.mean(axis=0)
    weights = np.linalg.solve((a - middle) @ (a - middle).T + 0.1 * np.eye(len(y)), y)
    return float(((b - middle) @ (a - middle).T @ weights * truth > 0).mean())


def main() -> None:
    torch.set_num_threads(1)
    found = [pictures(FIRST + number) for number in range(SEEDS)]
    print("share of right answers (chance 0.5): linear probe, then three networks")
    for stripes in STRIPES:
        for place in ("whole", "crop"):
            images = np.stack([f[stripes, place] for f in found])
            networks = " ".join(f"{accuracy(images, seed):.2f}" for seed in range(3))
            print(f"stripes {stripes[0]} mm, contrast {stripes[1]}, {place}: {linear_accuracy(images):.2f}; {networks}")


if __name__ == "__main__":
    main()
