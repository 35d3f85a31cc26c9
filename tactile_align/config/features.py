"""Configuration of the image encoders and of the pooling."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict

Pooling = Literal["grid", "mean", "mean_block", "attention", "gaussian"]
Tune = Literal["full", "last", "adapters", "frozen"]
TIMM, SPARSH = "timm/", "sparsh/"
"""First part of the names of models from elsewhere."""


class AdapterConfig(Strict):
    """Sizes of the residual adapters after a frozen encoder. The defaults are those of the original implementation."""

    hidden: Annotated[int, Field(ge=1)] = 512
    """Width of each adapter's hidden layer."""
    depth: Annotated[int, Field(ge=1)] = 3
    """Number of adapters, applied one after the other."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout rate inside each adapter."""
    scale: Annotated[float, Field(gt=0)] = 0.1
    """Factor that multiplies the output of an adapter before it is added to the adapter's input."""


class EncoderConfig(Strict):
    """One image encoder: an image tower of open_clip, timm or Sparsh, and which of its weights are trained."""

    model: str = "ViT-B-16"
    """Name of the model: an open_clip model, timm/NAME for a timm model, or sparsh/METHOD_vitSIZE (touch only)."""
    pretrained: str = "laion2b_s34b_b88k"
    """Initial weights: an open_clip tag (the name of a set of pretrained weights), the path of a checkpoint file (of a
    whole model, of its image tower alone, or the tower.safetensors of a run), or "scratch" for random weights. Models
    of timm and Sparsh are read only from a file."""
    image_size: tuple[int, int] | None = None
    """(width, height) of the encoder's input image, px. None: the input size of the model."""
    fit: Literal["stretch", "letterbox"] = "stretch"
    """Method that resizes frames to the input size. stretch: the aspect ratio may change. letterbox: the aspect ratio
    is kept, and empty bars use up some of the tokens."""
    stem: Literal["patch", "conv"] = "patch"
    """First layers of the encoder. patch: one patch projection. conv: convolutions, which train faster from scratch."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Indices of the transformer blocks whose output tokens are used; -1 is the last block. Tokens of several blocks
    are concatenated."""
    tune: Tune = "full"
    """Weights that are trained. full: all weights. last: the last `last_blocks` blocks. adapters: only small networks
    after the frozen encoder. frozen: no weights of the encoder."""
    last_blocks: Annotated[int, Field(ge=1)] = 2
    """Number of transformer blocks that are trained with tune = "last"."""
    adapters: AdapterConfig = AdapterConfig()
    """Sizes of the adapters that are trained with tune = "adapters"."""
    checkpointing: bool = False
    """Use gradient checkpointing: recompute activations in the backward pass instead of storing them. This saves memory
    and takes about a third more time."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Precision of the encoder. None: the precision of the training step, `optimiser.precision`. bfloat16: the encoder
    always runs under autocast. float32: never. The output tokens and the loss are always float32."""


class FeatureConfig(Strict):
    """Computation of the two features that the alignment loss compares. h_tau is the feature of a touch image; h_w is
    the feature of an image region."""

    vision: EncoderConfig = EncoderConfig()
    """Encoder of the camera images."""
    touch: EncoderConfig | None = None
    """Encoder of the touch images. None: the vision encoder also encodes touches, with the same input size."""
    place: Literal["box", "whole", "elsewhere"] = "box"
    """Image region from which the region feature h_w is computed. box: the sensor's box. whole: the whole image.
    elsewhere: a region of the box's size in the farthest corner of the image. whole and elsewhere are baselines that
    should perform worse."""
    pooling: Pooling = "grid"
    """Method that pools the tokens of the image region to one vector. grid: features sampled on a grid inside the box,
    so the position of the contact on the pad is kept. mean: mean of the tokens, as in the original implementation.
    mean_block: one transformer block, then the mean. attention: learnt queries that attend to the tokens. gaussian:
    mean of the tokens, weighted by a blurred box."""
    touch_pooling: Literal["mean", "attention"] = "mean"
    """Method that pools the tokens of a touch image to one vector. mean: mean of all tokens. attention: learnt queries
    that attend to all tokens."""
    touch_input: Literal["image", "difference"] = "image"
    """Input of the touch encoder. image: the touch image. difference: half the difference between the touch image and
    the sensor's no-contact reference of the same episode, plus 128. The difference removes variation in gel and
    lighting between individual sensors."""
    touch_frames: Annotated[int, Field(ge=1)] = 1
    """Number of touch images of a moment (the window): the present image and earlier ones of the same episode. Before
    the start of the episode, its first image takes the place of the missing ones."""
    touch_stride: Annotated[int, Field(ge=1)] = 1
    """Number of frames between the touch images of the window."""
    touch_time: Literal["channels", "last", "attention"] = "channels"
    """Method that encodes the window. channels: the touch encoder gets the images stacked as channels, the newest
    first. last, attention: the encoder gets each image alone; then the tokens at each place of the image attend to each
    other over time. last: the token of the newest image is used. attention: the mean over time, with learnt weights."""
    grid: Annotated[int, Field(ge=1)] = 4
    """Number of samples along each side of the grid in the box, for pooling = "grid"."""
    margin: Annotated[float, Field(ge=1.0)] = 1.5
    """Factor that enlarges the sides of the box before pooling, to tolerate calibration error. 1: the box itself, as in
    the original implementation."""
    sigma_px: Annotated[float, Field(ge=0)] | Literal["rig"] = 4.0
    """Standard deviation of the box's position in the encoder's input image, px, for pooling = "gaussian". A number:
    the same value for all boxes. rig: one value along the width and one along the height of the image for each moment,
    computed from the covariance that `calibrate hand-eye` stored for the camera."""
    head: Literal["linear", "mlp", "region_mlp"] = "linear"
    """Layers that compute the touch feature h_tau and the region feature h_w from the pooled tokens. linear: one
    linear layer, without a hidden layer. mlp: one hidden layer for each of the two. region_mlp: one hidden layer for
    h_w, none for h_tau."""
    head_width: Annotated[int, Field(ge=1)] | None = None
    """Width of the hidden layer of the heads mlp and region_mlp. None: twice `dim`."""
    dim: Annotated[int, Field(ge=2)] = 128
    """Number of elements of the touch feature h_tau and of the region feature h_w."""

    @property
    def touch_earlier(self) -> tuple[int, ...]:
        """Ages of the earlier images of the window, frames, increasing; empty without a window."""
        return tuple(self.touch_stride * i for i in range(1, self.touch_frames))

    @model_validator(mode="after")
    def _window_fits(self) -> "FeatureConfig":
        if self.touch_frames == 1 and (self.touch_stride != 1 or self.touch_time != "channels"):
            raise InputError(
                f"features.touch_stride = {self.touch_stride} and features.touch_time = '{self.touch_time}' need a "
                f"window, but touch_frames = 1 is the present touch alone. Set touch_frames, or omit both"
            )
        if self.touch_frames > 1 and self.touch_time == "channels" and self.touch is None:
            raise InputError(
                f"features.touch_time = 'channels' stacks {self.touch_frames} touch images, which needs a touch "
                f"encoder of its own; got none. Set [features.touch], or touch_time = 'last' or 'attention'"
            )
        sparsh = self.touch is not None and self.touch.model.startswith(SPARSH)
        window = (self.touch_frames, self.touch_time, self.touch_input)
        if self.vision.model.startswith(SPARSH) or (sparsh and window != (2, "channels", "difference")):
            raise InputError(
                f"a Sparsh encoder encodes touches only, as differences from the no-contact reference in two frames: "
                f"touch_frames = 2, touch_time = 'channels', touch_input = 'difference'; got vision.model = "
                f"'{self.vision.model}' and {window}. Change these (touch_stride = 5 at 30 Hz)"
            )
        return self

    @model_validator(mode="after")
    def _widths_are_used(self) -> "FeatureConfig":
        if self.sigma_px == "rig" and self.pooling != "gaussian":
            raise InputError(
                f"features.sigma_px = 'rig' needs pooling = 'gaussian'; got pooling = '{self.pooling}'. Set "
                f"pooling = 'gaussian', or omit sigma_px"
            )
        if self.head_width is not None and self.head == "linear":
            raise InputError(
                f"features.head_width = {self.head_width}, but head = 'linear' has no hidden layer. Set "
                f"features.head = 'mlp' or 'region_mlp', or omit head_width"
            )
        return self
