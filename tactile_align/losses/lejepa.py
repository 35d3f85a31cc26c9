"""LeJEPA: augmentations of one image get near features, while features of all images are normally distributed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tactile_align.losses.codebook import Codebook
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
        codebook: Codebook that replaces the tokens before their mean is projected, and whose commitment loss is added;
            None: the tokens of the tower.

    Attributes:
        name: Name of the objective, with the kind of its codebook.

    Source: Balestriero and LeCun, LeJEPA, arXiv 2511.08544.
    """

    kind, pulled = "lejepa", "invariance"
    """Name of the objective without codebook, and of the term beside SIGReg."""

    def __init__(
        self, width: int, hidden: int, dim: int, weight: float, directions: int, codebook: Codebook | None = None
    ) -> None:
        super().__init__()
        self.weight, self.directions, self.dim, self.codebook = weight, directions, dim, codebook
        self.name = self.kind if codebook is None else f"{self.kind}+{codebook.config.kind}"
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
        `sigreg`, over the B images of each augmentation. commitment: see `Codebook`; only with a codebook.
        """
        tokens = encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        with torch.autocast(device_type=tokens.device.type, enabled=False):
            return self.losses(self.embed(tokens.float()))

    def embed(self, tokens: Tensor) -> "Embedded":
        """Return z and the codes of the tokens (V, B, rows, columns, D) of the images."""
        code = commitment = None
        if self.codebook is not None:
            tokens, commitment, code = self.codebook(tokens)
        return Embedded(self.projected(tokens), tokens, commitment, code)

    def projected(self, tokens: Tensor) -> Tensor:
        """Return z (V, B, dim) of the tokens (V, B, rows, columns, D) of images."""
        features = tokens.mean(dim=(-3, -2))
        z: Tensor = self.projector(features.flatten(0, -2)).unflatten(0, features.shape[:-1])
        return z

    def losses(self, embedded: "Embedded") -> dict[str, Tensor]:
        """Return the loss and its terms, as `forward`, from the result of `embed`."""
        z = embedded.z
        directions = random_directions(self.dim, self.directions).to(z.device)
        terms = {**self.pull(embedded), "sigreg": sigreg(z, directions)}
        terms |= {} if embedded.commitment is None else {"commitment": embedded.commitment}
        return {"loss": self.total(terms), **terms}

    def pull(self, embedded: "Embedded") -> dict[str, Tensor]:
        """Return the term beside SIGReg, and values to log beside it."""
        return {"invariance": invariance(embedded.z)}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the loss from its terms."""
        loss = (1 - self.weight) * terms[self.pulled] + self.weight * terms["sigreg"]
        return loss + terms["commitment"] if "commitment" in terms else loss

    def stepped(self) -> None:
        """Update the codebook after an optimiser step."""
        if self.codebook is not None:
            self.codebook.stepped()


class Embedded(NamedTuple):
    """Projected features of images.

    Attributes:
        z: (V, B, dim) features whose distribution SIGReg compares.
        tokens: (V, B, rows, columns, D) tokens, after the codebook.
        commitment: Scalar, weighted commitment loss of the codebook; None without a codebook.
        code: (V, B, rows, columns) index of the code of each token; None without a codebook.
    """

    z: Tensor
    tokens: Tensor
    commitment: Tensor | None
    code: Tensor | None


def invariance(z: Tensor) -> Tensor:
    """Return the mean squared difference of the elements of z (V, B, dim) from their mean over the V augmentations."""
    return (z - z.mean(dim=0)).square().mean()
