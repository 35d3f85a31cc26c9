"""ACT's transformer: encoder and decoder stacks with separate positions, and the fixed sine tables.

Architecture after Carion et al. 2020 (DETR, arXiv 2005.12872) as used by Zhao et al. 2023 (ACT, arXiv
2304.13705); parameter names are those of LeRobot's ACT. All sequences are (B, N, D), batch first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward block; positions are added to queries and keys only."""

    def __init__(self, d_model: int, heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(d_model, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(d_model, ffn_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(ffn_dim, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def _attend(self, x: Tensor, pos: Tensor, is_pad: Tensor | None) -> Tensor:
        q = x + pos
        return self.dropout1(self.self_attn(q, q, x, key_padding_mask=is_pad, need_weights=False)[0])

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(torch.relu(self.linear1(x)))))

    def forward(self, x: Tensor, pos: Tensor, is_pad: Tensor | None = None) -> Tensor:
        """Return (B, N, D) for x (B, N, D), pos (1 or B, N, D); nothing looks where is_pad (B, N) is True."""
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), pos, is_pad)
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x, pos, is_pad))
        return self.norm2(x + self._feed(x))


class Encoder(nn.Module):
    """A stack of encoder layers; a final norm only where layers normalise first."""

    def __init__(self, layers: int, d_model: int, heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d_model, heads, ffn_dim, dropout, pre_norm) for _ in range(layers))
        self.norm: nn.Module = nn.LayerNorm(d_model) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, pos: Tensor, is_pad: Tensor | None = None) -> Tensor:
        """Return (B, N, D); arguments as for one layer."""
        for layer in self.layers:
            x = layer(x, pos, is_pad)
        out: Tensor = self.norm(x)
        return out


class DecoderLayer(nn.Module):
    """Self-attention over the queries, attention to the memory, a feed-forward block."""

    def __init__(self, d_model: int, heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(d_model, heads, dropout=dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d_model, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(d_model, ffn_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(ffn_dim, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)

    def _attend_self(self, x: Tensor, query_pos: Tensor) -> Tensor:
        q = x + query_pos
        return self.dropout1(self.self_attn(q, q, x, need_weights=False)[0])

    def _attend_memory(
        self, x: Tensor, query_pos: Tensor, keys: Tensor, memory: Tensor, is_pad: Tensor | None
    ) -> Tensor:
        seen = self.multihead_attn(x + query_pos, keys, memory, key_padding_mask=is_pad, need_weights=False)
        return self.dropout2(seen[0])

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout3(self.linear2(self.dropout(torch.relu(self.linear1(x)))))

    def forward(
        self, x: Tensor, query_pos: Tensor, keys: Tensor, memory: Tensor, is_pad: Tensor | None = None
    ) -> Tensor:
        """Return (B, C, D) for x (B, C, D), query_pos (1, C, D), keys, memory (B, N, D), is_pad (B, N)."""
        if self.pre_norm:
            x = x + self._attend_self(self.norm1(x), query_pos)
            x = x + self._attend_memory(self.norm2(x), query_pos, keys, memory, is_pad)
            return x + self._feed(self.norm3(x))
        x = self.norm1(x + self._attend_self(x, query_pos))
        x = self.norm2(x + self._attend_memory(x, query_pos, keys, memory, is_pad))
        return self.norm3(x + self._feed(x))


class Decoder(nn.Module):
    """A stack of decoder layers and a final norm."""

    def __init__(self, layers: int, d_model: int, heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d_model, heads, ffn_dim, dropout, pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, x: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, is_pad: Tensor | None = None
    ) -> Tensor:
        """Return (B, C, D); memory_pos (1 or B, N, D) is added to the keys, not to the values."""
        keys = memory + memory_pos
        for layer in self.layers:
            x = layer(x, query_pos, keys, memory, is_pad)
        out: Tensor = self.norm(x)
        return out


def sine_table(positions: int, width: int) -> Tensor:
    """Return the (positions, width) float32 sine table of Vaswani et al. 2017: sin and cos by turns."""
    # float64 until the end: rounded once, the table equals the one stored in published checkpoints.
    pair = torch.arange(width, dtype=torch.float64) // 2
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (2 * pair / width)
    table = torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())
    return table.float()


def sine_positions_2d(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Return (rows * columns, width) float32 positions of a feature map, row by row.

    The first half of the width tells the row, the second the column. Both run from 1 / n to 1 of a full turn
    (DETR's normalised form, scale 2 pi, temperature 10000), so the table depends on the map's shape.
    """
    half = width // 2
    frequency = 10000 ** (2 * (torch.arange(half, dtype=torch.float32, device=device) // 2) / half)

    def one_axis(n: int) -> Tensor:
        turn = torch.arange(1, n + 1, dtype=torch.float32, device=device) / (n + 1e-6) * (2 * math.pi)
        angle = turn[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)

    row, column = one_axis(rows), one_axis(columns)
    return torch.cat(
        (row[:, None].expand(rows, columns, half), column[None].expand(rows, columns, half)), dim=-1
    ).flatten(0, 1)
