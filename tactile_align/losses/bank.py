"""Memory bank: features of past touches and regions that serve as additional negatives (MoCo, arXiv 1911.05722).

The features come from a copy of the model, whose weights follow those of the model slowly (`Following`).
"""

import copy

import torch
from torch import Tensor, nn

from tactile_align.errors import InputError
from tactile_align.losses.negatives import Facts


class MemoryBank(nn.Module):
    """Memory bank of the newest `size` pairs of a touch and an image region: features, and `Facts` about the moments.

    Checkpoints include the bank.

    Args:
        size: Largest number of pairs.
        dim: Length of a feature.
        touch_dim: Length of a touch description, see `touch_pattern`. 0: the bank stores no touch descriptions, which
            only a rule with `Negatives.ceiling` needs.

    Raises:
        InputError: `size` is below 1.
    """

    touches: Tensor
    regions: Tensor
    episode: Tensor
    time: Tensor
    touch: Tensor
    contact_index: Tensor
    put: Tensor

    def __init__(self, size: int, dim: int, touch_dim: int = 0) -> None:
        super().__init__()
        if size < 1:
            raise InputError(
                f"memory bank: size must be at least 1; got {size}. Increase size, or do not create a bank"
            )
        self.size = size
        self.register_buffer("touches", torch.zeros(size, dim))
        self.register_buffer("regions", torch.zeros(size, dim))
        self.register_buffer("touch", torch.zeros(size, touch_dim))
        for name in ("episode", "time", "contact_index"):
            self.register_buffer(name, torch.zeros(size, dtype=torch.int64))
        self.register_buffer("put", torch.tensor(0))

    def __len__(self) -> int:
        return min(int(self.put), self.size)

    @torch.no_grad()
    def add(self, touches: Tensor, regions: Tensor, facts: Facts, valid: Tensor) -> None:
        """Add the valid rows of a batch, each a touch-region pair, to the bank. They replace its oldest pairs.

        Args:
            touches: (B, dim) touch features of the B rows of the batch, from the slowly updated copy of the model.
            regions: (B, dim) region features of these rows, from the same copy.
            facts: Facts about the moments of these rows, with contact_index, and with touch descriptions if
                touch_dim > 0.
            valid: (B,) bool, which rows to add. Rows without contact must be False.
        """
        rows = valid.nonzero().flatten()[-self.size :]
        where = (int(self.put) + torch.arange(len(rows), device=rows.device)) % self.size
        assert facts.contact_index is not None
        self.touches[where], self.regions[where] = (h[rows].to(self.touches.dtype) for h in (touches, regions))
        self.episode[where], self.time[where] = facts.episode[rows], facts.time[rows]
        self.contact_index[where] = facts.contact_index[rows]
        if facts.touch is not None:
            self.touch[where] = facts.touch[rows].to(self.touch.dtype)
        self.put += len(rows)

    def facts(self) -> Facts:
        """Return the facts about the moments in the bank, for the attribute `bank` of `Negatives`."""
        kept = len(self)
        touch = self.touch[:kept] if self.touch.shape[1] else None
        return Facts(self.episode[:kept], self.time[:kept], touch=touch, contact_index=self.contact_index[:kept])

    def kept(self) -> tuple[Tensor, Tensor]:
        """Return the features of the M pairs in the bank, for `Keys`: touches (M, dim) and regions (M, dim)."""
        return self.touches[: len(self)].clone(), self.regions[: len(self)].clone()


class Following(nn.Module):
    """Copy of a module whose weights follow the module slowly and receive no gradient. It is always in eval mode.

    Args:
        module: The module to copy and to follow.
        momentum: Factor on the copy's weights in each update: copy = momentum * copy + (1 - momentum) * module.

    Raises:
        InputError: `momentum` is not in 0 <= momentum < 1.
    """

    def __init__(self, module: nn.Module, momentum: float = 0.999) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise InputError(
                f"momentum must be at least 0 and below 1; got {momentum}. Use a value such as 0.99 or 0.999"
            )
        self.momentum = momentum
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Following":
        """Set this module to training or eval mode. The copy stays in eval mode, without dropout."""
        super().train(mode)
        self.module.eval()
        return self

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Move the weights of the copy towards the weights of `module`. Buffers are copied unchanged."""
        for own, new in zip(self.module.parameters(), module.parameters(), strict=True):
            own.lerp_(new.detach().to(own.dtype), 1 - self.momentum)
        for kept, current in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(current)
