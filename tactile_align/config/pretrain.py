"""Configuration of the self-supervised training of a touch encoder."""

from typing import Annotated, Any, Literal

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
    expire_below: Annotated[float, Field(ge=0)] = 2.0
    """Number of tokens of a step, as a moving average, below which a code of vq is replaced at once by a token. 0:
    codes never expire, which is the default of codes that are trained by gradient, and of fsq."""
    refresh_every: Annotated[int, Field(ge=0)] = 0
    """Number of optimiser steps between two refreshes, in which tokens of the step replace all rare codes of vq. 0:
    never. A refresh moves tokens to other codes at once."""
    refresh_below: Annotated[float, Field(gt=0)] = 0.1
    """Fraction of an even share of the tokens (1 / `size`) below which a code is rare. 0.1: a tenth of it."""
    learn: bool = False
    """Train the codes of vq by gradient in place of the moving average; distances are then Euclidean."""
    levels: Annotated[tuple[Annotated[int, Field(ge=3)], ...], Field(min_length=1)] = (8, 5, 5, 5)
    """Number of levels of each coordinate of fsq; their product is the number of codes."""

    @model_validator(mode="before")
    @classmethod
    def _keeps_codes_that_do_not_follow(cls, stated: Any) -> Any:
        if isinstance(stated, dict) and (stated.get("kind", "vq") != "vq" or stated.get("learn", False) is not False):
            return {"expire_below": 0.0, **stated}
        return stated

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


class NextConfig(Strict):
    """Window of touches whose next touches are predicted, token by token."""

    context: Annotated[int, Field(ge=1)] = 4
    """Number of touches from which the next one is predicted."""
    rolled_out: Annotated[int, Field(ge=1)] = 2
    """Number of touches that are predicted one after the other. A prediction takes the place of its touch in the
    context of the next one. V-JEPA 2-AC (arXiv 2506.09985) uses 2."""
    stride: Annotated[int, Field(ge=1)] = 1
    """Number of frames between two touches of the window. V-JEPA 2-AC uses 4 frames per second: 1 at 5 Hz, 7 at
    30 Hz."""
    over_time: Literal["last", "attention"] = "last"
    """Method that pools the context over time, as features.touch_time. last: the token of the newest touch, after the
    touches attended to each other. attention: the mean over time, with learnt weights."""

    @property
    def earlier(self) -> tuple[int, ...]:
        """Ages of the earlier touches of the window, frames, increasing; the newest one is predicted last."""
        return tuple(self.stride * i for i in range(1, self.context + self.rolled_out))


class PretrainConfig(Strict):
    """Self-supervised training of the touch encoder, by `tactile-align pretrain`, without policy and alignment."""

    sensors: Annotated[tuple[str, ...], Field(min_length=1)]
    """Touch sensors of the rig whose images the encoder is trained on."""
    regions: bool = False
    """Also train on the images of [[views]], in moments in which the sensor's box is visible. Use views with zoom,
    whose images are crops at the sensor."""
    sigreg_weight: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Weight w of SIGReg in the loss (1 - w) invariance + w SIGReg; with `next`, the error of the prediction takes the
    place of the invariance. LeJEPA (arXiv 2511.08544) uses 0.02 to 0.05. 0: no SIGReg, with which the features collapse
    to a point."""
    next: NextConfig | None = None
    """Predict the next touches of a window in place of the invariance. None: LeJEPA."""
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
    """Smallest side of a random crop, as a fraction of the image's side. 1: no crops. Not used with `next`."""
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest random relative change of an image's brightness: 0.1 changes it by up to 10 %. With touch_input =
    "difference", it changes the difference from grey (128). Not used with `next`."""
    noise: Annotated[float, Field(ge=0)] = 2.0
    """Standard deviation of random noise of the pixels, grey levels of 255. Images are never flipped and colours never
    changed, because the colour of a touch image shows the direction of the gel's surface."""

    @model_validator(mode="after")
    def _keeps_windows_whole(self) -> "PretrainConfig":
        fields = type(self).model_fields
        if self.next is not None and (unread := [n for n in ("crop", "gain") if getattr(self, n) != fields[n].default]):
            raise InputError(
                f"[pretrain.next] adds only noise to the touches of a window, so these entries have no effect: "
                f"{', '.join(f'pretrain.{name}' for name in unread)}. Omit them, or omit [pretrain.next]"
            )
        return self
