"""Configuration of the self-supervised training of a touch encoder."""

from typing import Annotated

from pydantic import Field

from tactile_align.facts import Strict


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
    crop: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Smallest side of a random crop, as a fraction of the image's side. 1: no crops."""
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest random relative change of an image's brightness: 0.1 changes it by up to 10 %. With touch_input =
    "difference", it changes the difference from grey (128)."""
    noise: Annotated[float, Field(ge=0)] = 2.0
    """Standard deviation of random noise of the pixels, grey levels of 255. Images are never flipped and colours never
    changed, because the colour of a touch image shows the direction of the gel's surface."""
