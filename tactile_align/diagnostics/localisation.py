"""Localisation (the pointing game) by the similarity of a touch feature, h_tau, to regions all over the image."""

import numpy as np
import torch
from torch import Tensor

from tactile_align.diagnostics.intervals import mean_interval
from tactile_align.diagnostics.summary import Localisation
from tactile_align.errors import InputError
from tactile_align.features.towers import Towers


@torch.no_grad()
def similarity_maps(towers: Towers, h_tau: Tensor, images: Tensor, box: Tensor, sigma: Tensor | None = None) -> Tensor:
    """Return the cosine similarity of each touch with regions of the box's size around all tokens of its image.

    Args:
        towers: Touch and vision encoders (towers) of the model.
        h_tau: (B, dim) touch features at B moments.
        images: (B, H, W, 3) uint8 RGB, input of the vision encoder.
        box: (B, 4) boxes of the sensor in `images`, px; only their widths and heights are used.
        sigma: (B, 2) standard deviations of the box positions, px; needed if the config has features.sigma_px = "rig".

    Returns:
        (B, rows, columns) cosine similarities; rows and columns are those of the token grid.
    """
    return maps_of(towers, h_tau, towers.of_boxes(images, grid_places(towers, box), sigma))


def grid_places(towers: Towers, box: Tensor) -> Tensor:
    """Return boxes that have the width and height of a given box and are centred on every token.

    Args:
        towers: Encoders (towers) of the model; their vision encoder states the token grid.
        box: (B, 4) given boxes, px of the encoder's input.

    Returns:
        (B, rows * columns, 4) boxes, px; rows and columns are those of the token grid.
    """
    centres = token_centres(towers.vision.input_size, towers.vision.grid).to(box).flatten(0, 1)
    half = (box[:, 2:] - box[:, :2])[:, None] / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def maps_of(towers: Towers, h_tau: Tensor, regions: Tensor) -> Tensor:
    """Return the cosine similarity of each touch with the regions around all tokens of its image.

    Args:
        towers: Encoders (towers) of the model; their vision encoder states the token grid.
        h_tau: (B, dim) features of B touches.
        regions: (B, rows * columns, dim) features of the boxes that `grid_places` returns.

    Returns:
        (B, rows, columns) cosine similarities.
    """
    cosine = torch.nn.functional.cosine_similarity(h_tau[:, None].float(), regions.float(), dim=-1)
    return cosine.unflatten(1, towers.vision.grid)


def token_centres(input_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the coordinates (u, v) of the token centres, (rows, columns, 2), px of the encoder's input.

    Args:
        input_size: (width, height) of the encoder's input, px.
        grid: (rows, columns) of the token grid.
    """
    (width, height), (rows, columns) = input_size, grid
    u = (torch.arange(columns, dtype=torch.float64) + 0.5) * width / columns - 0.5
    v = (torch.arange(rows, dtype=torch.float64) + 0.5) * height / rows - 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


def localise(
    maps: np.ndarray,
    box: np.ndarray,
    input_size: tuple[int, int],
    episode: np.ndarray,
    *,
    mm_per_px: np.ndarray | None = None,
) -> Localisation:
    """Return how often the region most similar to a touch lies in the sensor's box (the pointing game).

    Args:
        maps: (N, rows, columns) similarities at N moments; see `similarity_maps`.
        box: (N, 4) boxes of the sensor, px of the encoder's input.
        input_size: (width, height) of the encoder's input, px.
        episode: (N,) episode of each moment.
        mm_per_px: (N, 2) width and height of a pixel of the encoder's input at the sensor's depth, mm. The two differ
            if the frame was stretched.

    Raises:
        InputError: A similarity is non-finite.
    """
    if not np.isfinite(maps).all():
        rows = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))[:5].tolist()
        raise InputError(f"maps {rows} are non-finite, but all must be finite. Check these moments' features")
    centres = token_centres(input_size, maps.shape[1:]).numpy().reshape(-1, 2)  # type: ignore[arg-type]
    flat = maps.reshape(len(maps), -1)
    best = flat >= flat.max(axis=1, keepdims=True)
    # Tied places share the hit, so a constant map hits as often as chance.
    share = best / best.sum(axis=1, keepdims=True)
    inside = ((centres >= box[:, None, :2]) & (centres <= box[:, None, 2:])).all(axis=2)
    away = centres - ((box[:, :2] + box[:, 2:]) / 2)[:, None]

    def median(scale: np.ndarray | float) -> float:
        return float(np.median((share * np.linalg.norm(away * scale, axis=2)).sum(axis=1)))

    hits = (share * inside).sum(axis=1)
    return Localisation(
        hit=float(hits.mean()),
        interval=mean_interval(hits, episode),
        chance=float(inside.mean()),
        always_there=float(inside.mean(axis=0).max()),
        distance_px=median(1.0),
        distance_mm=None if mm_per_px is None else median(mm_per_px[:, None]),
        moments=len(maps),
        episodes=len(np.unique(episode)),
    )


def millimetres_per_pixel(depth_m: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Return the width and height, mm, that a pixel covers at each of N depths, (N, 2).

    Args:
        depth_m: (N,) depths, m.
        K: (3, 3) camera intrinsics of the image, px.
    """
    return np.asarray(1000.0 * depth_m[:, None] / np.abs([K[0, 0], K[1, 1]]))
