"""Temporal ensembling: every step acts on the weighted mean of all predictions ever made for it."""

from __future__ import annotations

import torch
from torch import Tensor


class TemporalEnsembler:
    """Online temporal ensembling (Zhao et al. 2023, section IV-B).

    Of the predictions for one step, number i counted from the OLDEST weighs exp(-coefficient * i): a positive
    coefficient trusts old plans more, 0 is the plain mean. One chunk must be predicted at every step.
    """

    def __init__(self, chunk_size: int, coefficient: float = 0.01) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1; got {chunk_size}. Take the policy's chunk_size.")
        self.chunk_size = chunk_size
        self.coefficient = coefficient
        self.reset()

    def reset(self) -> None:
        """Forget all predictions: call at the start of each episode."""
        self._mean: Tensor | None = None
        self._calls = 0

    def update(self, actions: Tensor) -> Tensor:
        """Take the chunk predicted now and return the action to execute now.

        Args:
            actions: (..., C, A); row j is meant for j steps from now.

        Returns:
            (..., A), dtype and device of `actions`.

        Raises:
            ValueError: The chunk has another length, or another shape than the one before.
        """
        c = self.chunk_size
        if actions.ndim < 2 or actions.shape[-2] != c:
            raise ValueError(
                f"needed a chunk of shape (..., {c}, A); got {tuple(actions.shape)}. "
                "Pass whole chunks, as the policy predicts them."
            )
        if self._mean is None:
            mean = actions
        elif self._mean.shape != actions.shape:
            raise ValueError(
                f"the chunk before had shape {tuple(self._mean.shape)}, this one has {tuple(actions.shape)}. "
                "Call reset() between episodes."
            )
        else:
            # Row j has been predicted before by every call that reached it, at most C - 1 - j of them.
            before = torch.arange(c - 1, -1, -1, device=actions.device).clamp(max=self._calls)
            weights = torch.exp(-self.coefficient * torch.arange(c, device=actions.device, dtype=actions.dtype))
            total = weights.cumsum(0)[before]
            share = (weights[before] / total)[:, None]
            mean = self._mean + (actions - self._mean) * share
        self._calls = min(self._calls + 1, c - 1)
        # The new last row has no prediction yet; the next one takes the whole share (before = 0) over this 0.
        self._mean = torch.cat((mean[..., 1:, :], torch.zeros_like(mean[..., :1, :])), -2)
        return mean[..., 0, :]
