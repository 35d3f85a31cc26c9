"""LeJEPA: augmentations of one image get near features, while features of all images are normally distributed."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tactile_align.losses.sigreg import random_directions, sigreg

Encode = Callable[[Tensor], Tensor]
"""Tower: images (B, H, W, 3) uint8 to tokens (B, rows, columns, D)."""


class LeJEPA(nn.Module):
    """Self-supervised objective (1 - w) invariance + w SIGReg of projected features z; neither teacher nor negatives.

    z is a projection of the mean token of an image, by an MLP with batch norm, which always uses the statistics of the
    given images. Without SIGReg, the objective is smallest if all z are equal.

    Args:
        width: Length D of a token.
        hidden: Width of the two hidden layers of the projector.
        dim: Length of z.
        weight: Weight w of SIGReg, 0 to 1.
        directions: Number of random directions of SIGReg; new ones are drawn from torch's global generator at each
            call.

    Source: Balestriero and LeCun, LeJEPA, arXiv 2511.08544.
    """

    name = "lejepa"

    def __init__(self, width: int, hidden: int, dim: int, weight: float, directions: int) -> None:
        super().__init__()
        self.weight, self.directions, self.dim = weight, directions, dim
        self.projector = nn.Sequential(
            nn.Linear(width, hidden),
            nn.BatchNorm1d(hidden, track_running_stats=False),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden, track_running_stats=False),
            nn.GELU(),
            nn.Linear(hidden, dim),
        )

    def forward(self, encode: Encode, images: Tensor) -> dict[str, Tensor]:
        """Return the loss of V augmentations of each of B images, (V, B, H, W, 3) uint8, as "loss", and its terms.

        invariance: mean squared difference between z of an augmentation and the mean z of its image. sigreg: see
        `sigreg`, over the B images of each augmentation.
        """
        return self.losses(encode(images.flatten(0, 1)).unflatten(0, images.shape[:2]))

    def losses(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the losses of `forward` from the tokens (V, B, rows, columns, D) of the images."""
        with torch.autocast(device_type=tokens.device.type, enabled=False):
            z = self.project(tokens.float().mean(dim=(-3, -2)))
            directions = random_directions(self.dim, self.directions).to(z.device)
            terms = {"invariance": invariance(z), "sigreg": sigreg(z, directions)}
            return {"loss": self.total(terms), **terms}

    def project(self, features: Tensor) -> Tensor:
        """Return z (..., dim) of features (..., D)."""
        z: Tensor = self.projector(features.reshape(-1, features.shape[-1]))
        return z.unflatten(0, features.shape[:-1])

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the loss from its terms."""
        return (1 - self.weight) * terms["invariance"] + self.weight * terms["sigreg"]


def invariance(z: Tensor) -> Tensor:
    """Return the mean squared difference of the elements of z (V, B, dim) from their mean over the V augmentations."""
    return (z - z.mean(dim=0)).square().mean()
