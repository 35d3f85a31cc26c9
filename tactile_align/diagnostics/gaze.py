"""Similarity maps of touches over images, and attention of the policy on its inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tactile_align.diagnostics.localisation import similarity_maps
from tactile_align.errors import InputError
from tactile_align.features.towers import POLICY_GRID
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.act import ACT
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import LoadedRun

ROWS = 64
"""Number of moments in a batch."""


@dataclass(frozen=True)
class Pointing:
    """Similarity of B touches to regions all over the images of one view.

    Attributes:
        images: (B, H, W, 3) uint8 RGB, the vision encoder's input.
        touches: (B, h, w, 3) uint8 RGB touch images.
        box: (B, 4) box of the sensor in `images`, px; nan for a moment without a box.
        similarity: (B, rows, columns) cosine similarity of the touch feature h_tau with regions of the box's size
            around each token.
    """

    images: np.ndarray
    touches: np.ndarray
    box: np.ndarray
    similarity: np.ndarray


@torch.no_grad()
def pointing(run: LoadedRun, key: str, rows: Sequence[int]) -> Pointing:
    """Return the similarity of touches to regions all over the images of one view.

    Args:
        run: Run with touch and vision encoders (towers).
        key: Key of the view.
        rows: Indices of moments that have a box.

    Raises:
        InputError: The model has no encoders (hsa.weight = 0), or does not use the image region (region = "opening").
    """
    alignment, region = run.model.alignment, run.config.region
    if alignment is None or region != "box":
        raise InputError(
            f"a similarity map requires a model with encoders and region = 'box'; this model has "
            f"{'no touch and vision encoders' if alignment is None else 'region = ' + repr(region)}. "
            f"Use a run with hsa.weight > 0 and region = 'box'"
        )
    view, batch = run.view(key), run.batch(rows)
    part, touches = batch.views[key], batch.touches[view.sensor].present
    tau = run.model.see(batch, action=False).touches[view.sensor].vector
    box, sigma = alignment.finite_box(batch, view), alignment.sigma(batch, view)
    found = similarity_maps(alignment.towers, tau, part.image, box, sigma)
    return Pointing(
        images=part.image.cpu().numpy(),
        touches=touches.cpu().numpy(),
        box=part.box.cpu().numpy().astype(np.float64),
        similarity=found.cpu().double().numpy(),
    )


@dataclass(frozen=True)
class Attention:
    """Attention of the policy on each kind of input token, at B moments.

    Attributes:
        shares: By kind of token, (B,) share of the attention; at each moment, the shares sum to 1. The kinds are
            "joints", "latent", "camera NAME", "region VIEW", "touch SENSOR" and "point VIEW".
        maps: By kind of token, (B, rows, columns) attention on each token of an image; only for the kinds that come
            from the touch and vision encoders: regions, touches, and the cameras whose frames the vision encoder
            encodes.
    """

    shares: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]


@torch.no_grad()
def attention(run: LoadedRun, rows: Sequence[int]) -> Attention:
    """Return the attention of ACT's last decoder layer on its inputs, averaged over heads and action steps.

    Args:
        run: Run with a policy.
        rows: Indices of the moments.

    Raises:
        InputError: The run trained no policy, or one with another head than ACT's decoder.
    """
    model = run.model
    if not isinstance(model.act, ACT):
        found = "train_policy = false" if model.act is None else f"policy.head = '{model.act.config.head}'"
        raise InputError(
            f"the attention is that of ACT's decoder on its inputs, but this run has {found}. Use a run with "
            f"policy.head = 'act'"
        )
    parts = []
    for start in range(0, len(rows), ROWS):
        parts.append(_decoder_weights(model, model.act, run.batch(rows[start : start + ROWS])))
    weights = np.concatenate(parts)
    shares: dict[str, np.ndarray] = {"latent": weights[:, 0], "joints": weights[:, 1]}
    maps: dict[str, np.ndarray] = {}
    grids = _extra_grids(model)
    first = weights.shape[1] - sum(rows * columns for rows, columns in grids.values())
    cameras = model.act.config.cameras
    if cameras:
        for name, part in zip(cameras, np.split(weights[:, 2:first], len(cameras), axis=1), strict=True):
            shares[f"camera {name}"] = part.sum(axis=1)
    for name, (high, wide) in grids.items():
        part = weights[:, first : first + high * wide]
        shares[name] = part.sum(axis=1)
        if not name.startswith("point "):  # a point is one token, not those of an image
            maps[name] = part.reshape(-1, high, wide)
        first += high * wide
    return Attention(shares, maps)


def _extra_grids(model: AlignedPolicy) -> dict[str, tuple[int, int]]:
    """Return (rows, columns) of the tokens that encoders compute, by kind, in the order of `AlignedPolicy.predict`."""
    if model.alignment is None:
        return {}
    grids = {f"camera {camera}": model.alignment.towers.frame_grid for camera in model.frame_keys}
    square = (POLICY_GRID, POLICY_GRID)
    grids |= {f"region {view.key}": square for view in model.views if model.reads_regions}
    grids |= {f"touch {sensor}": square for sensor in model.sensors if model.touch_to_act is not None}
    return grids | {f"point {key}": (1, 1) for key in model.pointed_keys if model.reads_points}


def _decoder_weights(model: AlignedPolicy, act: ACT, batch: MomentBatch) -> np.ndarray:
    """Return the attention (B, N) of the last decoder layer on each of N input tokens, at B moments."""
    layer: Any = act.decoder.layers[-1]
    caught: list[torch.Tensor] = []

    def ask(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "need_weights": True}

    def catch(module: Any, args: Any, output: Any) -> None:
        caught.append(output[1])

    hooks = [layer.multihead_attn.register_forward_pre_hook(ask, with_kwargs=True)]
    hooks.append(layer.multihead_attn.register_forward_hook(catch))
    try:
        model.predict(batch, model.see(batch))
    finally:
        for hook in hooks:
            hook.remove()
    return np.asarray(caught[0].mean(dim=1).cpu().double().numpy())
