"""A batch of moments: images, boxes, joints, actions and the facts for negatives, spelled out once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """One view of B moments: a camera's image with the box of a sensor in it.

    | field | shape | what |
    |---|---|---|
    | image | (B, H, W, 3) uint8 | the input, RGB |
    | box | (B, 4) float32 | the sensor's box in the input, or that before its pad, px; nan where there is none |
    | visible | (B,) bool | whether that box exists |
    | sigma | (B, 2) float32 | standard deviation of its place along u and v, px; None unless the input is `uncertain` |
    | other_box | (B, 4) float32 | the other finger's box in the input, px; None unless it has `other_finger` |
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
    """One sensor in B moments, for a policy.

    | field | shape | what |
    |---|---|---|
    | image | (B, H, W, 3) uint8 | the touch, RGB |
    | opening | (B, 2) float32 | each finger's distance from the tool axis, m; None without a gripper, and when acting |

    The gap between the fingers is the sum of both openings.
    """

    image: Tensor
    opening: Tensor | None = None

    def __post_init__(self) -> None:
        _require(self, {"image": (None, None, None, 3), "opening": (None, 2)})


@dataclass(frozen=True, eq=False, kw_only=True)
class TouchBatch(TouchImages):
    """One sensor in B recorded moments: `TouchImages` and its contact.

    | field | shape | what |
    |---|---|---|
    | contact | (B,) bool | whether the sensor touches something |
    | contact_index | (B,) int64 | which contact of the episode, -1 between |
    """

    contact: Tensor
    contact_index: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class ObservationBatch:
    """The observations of a policy in B moments.

    | field | shape | what |
    |---|---|---|
    | qpos | (B, D) float32 | normalised state |
    | views | by key, CAMERA-SENSOR | see `ViewBatch` |
    | touches | by sensor | see `TouchImages` |
    | frames | by camera, (B, H, W, 3) uint8 | whole frames for ACT's own ResNet, RGB |

    Raises:
        ValueError: A tensor has another shape, or another number of rows than qpos; names it.
    """

    qpos: Tensor
    views: Mapping[str, ViewBatch] = field(default_factory=dict)
    touches: Mapping[str, TouchImages] = field(default_factory=dict)
    frames: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in self.tensors().items():
            if len(tensor) != len(self.qpos):
                raise ValueError(
                    f"every tensor of a batch needs {len(self.qpos)} rows, as qpos; {name} has {len(tensor)}"
                )

    def __len__(self) -> int:
        return len(self.qpos)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its path, such as "views/KEY/box"."""
        return dict(_tensors(self, ""))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the batch with every tensor changed, one after the other in the order of `tensors`."""
        changed: Self = _mapped(self, change)
        return changed

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on a device; from pinned memory the copy does not wait."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory; a DataLoader calls it."""
        return self.mapped(Tensor.pin_memory)

    def rows(self, index: slice | Tensor) -> Self:
        """Return some of the moments."""
        return self.mapped(lambda tensor: tensor[index])

    def images(self) -> dict[str, Tensor]:
        """Return the images of all views, touches and frames by the key of their input."""
        images = {key: view.image for key, view in self.views.items()}
        images |= {sensor: touch.image for sensor, touch in self.touches.items()}
        return images | {camera_key(camera): image for camera, image in self.frames.items()}

    def with_images(self, images: Mapping[str, Tensor]) -> Self:
        """Return the batch with some images of `images` replaced."""
        views = {key: replace(view, image=images.get(key, view.image)) for key, view in self.views.items()}
        touches = {key: replace(touch, image=images.get(key, touch.image)) for key, touch in self.touches.items()}
        frames = {camera: images.get(camera_key(camera), image) for camera, image in self.frames.items()}
        return replace(self, views=views, touches=touches, frames=frames)


@dataclass(frozen=True, eq=False, kw_only=True)
class MomentBatch(ObservationBatch):
    """B recorded moments: `ObservationBatch` with contacts, actions, and the origin of each moment.

    | field | shape | what |
    |---|---|---|
    | touches | by sensor | see `TouchBatch` |
    | qpos_raw | (B, D) float64 | state as recorded |
    | action | (B, C, A) float32 | normalised actions of this moment and the next C - 1 |
    | is_pad | (B, C) bool | True past the end of the episode |
    | episode | (B,) int64 | which episode |
    | time | (B,) int64 | which moment of it |
    | noise | (B, latent) float32 | of ACT's latent; None: ACT draws it |
    """

    touches: Mapping[str, TouchBatch] = field(default_factory=dict)
    qpos_raw: Tensor
    action: Tensor
    is_pad: Tensor
    episode: Tensor
    time: Tensor
    noise: Tensor | None = None


def camera_key(camera: str) -> str:
    """Return the key of the input that is a camera's whole frame for ACT's own ResNet."""
    return f"camera-{camera}"


def collate(batch: MomentBatch) -> MomentBatch:
    """Return the batch unchanged: the collate function of a DataLoader over `Moments`, which returns whole batches.

    It stands here because a spawned worker imports the module of its collate function: the training loop would import
    every encoder library in each worker.
    """
    return batch


def required(tensor: Tensor | None, name: str) -> Tensor:
    """Return a tensor that some batches lack.

    Raises:
        ValueError: This batch has none.
    """
    if tensor is None:
        raise ValueError(
            f"needed a batch with `{name}`; this one has none. Prepare the episodes with inputs that have it"
        )
    return tensor


def _require(part: object, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    for name, shape in shapes.items():
        came = shape if (tensor := getattr(part, name)) is None else tuple(tensor.shape)
        if len(came) != len(shape) or any(n not in (None, m) for n, m in zip(shape, came, strict=True)):
            wanted = str(shape).replace("None", "_")
            raise ValueError(f"{type(part).__name__}.{name} must have shape {wanted}; got {came}")


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
