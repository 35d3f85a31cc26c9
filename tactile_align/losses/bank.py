"""A memory bank of past regions as further negatives, from a slowly following copy of the model (MoCo, 1911.05722)."""

import copy

import torch
from torch import Tensor, nn

from tactile_align.errors import InputError
from tactile_align.losses.negatives import Facts


class MemoryBank(nn.Module):
    """The newest `size` region features and what is known of their moments; kept in checkpoints.

    Args:
        size: How many are kept.
        dim: Their length.
        touch_dim: F of the touch descriptions; 0 where no same-touch rule is used.
    """

    features: Tensor
    episode: Tensor
    time: Tensor
    touch: Tensor
    put: Tensor

    def __init__(self, size: int, dim: int, touch_dim: int = 0) -> None:
        super().__init__()
        if size < 1:
            raise InputError(f"a memory bank needs a size of at least 1; got {size}. Leave it out for none")
        self.size = size
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("episode", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("time", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("touch", torch.zeros(size, touch_dim))
        self.register_buffer("put", torch.tensor(0))

    def __len__(self) -> int:
        return min(int(self.put), self.size)

    @torch.no_grad()
    def add(self, features: Tensor, episode: Tensor, time: Tensor, valid: Tensor, touch: Tensor | None = None) -> None:
        """Put the valid rows in, over the oldest ones; only moments in contact belong here.

        Args:
            features: (B, dim) region features of the following copy.
            episode: (B,) int64.
            time: (B,) int64.
            valid: (B,) bool.
            touch: (B, touch_dim), where the bank keeps them.
        """
        rows = valid.nonzero().flatten()[-self.size :]
        where = (int(self.put) + torch.arange(len(rows), device=rows.device)) % self.size
        self.features[where] = features.detach()[rows].to(self.features.dtype)
        self.episode[where], self.time[where] = episode[rows], time[rows]
        if touch is not None:
            self.touch[where] = touch.detach()[rows].to(self.touch.dtype)
        self.put += len(rows)

    def facts(self) -> Facts:
        """Return what is known of the kept moments, for `Negatives(bank=...)`."""
        kept = len(self)
        touch = self.touch[:kept] if self.touch.shape[1] else None
        return Facts(self.episode[:kept], self.time[:kept], touch=touch)

    def kept(self) -> Tensor:
        """Return (M, dim) kept features, for the loss's `bank`."""
        return self.features[: len(self)].clone()


class Following(nn.Module):
    """A copy of a module whose weights follow it slowly and never receive gradient.

    Args:
        module: What is followed.
        momentum: Share of the copy's own weights kept at each `follow`.
    """

    def __init__(self, module: nn.Module, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must lie in 0 <= momentum < 1; got {momentum}")
        self.momentum = momentum
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Move the copy's weights towards the module's; buffers are taken over."""
        for own, new in zip(self.module.parameters(), module.parameters(), strict=True):
            own.lerp_(new.detach().to(own.dtype), 1 - self.momentum)
        for kept, current in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(current)
