"""Numbers anybody can make again from a name: the weights and inputs behind act_golden.json.

Only numpy's frozen legacy stream is used, so every version of every library sees the same numbers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

import numpy as np

# Batch, chunk, state, action, width, height, latent: all different, so that no axis can pass for another.
BATCH, CHUNK, STATE, ACTION, HEIGHT, WIDTH, LATENT = 4, 10, 7, 5, 96, 128, 32
CAMERAS = ("top", "wrist")
PADDED = (0, 3, 5, 1)  # padded steps at the end of each row
STEPS = 30  # of ensembling
# The options of each network that is compared, in LeRobot's words.
VARIANTS = {
    "post_norm": {
        "dim_model": 64, "n_heads": 4, "dim_feedforward": 128, "n_encoder_layers": 1, "n_decoder_layers": 1,
        "n_vae_encoder_layers": 1, "pre_norm": False,
    },
    "pre_norm": {
        "dim_model": 64, "n_heads": 4, "dim_feedforward": 128, "n_encoder_layers": 2, "n_decoder_layers": 2,
        "n_vae_encoder_layers": 2, "pre_norm": True,
    },
}  # fmt: skip
GRADIENTS = ("backbone.conv1.weight", "vae_encoder.layers.0.linear1.weight")
STRIDE = 89  # every 89th gradient entry is kept: a prime, so all channels come up


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 standard normal numbers that depend on the name alone."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a well-scaled float32 tensor for a state-dict key."""
    x = normal(key, shape)
    if key.endswith("running_var"):
        return (1 + 0.2 * np.abs(x)).astype(np.float32)
    if key.endswith(("bias", "running_mean")):
        return (0.05 * x).astype(np.float32)
    if len(shape) == 1:  # the scale of a norm
        return (1 + 0.1 * x).astype(np.float32)
    return (x / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


def is_pad() -> np.ndarray:
    """Return the (BATCH, CHUNK) bool padding mask."""
    return np.arange(CHUNK) >= CHUNK - np.array(PADDED)[:, None]


def digest(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    """Return one number for a set of keys and shapes."""
    return zlib.crc32("\n".join(sorted(f"{k} {list(s)}" for k, s in shapes)).encode())
