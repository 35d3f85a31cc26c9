"""Denoiser: a transformer decoder from a noisy chunk of actions, its noise level and the encoder's memory to a chunk.

The architecture follows the transformer of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137), with three changes.
The output layer starts at zero, so that the loss starts at its chance level. The token of the noise level stands beside
the tokens of the chunk, not in the memory, so that all noises of a moment share the keys and values of the memory. And
all attention layers see the whole chunk.
"""

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.policies.heads.head import Memory

INIT_STD = 0.02  # of all weights but the output layer's, as in Diffusion Policy
HIGHEST = 100.0
"""Number of the highest noise level, pure noise, as the denoiser gets it; 0 is no noise."""


class KeysValues(NamedTuple):
    """Keys and values (B, heads, N, width) of N memory tokens for one layer, and the mask (B, 1, 1, N) of tokens that
    exist; None: all exist."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None


class Attention(nn.Module):
    """Attention of several heads, with separate projections of queries and of the attended tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def keys_values(self, keys: Tensor, values: Tensor, is_pad: Tensor | None) -> KeysValues:
        """Return keys and values of tokens (B, N, D); tokens are ignored where is_pad (B, N) is True."""
        mask = None if is_pad is None else ~is_pad[:, None, None]
        return KeysValues(self._split(self.key(keys)), self._split(self.value(values)), mask)

    def forward(self, x: Tensor, attended: KeysValues) -> Tensor:
        """Return the tokens (B, M, D) that the tokens x (B, M, D) attend to."""
        keys, values, mask = attended
        out = F.scaled_dot_product_attention(self._split(self.query(x)), keys, values, attn_mask=mask)
        mixed: Tensor = self.output(out.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class DenoiserLayer(nn.Module):
    """Transformer layer with layer norm before each block: self-attention, attention to the memory, feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.self_attn, self.memory_attn = Attention(width, heads), Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, is_pad: Tensor | None, memory: KeysValues) -> Tensor:
        """Return the output tokens, of the shape of x.

        Args:
            x: (B, S, M, D) tokens: S sequences of M tokens for each of B moments.
            is_pad: (B, S, M) bool, True where a token is ignored in the self-attention; None: nowhere.
            memory: Keys and values of the memory for this layer, from `memory_attn`.
        """
        rows = self.norm1(x).flatten(0, 1)
        pad = None if is_pad is None else is_pad.flatten(0, 1)
        x = x + self.self_attn(rows, self.self_attn.keys_values(rows, rows, pad)).view(x.shape)
        # All sequences of a moment are queries of one attention, so the memory's keys and values are computed once.
        x = x + self.memory_attn(self.norm2(x).flatten(1, 2), memory).view(x.shape)
        fed: Tensor = x + self.linear2(F.gelu(self.linear1(self.norm3(x))))
        return fed


class Denoiser(nn.Module):
    """Transformer decoder from noisy chunks to the quantity that a head predicts, (B, S, C, A).

    Args:
        action_dim: Number of columns of an action, A.
        chunk: Number of actions of a chunk, C.
        width: Width of the tokens and of the memory, D.
        heads: Number of attention heads.
        layers: Number of layers.
    """

    def __init__(self, action_dim: int, chunk: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.input = nn.Linear(action_dim, width)
        self.positions = nn.Embedding(1 + chunk, width)
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.layers = nn.ModuleList(DenoiserLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, action_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.output.weight)

    def keys_values(self, memory: Memory) -> list[KeysValues]:
        """Return the keys and values of the memory, by layer; positions are added to the keys only."""
        keys = memory.tokens + memory.positions
        layers = cast(Iterable[DenoiserLayer], self.layers)
        return [layer.memory_attn.keys_values(keys, memory.tokens, memory.is_pad) for layer in layers]

    def forward(self, noisy: Tensor, level: Tensor, memory: list[KeysValues], is_pad: Tensor | None = None) -> Tensor:
        """Return the prediction for S noisy chunks of each of B moments, (B, S, C, A).

        Args:
            noisy: (B, S, C, A) noisy actions.
            level: (B, S) noise level of each chunk, 0 to HIGHEST.
            memory: Result of `keys_values` for the B moments.
            is_pad: (B, C) bool, True where an action lies past the end of the episode; None: nowhere.
        """
        time = self.time(sine(level, self.width))[:, :, None]
        x = torch.cat((time, self.input(noisy)), 2) + self.positions.weight
        pad = None
        if is_pad is not None:
            pad = torch.cat((is_pad.new_zeros(len(is_pad), 1), is_pad), 1)[:, None].expand(x.shape[:3])
        for layer, attended in zip(self.layers, memory, strict=True):
            x = layer(x, pad, attended)
        predicted: Tensor = self.output(self.norm(x[:, :, 1:]))
        return predicted


def sine(level: Tensor, width: int) -> Tensor:
    """Return the embedding (..., width) of noise levels (...): sines, then cosines, of frequencies 1 to 1/10000."""
    half = width // 2
    frequency = 10000 ** (-torch.arange(half, dtype=level.dtype, device=level.device) / half)
    angle = level[..., None] * frequency
    return torch.cat((angle.sin(), angle.cos()), -1)
