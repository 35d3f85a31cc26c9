"""Batch of moments: dataclasses that define every tensor of a batch with its shape, dtype and meaning."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """One view of B moments: the images of a camera, and the box of a touch sensor in these images.

    H and W are the height and width of an image. In an image, u points right and v points down.

    | field | shape | meaning |
    |---|---|---|
    | image | (B, H, W, 3) uint8 | camera image, RGB |
    | box | (B, 4) float32 | box of the sensor (moved by `Input.ahead_m`) in `image`, px; nan if no box exists |
    | visible | (B,) bool | whether `box` exists |
    | sigma | (B, 2) float32 | standard deviation of the box's position along u and v, px; needs `Input.uncertain` |
    | other_box | (B, 4) float32 | box of the other finger in `image`, px; needs `Input.other_finger` |

    `sigma` and `other_box` are None if the input does not have the option.

    Raises:
        ValueError: A tensor has another shape.
    """

    image: Tensor
    box: Tensor
    visible: Tensor
    sigma: Tensor | None = None
    other_box: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {"image": (None, None, None, 3), "box": (None, 4), "visible": (None,)}
        _require(self, {**shapes, "sigma": (None, 2), "other_box": (None, 4)})


@dataclass(frozen=True, eq=False, kw_only=True)
class TouchImages:
    """Images of one touch sensor in B moments, as a policy needs them.

    H and W are the height and width of an image.

    | field | shape | meaning |
    |---|---|---|
    | image | (B, H, W, 3 K) uint8 | touch image, RGB; of a window of K touch images all, the newest first |
    | opening | (B, 2) float32 | distance of each finger from the tool axis, m; None without gripper or when acting |

    The gap between the fingers is the sum of both openings.
    """

    image: Tensor
    opening: Tensor | None = None

    def __post_init__(self) -> None:
        channels = self.image.shape[-1]
        whole = 3 if channels % 3 or not channels else channels
        _require(self, {"image": (None, None, None, whole), "opening": (None, 2)})

    @property
    def present(self) -> Tensor:
        """(B, H, W, 3) uint8 RGB, the newest touch image of each moment."""
        return self.image[..., :3]


@dataclass(frozen=True, eq=False, kw_only=True)
class TouchBatch(TouchImages):
    """Images and contact of one touch sensor in B recorded moments, in addition to the fields of `TouchImages`.

    | field | shape | meaning |
    |---|---|---|
    | contact | (B,) bool | whether the sensor touches something |
    | contact_index | (B,) int64 | index of the contact in the episode; -1 without contact |
    """

    contact: Tensor
    contact_index: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class ObservationBatch:
    """Observations of a policy in B moments, as tensors.

    | field | shape | meaning |
    |---|---|---|
    | qpos | (B, D) float32 | normalised state of D columns |
    | views | mapping from the key of the view | see `ViewBatch` |
    | touches | mapping from sensor name | see `TouchImages` |
    | frames | mapping from camera name, (B, H, W, 3) uint8 | whole frames that only ACT uses, RGB |

    Raises:
        ValueError: The shape of a tensor is wrong, or its number of rows differs from that of qpos. The message states
            the name of the tensor.
    """

    qpos: Tensor
    views: Mapping[str, ViewBatch] = field(default_factory=dict)
    touches: Mapping[str, TouchImages] = field(default_factory=dict)
    frames: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in self.tensors().items():
            if len(tensor) != len(self.qpos):
                raise ValueError(
                    f"{name} has {len(tensor)} rows, but qpos has {len(self.qpos)}; all tensors of a batch need one "
                    f"row for each moment. Build all tensors from the same moments"
                )

    def __len__(self) -> int:
        return len(self.qpos)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the batch, by path such as "views/KEY/box"."""
        return dict(_tensors(self, ""))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return a batch in which the function `change` has been applied to every tensor, in the order of `tensors`."""
        changed: Self = _mapped(self, change)
        return changed

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on a device. From pinned memory, the copy is asynchronous."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory. A torch DataLoader calls this method."""
        return self.mapped(Tensor.pin_memory)

    def rows(self, index: slice | Tensor) -> Self:
        """Return the batch with only the moments that `index` selects."""
        return self.mapped(lambda tensor: tensor[index])

    def images(self) -> dict[str, Tensor]:
        """Return the images of all views, touches and frames, by the key of their `Input`."""
        images = {key: view.image for key, view in self.views.items()}
        images |= {sensor: touch.image for sensor, touch in self.touches.items()}
        return images | {camera_key(camera): image for camera, image in self.frames.items()}

    def with_images(self, images: Mapping[str, Tensor]) -> Self:
        """Return the batch with some images replaced by `images`, a mapping with the keys of the method `images`."""
        views = {key: replace(view, image=images.get(key, view.image)) for key, view in self.views.items()}
        touches = {key: replace(touch, image=images.get(key, touch.image)) for key, touch in self.touches.items()}
        frames = {camera: images.get(camera_key(camera), image) for camera, image in self.frames.items()}
        return replace(self, views=views, touches=touches, frames=frames)


@dataclass(frozen=True, eq=False, kw_only=True)
class MomentBatch(ObservationBatch):
    """B recorded moments: an `ObservationBatch` with contacts, actions, and the episode and time of each moment.

    | field | shape | meaning |
    |---|---|---|
    | touches | mapping from sensor name | see `TouchBatch` |
    | qpos_raw | (B, D) float64 | state as recorded |
    | action | (B, C, A) float32 | normalised actions, of A columns, of this moment and of the next C - 1 moments |
    | is_pad | (B, C) bool | whether the action is padding after the end of the episode |
    | episode | (B,) int64 | index of the episode |
    | time | (B,) int64 | frame number in the episode |
    | noise | (B, latent_dim) or (B, S, C, A) float32 | normal random numbers: ACT's latent, or S noises of the action |
    | level | (B, S) float32 | uniform random numbers in 0..1 that choose a denoiser's noise levels |
    | order | (B,) float32 | random numbers by which touches are exchanged, for hsa.pairs = "permuted" |
    | second_views | as `views` | another random augmentation of the same views, for hsa.pairs = "two_crops" |

    A policy draws `noise` and `level` itself where they are None.
    """

    touches: Mapping[str, TouchBatch] = field(default_factory=dict)
    qpos_raw: Tensor
    action: Tensor
    is_pad: Tensor
    episode: Tensor
    time: Tensor
    noise: Tensor | None = None
    level: Tensor | None = None
    order: Tensor | None = None
    second_views: Mapping[str, ViewBatch] = field(default_factory=dict)


def camera_key(camera: str) -> str:
    """Return the key of the `Input` that holds the whole frames of a camera, for ACT."""
    return f"camera-{camera}"


def collate(batch: MomentBatch) -> MomentBatch:
    """Return the batch unchanged. This is the collate function of a DataLoader over `Moments`, which returns whole
    batches.

    The function is in this module because a spawned worker imports the module of its collate function. If the function
    were in the module of the training loop, each worker would import all encoder libraries.
    """
    return batch


def required(tensor: Tensor | None, name: str) -> Tensor:
    """Return `tensor`, the field `name` of a batch, after checking that the batch has it.

    Raises:
        ValueError: `tensor` is None.
    """
    if tensor is None:
        raise ValueError(
            f"the batch has no `{name}`, which is needed here. Prepare the episodes with inputs that provide `{name}`"
        )
    return tensor


def _require(part: object, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    for name, shape in shapes.items():
        came = shape if (tensor := getattr(part, name)) is None else tuple(tensor.shape)
        if len(came) != len(shape) or any(n not in (None, m) for n, m in zip(shape, came, strict=True)):
            wanted = str(shape).replace("None", "_")
            raise ValueError(
                f"{type(part).__name__}.{name} must have shape {wanted}; got {came}. Pass a tensor of this shape, "
                f"where _ is any length"
            )


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _mapped(getattr(value, f.name), change) for f in fields(value)})
    return value


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif value is not None:
        parts = value if isinstance(value, Mapping) else {f.name: getattr(value, f.name) for f in fields(value)}
        for name, part in parts.items():
            yield from _tensors(part, f"{path}/{name}" if path else name)
