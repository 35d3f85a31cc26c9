"""Configuration of the self-supervised training of a touch encoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict


class CodebookConfig(Strict):
    """Codebook between the encoder and the projector of a pretraining; tower.safetensors does not contain it."""

    kind: Literal["vq", "fsq"] = "vq"
    """vq: codes are learnt vectors. fsq: coordinates are rounded to `levels`; no code can be lost."""
    size: Annotated[int, Field(ge=2)] = 256
    """Number of codes of vq."""
    dim: Annotated[int, Field(ge=2)] = 16
    """Length of a code of vq, to which tokens are projected."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Decay of the moving average by which codes of vq follow the tokens, once per optimiser step."""
    commitment: Annotated[float, Field(gt=0)] = 0.25
    """Weight of the loss that pulls tokens to their codes of vq. Less is gentler: 0.15."""
    expire_below: Annotated[float, Field(ge=0)] = 0.0
    """Number of tokens of a step, as a moving average, below which a code of vq is replaced at once by a token. 0:
    codes never expire. A gentle value is 2."""
    refresh_every: Annotated[int, Field(ge=0)] = 0
    """Number of optimiser steps between two refreshes, in which tokens of the step replace all rare codes of vq. 0:
    never. A refresh moves tokens to other codes at once, which can end in a loop that loses codes."""
    refresh_below: Annotated[float, Field(gt=0)] = 0.1
    """Fraction of an even share of the tokens (1 / `size`) below which a code is rare. 0.1: a tenth of it."""
    learn: bool = False
    """Train the codes of vq by gradient in place of the moving average; distances are then Euclidean."""
    levels: Annotated[tuple[Annotated[int, Field(ge=3)], ...], Field(min_length=1)] = (8, 5, 5, 5)
    """Number of levels of each coordinate of fsq; their product is the number of codes."""

    @model_validator(mode="after")
    def _refreshes_what_moves(self) -> "CodebookConfig":
        if self.refresh_every > 0 and (self.kind != "vq" or self.learn):
            raise InputError(
                f"pretrain.codebook.refresh_every = {self.refresh_every} needs kind = 'vq' with learn = false; got "
                f"kind = '{self.kind}' and learn = {str(self.learn).lower()}. Set refresh_every = 0, or change these"
            )
        if self.expire_below > 0 and self.kind != "vq":
            raise InputError(
                f"pretrain.codebook.expire_below = {self.expire_below:g} needs kind = 'vq'; got kind = '{self.kind}', "
                f"whose codes cannot be lost. Set expire_below = 0, or kind = 'vq'"
            )
        return self


class PretrainConfig(Strict):
    """Self-supervised training of the touch encoder, by `tactile-align pretrain`, without policy and alignment."""

    sensors: Annotated[tuple[str, ...], Field(min_length=1)]
    """Touch sensors of the rig whose images the encoder is trained on."""
    regions: bool = False
    """Also train on the images of [[views]], in moments in which the sensor's box is visible. Use views with zoom,
    whose images are crops at the sensor."""
    sigreg_weight: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Weight w of SIGReg in the loss (1 - w) invariance + w SIGReg. LeJEPA (arXiv 2511.08544) uses 0.02 to 0.05. 0:
    invariance alone, with which the features collapse to a point."""
    directions: Annotated[int, Field(ge=1)] = 256
    """Number of random directions of SIGReg in a step."""
    projector_width: Annotated[int, Field(ge=1)] = 256
    """Width of the two hidden layers of the projector, an MLP between the encoder and z, the feature in the loss."""
    projector_dim: Annotated[int, Field(ge=2)] = 16
    """Number of elements of z."""
    codebook: CodebookConfig | None = None
    """Replace tokens by codes of a codebook before they are pooled and projected. Needs the extra `vq`. None: no
    codebook."""
    crop: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Smallest side of a random crop, as a fraction of the image's side. 1: no crops."""
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest random relative change of an image's brightness: 0.1 changes it by up to 10 %. With touch_input =
    "difference", it changes the difference from grey (128)."""
    noise: Annotated[float, Field(ge=0)] = 2.0
    """Standard deviation of random noise of the pixels, grey levels of 255. Images are never flipped and colours never
    changed, because the colour of a touch image shows the direction of the gel's surface."""
