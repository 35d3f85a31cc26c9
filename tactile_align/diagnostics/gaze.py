"""Similarity of touches to places in the image, and attention of the policy."""

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
from tactile_align.policies.loaded_run import LoadedRun

ROWS = 64
"""Moments in a batch."""


@dataclass(frozen=True)
class Pointing:
    """Some moments of one view, with the similarity of each touch to every token.

    Attributes:
        images: (B, H, W, 3) uint8 RGB, the vision encoder's input.
        touches: (B, h, w, 3) uint8 RGB.
        box: (B, 4) the sensor's box in `images`, px; nan where there is none.
        similarity: (B, rows, columns) cosine of h_tau with a region of the box's size around each token.
    """

    images: np.ndarray
    touches: np.ndarray
    box: np.ndarray
    similarity: np.ndarray


@torch.no_grad()
def pointing(run: LoadedRun, key: str, rows: Sequence[int]) -> Pointing:
    """Return where the touches of some moments point in one view.

    Args:
        run: A run with towers.
        key: A view's key, CAMERA-SENSOR.
        rows: Which moments; all with a box.

    Raises:
        InputError: The model has no towers, or the region is not looked at.
    """
    alignment, region = run.model.alignment, run.config.region
    if alignment is None or region != "box":
        raise InputError(
            f"a similarity map needs a model that looks at the box; this one has region '{region}' and "
            f"{'no' if alignment is None else 'its'} encoders. Draw a run with hsa.weight > 0 and region = 'box'"
        )
    view, batch = run.view(key), run.batch(rows)
    part, touches = batch.views[key], batch.touches[view.sensor].image
    tau = run.model.see(batch).touches[view.sensor].vector
    box, sigma = alignment.finite_box(batch, view), alignment.sigma(batch, view)
    found = similarity_maps(alignment.towers, tau, part.image, box, sigma)
    return Pointing(
        images=part.image.numpy(),
        touches=touches.numpy(),
        box=part.box.numpy().astype(np.float64),
        similarity=found.double().numpy(),
    )


@dataclass(frozen=True)
class Attention:
    """How much attention each kind of token gets when the policy decides, summed to 1 over all kinds.

    Attributes:
        shares: By kind ("joints", "latent", "camera NAME", "region VIEW", "touch SENSOR"), (B,).
        maps: By kind, for regions and touches, (B, 4, 4) attention on each of their tokens, row by row.
    """

    shares: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]


@torch.no_grad()
def attention(run: LoadedRun, rows: Sequence[int]) -> Attention:
    """Return the attention of ACT's last decoder layer on its inputs, the mean over heads and action steps.

    Args:
        run: A run with a policy.
        rows: Which moments.

    Raises:
        InputError: The run trained no policy.
    """
    model = run.model
    if model.act is None:
        raise InputError("this run trained no policy (train_policy = false), so nothing attends to anything")
    parts = []
    for start in range(0, len(rows), ROWS):
        parts.append(_decoder_weights(model, model.act, run.batch(rows[start : start + ROWS])))
    weights = np.concatenate(parts)
    shares: dict[str, np.ndarray] = {"latent": weights[:, 0], "joints": weights[:, 1]}
    maps: dict[str, np.ndarray] = {}
    extra = _extra_kinds(model)
    first = weights.shape[1] - POLICY_GRID**2 * len(extra)
    cameras = model.act.config.cameras
    if cameras:
        for name, part in zip(cameras, np.split(weights[:, 2:first], len(cameras), axis=1), strict=True):
            shares[f"camera {name}"] = part.sum(axis=1)
    for i, name in enumerate(extra):
        part = weights[:, first + i * POLICY_GRID**2 : first + (i + 1) * POLICY_GRID**2]
        shares[name], maps[name] = part.sum(axis=1), part.reshape(-1, POLICY_GRID, POLICY_GRID)
    return Attention(shares, maps)


def _extra_kinds(model: AlignedPolicy) -> list[str]:
    """Return the kinds of tokens behind the camera's, in the order of `AlignedPolicy.predict`."""
    kinds = [f"region {view.key}" for view in model.views] if model.reads_regions else []
    return kinds + ([f"touch {sensor}" for sensor in model.sensors] if model.reads_touches else [])


def _decoder_weights(model: AlignedPolicy, act: ACT, batch: MomentBatch) -> np.ndarray:
    """Return (B, N) attention on the N input tokens."""
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
    return np.asarray(caught[0].mean(dim=1).double().numpy())
