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
        towers: Towers of the model.
        h_tau: (B, dim) touch features at B moments.
        images: (B, H, W, 3) uint8 RGB, input of the vision encoder.
        box: (B, 4) boxes of the sensor in `images`, px; only their widths and heights are used.
        sigma: (B, 2) standard deviations of the box positions, px, for features.sigma_px = "rig".

    Returns:
        (B, rows, columns) cosine similarities.
    """
    return maps_of(towers, h_tau, towers.of_boxes(images, grid_places(towers, box), sigma))


def grid_places(towers: Towers, box: Tensor) -> Tensor:
    """Return, for each of B boxes (B, 4), boxes of its size around every token, (B, rows * columns, 4), px."""
    centres = token_centres(towers.vision.input_size, towers.vision.grid).to(box).flatten(0, 1)
    half = (box[:, 2:] - box[:, :2])[:, None] / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def maps_of(towers: Towers, h_tau: Tensor, regions: Tensor) -> Tensor:
    """Return the cosines of B touches with the features of the boxes that `grid_places` returns, (B, rows, columns)."""
    cosine = torch.nn.functional.cosine_similarity(h_tau[:, None].float(), regions.float(), dim=-1)
    return cosine.unflatten(1, towers.vision.grid)


def token_centres(input_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the pixel coordinates (u, v) of the token centres, (rows, columns, 2)."""
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
    """Return width and height (N, 2) of a pixel, mm, at N depths (N,), m, for an image with intrinsics K (3, 3)."""
    return np.asarray(1000.0 * depth_m[:, None] / np.abs([K[0, 0], K[1, 1]]))
