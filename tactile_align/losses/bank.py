"""Memory bank: features of past image regions that serve as additional negatives (MoCo, arXiv 1911.05722).

A copy of the model whose weights follow the model slowly computes the features.
"""

import copy

import torch
from torch import Tensor, nn

from tactile_align.errors import InputError
from tactile_align.losses.negatives import Facts


class MemoryBank(nn.Module):
    """Memory bank of the newest `size` region features, with the facts of the moments that the features come from.

    Checkpoints include the bank.

    Args:
        size: Largest number of features.
        dim: Length of a feature.
        touch_dim: F, the length of a touch description. 0 if the same-touch rule is not used.

    Raises:
        InputError: `size` is below 1.
    """

    features: Tensor
    episode: Tensor
    time: Tensor
    touch: Tensor
    put: Tensor

    def __init__(self, size: int, dim: int, touch_dim: int = 0) -> None:
        super().__init__()
        if size < 1:
            raise InputError(
                f"memory bank: size must be at least 1; got {size}. Increase size, or do not create a bank"
            )
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
        """Add the features of a batch at its valid rows to the bank. They replace the oldest features in the bank.

        Args:
            features: (B, dim) region features from the slowly updated copy of the model.
            episode: (B,) int64 index of each row's episode.
            time: (B,) int64 frame number of each row in its episode.
            valid: (B,) bool, which rows to add. Rows without contact must be False.
            touch: (B, touch_dim) touch descriptions; required if touch_dim > 0.
        """
        rows = valid.nonzero().flatten()[-self.size :]
        where = (int(self.put) + torch.arange(len(rows), device=rows.device)) % self.size
        self.features[where] = features.detach()[rows].to(self.features.dtype)
        self.episode[where], self.time[where] = episode[rows], time[rows]
        if touch is not None:
            self.touch[where] = touch.detach()[rows].to(self.touch.dtype)
        self.put += len(rows)

    def facts(self) -> Facts:
        """Return the facts of the moments in the bank, for `Negatives(bank=...)`."""
        kept = len(self)
        touch = self.touch[:kept] if self.touch.shape[1] else None
        return Facts(self.episode[:kept], self.time[:kept], touch=touch)

    def kept(self) -> Tensor:
        """Return the features in the bank, (M, dim), for the argument `bank` of the loss."""
        return self.features[: len(self)].clone()


class Following(nn.Module):
    """Copy of a module whose weights follow the module slowly and receive no gradient.

    Args:
        module: The module to copy and to follow.
        momentum: Factor on the copy's weights in each update: copy = momentum * copy + (1 - momentum) * module.

    Raises:
        InputError: `momentum` is not in 0 <= momentum < 1.
    """

    def __init__(self, module: nn.Module, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise InputError(
                f"momentum must be at least 0 and below 1; got {momentum}. Use a value such as 0.99 or 0.999"
            )
        self.momentum = momentum
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Move the weights of the copy towards the weights of `module`. Buffers are copied unchanged."""
        for own, new in zip(self.module.parameters(), module.parameters(), strict=True):
            own.lerp_(new.detach().to(own.dtype), 1 - self.momentum)
        for kept, current in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(current)
