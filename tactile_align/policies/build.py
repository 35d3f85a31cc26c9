"""Functions that build the image inputs and the model of a training config, and that load a trained run."""

import logging
import os
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tactile_align.calibration.rig import Rig
from tactile_align.config.features import EncoderConfig
from tactile_align.config.train import TrainConfig, load_config
from tactile_align.errors import InputError
from tactile_align.facts import parse
from tactile_align.features.encoder import SCRATCH, encoder_of
from tactile_align.features.tensor_files import header_of, require_finite
from tactile_align.features.weights import QUICK, TOWER, input_size_of, uses_quick_gelu
from tactile_align.geometry.images import ImageMap
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import AheadBatch, MomentBatch, camera_key
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input
from tactile_align.policies.act import read_resnet18_weights
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.alignment import Alignment, View, frame_keys
from tactile_align.policies.checkpoint import (
    MEASURES,
    MEMORY,
    Measure,
    load_checkpoint,
    load_tensors,
    load_validated,
    selected_checkpoint,
    weights_of,
)

logger = logging.getLogger(__name__)


def views_of(config: TrainConfig) -> tuple[View, ...]:
    """Return the views of a config in the form that the model uses."""
    return tuple(View(v.key, v.camera, v.sensor, v.weight, v.zoom is not None) for v in config.views)


def sensors_of(config: TrainConfig) -> tuple[str, ...]:
    """Return the names of the touch sensors whose images the model of a config encodes."""
    views = tuple(dict.fromkeys(view.sensor for view in config.views))
    return views if config.pretrain is None else config.pretrain.sensors


def inputs_of(config: TrainConfig, rig: Rig) -> tuple[Input, ...]:
    """Return the inputs of the model of a config, with the image sizes of its encoders.

    In pretraining, one encoder gets all images, and touches are a window only if its images are stacked, or if the next
    touches are predicted.

    Raises:
        InputError: Two inputs have the same key.
    """
    vision, touch = config.features.vision, config.features.touch or config.features.vision
    if config.pretrain is not None:
        vision = touch
    inputs = []
    if config.views:
        width, height = (side + 2 * config.augment.shift_px for side in input_size_of(vision.model, vision.image_size))
        uncertain, other_finger = config.features.sigma_px == "rig", config.hsa.finger_negative
        for view, named in zip(config.views, views_of(config), strict=True):
            rig.camera(view.camera)
            entry = Input(
                named.key, view.camera, width, height, vision.fit, view.sensor, view.zoom, ahead_m=view.ahead_m
            )
            entry = replace(entry, uncertain=uncertain, other_finger=other_finger)
            if (pointer := config.pointer) is not None and view.key in pointer.views:
                entry = replace(entry, contacts=pointer.most, horizon=pointer.horizon, complete=pointer.complete)
            inputs.append(entry)
    if sensors := sensors_of(config):
        width, height = input_size_of(touch.model, touch.image_size)
        differs = config.features.touch_input == "difference"
        earlier = config.features.touch_earlier
        if config.pretrain is not None and config.features.stacked_frames == 1:
            earlier = () if config.pretrain.next is None else config.pretrain.next.earlier
        for name in sensors:
            entry = Input(name, rig.sensor(name).stream, width, height, touch.fit, difference=differs)
            inputs.append(replace(entry, earlier=earlier))
    policy = config.policy.vision if config.train_policy else "none"
    if policy == "tower":
        size = input_size_of(vision.model, vision.image_size)
        keys = frame_keys(views_of(config))
        inputs += [Input(key, camera, *size, vision.fit) for camera, key in keys.items() if key == camera_key(camera)]
    if policy == "resnet18":
        inputs += [Input(camera_key(camera), camera, *config.policy.image_size) for camera in config.policy.cameras]
    names = [entry.key for entry in inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"several inputs of the model have the name {', '.join(twice)}, but views, sensors and whole frames "
            f"(camera-NAME) need different names. Set another `name` in [[views]]"
        )
    return tuple(inputs)


def make_model(config: TrainConfig, state_dim: int, action_dim: int, fill: bool = True) -> AlignedPolicy:
    """Return the model of a config; the same seed gives the same weights.

    Args:
        config: Training config.
        state_dim: Number of columns of qpos.
        action_dim: Number of columns of an action.
        fill: Whether to read pretrained weights; False is for models whose checkpoint is loaded right after.

    Raises:
        InputError: The config is that of a pretraining run, which has neither policy nor alignment.
    """
    if config.pretrain is not None:
        raise InputError(
            f"{config.out}: a run with a policy or an alignment is needed; this is a pretraining run. See its results "
            f"with tactile-align report, or train a run with features.touch.pretrained = "
            f"'{config.out}/tower.safetensors'"
        )
    torch.manual_seed(config.seed)
    return AlignedPolicy(
        policy=config.policy if config.train_policy else None,
        features=config.features,
        hsa=config.hsa,
        pointer=config.pointer,
        views=views_of(config),
        state_dim=state_dim,
        action_dim=action_dim,
        region=config.region,
        stop_gradient=config.alignment.mode == "stop_gradient",
        fill=fill,
    )


def set_pointer_rates(model: AlignedPolicy, train: Moments) -> None:
    """Set the chance levels of the model's pointer, and the weight of done, from the moments of the training split.

    All moments count alike, so the levels are those of the batches only with contact_share = "natural".
    """
    if model.pointer is None:
        return
    for number, key in enumerate(model.pointed_keys):
        entry = next(entry for entry in train.jobs[0].inputs if entry.key == key)
        width, height = model.pointer.input_size
        left, top = (entry.width - width) // 2, (entry.height - height) // 2  # the cut of `augment` without a generator
        cut = ImageMap.identity(entry.width, entry.height).crop(left, top, width, height)
        shown = train.ahead[key].through(cut)
        flags = (torch.from_numpy(getattr(shown, name)) for name in ("known", "done", "done_known"))
        model.pointer.set_rates(number, AheadBatch(torch.from_numpy(shown.points).float(), *flags))


def check_weights(config: TrainConfig) -> None:
    """Read the initial weights of a config once, so that unusable ones are found before episodes are prepared.

    Raises:
        FactError, FileNotFoundError: `init` is not a run or a checkpoint.
        ConnectionError, FileNotFoundError, InputError, MissingExtra: Pretrained weights cannot be used; see
            `load_encoder` and `read_resnet18_weights`.
    """
    if config.init is not None:
        load_checkpoint(initial_checkpoint(config.init))
    policy = config.policy if config.train_policy else None
    reads = policy is not None and (policy.vision == "tower" or policy.region_tokens or policy.touch_tokens)
    features, frames = config.features, config.features.stacked_frames
    encoders: dict[tuple[EncoderConfig | None, int], None] = {}
    if config.pretrain is not None:
        encoders = {(getattr(features, config.pretrained_side), frames): None}
    elif config.views and (config.hsa.weight > 0 or reads or config.pointer is not None):
        encoders = dict.fromkeys(((features.vision, 1), (features.touch, frames)))
    for encoder, stacked in encoders:
        if encoder is not None and encoder.pretrained != SCRATCH:
            origin = encoder_of(encoder, frames=stacked).origin
            if origin is not None:
                logger.info(origin)
    if policy is not None and policy.vision == "resnet18" and policy.vision_weights not in (None, SCRATCH):
        read_resnet18_weights(str(policy.vision_weights))


def initial_checkpoint(init: str) -> Path:
    """Return the checkpoint file that a config's entry `init` names; for a run folder, that of the selected weights.

    Raises:
        FactError, FileNotFoundError: `init` is not a run or a checkpoint.
        InputError: The file contains only an encoder.
    """
    source = Path(init)
    if not source.exists():
        raise FileNotFoundError(
            f"init = '{init}': no such run folder or checkpoint file, but the run and its opening-only baseline start "
            f"from these weights. Restore it, set init to another run, or evaluate with --no-baseline"
        )
    if TOWER in header_of(source):
        raise InputError(
            f"init = '{init}': this file is an encoder; init needs a run folder or a checkpoint of a run. Set "
            f"features.vision.pretrained (or features.touch.pretrained) to this file"
        )
    if source.is_file():
        return source
    run = load_config(source / "config.toml")
    return selected_checkpoint(source / "checkpoints", measure_of(run, "action" if run.train_policy else "retrieval"))


def start_from(model: AlignedPolicy, config: TrainConfig) -> dict[str, list[str]]:
    """Load the weights of `init` that have the same name and shape into the model of a config.

    Returns:
        Three lists of tensor names. taken: loaded from `init`. new: in the model, but not taken. left: in `init`, but
        not taken. An empty dict without `init`.

    Raises:
        FactError, FileNotFoundError: `init` is not a run or a checkpoint.
        InputError: No tensor fits, or the encoders of the model would compute other tokens from equal weights, because
            their activation differs. Only a baseline with region = "opening" may start from a run of which no tensor
            fits.
    """
    if config.init is None:
        return {}
    source = initial_checkpoint(config.init)
    state = load_checkpoint(source)
    _require_like_encoders(parse(TrainConfig, tomllib.loads(state["config"]), str(source)), config, source)
    mean = state.get("mean")
    tensors: dict[str, Tensor] = state["model"] if mean is None else mean["tensors"]
    tensors = {name: value for name, value in tensors.items() if not name.startswith(MEMORY)}
    own = weights_of(model)
    taken = [name for name, value in own.items() if name in tensors and tensors[name].shape == value.shape]
    if not taken and config.region == "box":
        raise InputError(
            f"{source}: none of its {len(tensors)} tensors fits the model, which needs {len(own)} tensors. Set init to "
            f"a run with the same encoders or the same policy, or omit init"
        )
    require_finite({name: tensors[name] for name in taken}, source)
    load_tensors(model, {**own, **{name: tensors[name] for name in taken}}, memory=False)
    if model.alignment is not None and model.alignment.memory is not None:
        model.alignment.memory.following.module.load_state_dict(model.alignment.towers.state_dict())
    new, left = [name for name in own if name not in taken], [name for name in tensors if name not in taken]
    return {"taken": taken, "new": new, "left": left}


def _require_like_encoders(theirs: TrainConfig, ours: TrainConfig, source: Path) -> None:
    """Check that the encoders of two runs compute equal tokens from equal weights."""
    if theirs.pretrain is not None:
        raise InputError(
            f"init = '{ours.init}': this is a pretraining run, which has only a touch encoder. Omit init, and set "
            f"features.touch.pretrained to its tower.safetensors"
        )
    for side in ("vision", "touch"):
        a, b = (getattr(config.features, side) for config in (theirs, ours))
        if a is None or b is None or a.model.removesuffix(QUICK) != b.model.removesuffix(QUICK):
            continue  # tensors of other models have other names or shapes, which the log shows
        if uses_quick_gelu(a) != uses_quick_gelu(b):
            differ = [name for name in ("model", "pretrained") if getattr(a, name) != getattr(b, name)]
            advice = " and ".join(f"features.{side}.{name} = '{getattr(a, name)}'" for name in differ)
            raise InputError(
                f"{source}: its {side} encoder {a.model} ({a.pretrained}) uses another activation (QuickGELU or GELU) "
                f"than {b.model} ({b.pretrained}) of this config, but weights need the activation of their training. "
                f"Set {advice} as in that run"
            )


def measure_of(config: TrainConfig, wanted: Literal["action", "retrieval"]) -> Measure | Literal["last"]:
    """Return the measure that selects the weights for a run's action results, or for all its other results.

    `wanted` is "action" for action results, and "retrieval" for retrieval and all other results.
    """
    if config.selection == "last":
        return "last"
    return wanted if config.selection == "auto" or wanted == "action" else config.selection


def device_of(stated: str) -> torch.device:
    """Return the torch device that a config states. auto: the GPU of this process if there is one, else the CPU.

    Raises:
        InputError: The machine does not have the device.
    """
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        chosen = torch.device({"auto": own if torch.cuda.is_available() else "cpu", "cuda": own}.get(stated, stated))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        gpus = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(
            f"device = '{stated}' is not available ({str(error).splitlines()[0]}). Devices of this machine: "
            f"{', '.join(['auto', 'cpu', *(gpus if len(gpus) > 1 else [])])}. Set device to one of these"
        ) from error
    return chosen


ROWS = 128  # moments in one batch


@dataclass(frozen=True)
class LoadedRun:
    """Model of a run, the moments that it is evaluated on, and the config of the run.

    Attributes:
        model: The model, in eval mode on the device of the config.
        moments: The moments, usually those of the held-out episodes.
        config: Training config of the run.
        step: Number of training steps behind the weights.
        selected: Text that states how the weights were selected, such as "best held-out R@1 0.120, step 400".
    """

    model: AlignedPolicy
    moments: Moments
    config: TrainConfig
    step: int = 0
    selected: str = "initial weights"

    @classmethod
    def untrained(cls, config: TrainConfig, moments: Moments) -> "LoadedRun":
        """Return a run with the model's initial weights, before any training step.

        Raises:
            FileNotFoundError: `init`, or a file of pretrained weights, does not exist any more.
        """
        model = make_model(config, *moments.state_width)
        start_from(model, config)
        return cls(model.eval().to(device_of(config.device)), moments, config)

    @classmethod
    def load(
        cls, folder: Path, config: TrainConfig, moments: Moments, measure: Literal["action", "retrieval"]
    ) -> "LoadedRun":
        """Return a run with the weights that were selected for its actions, or for retrieval and other metrics.

        If no weights were selected by the measure, they are those of the last checkpoint.

        Raises:
            FileNotFoundError: The folder contains no checkpoint.
            InputError: The checkpoint is damaged, or was written by another version or for another model, or the
                machine does not have the device of the config.
        """
        model = make_model(config, *moments.state_width, fill=False)
        state = load_validated(model, selected_checkpoint(folder / "checkpoints", measure_of(config, measure)))
        best = (
            f"best {MEASURES[state['measure']]} {state['value']:.3f}, " if "measure" in state else "last checkpoint, "
        )
        model = model.eval().to(device_of(config.device))
        return cls(model, moments, config, state["step"], f"{best}step {state['step']}")

    @property
    def alignment(self) -> Alignment:
        """Vision and touch encoders of the run, with the alignment loss.

        Raises:
            InputError: The run has no encoders.
        """
        if self.model.alignment is None:
            raise InputError("this run has no encoders, which are needed here. Train with [[views]] and hsa.weight > 0")
        return self.model.alignment

    def view(self, key: str) -> View:
        """Return the view with the key `key`."""
        return next(view for view in self.model.views if view.key == key)

    def batch(self, rows: Sequence[int] | np.ndarray) -> MomentBatch:
        """Return the moments `rows` at the encoders' input size on the model's device, without random augmentation."""
        device = next(self.model.parameters()).device
        return augment(self.moments.batch(rows).to(device), self.config.augment)

    def batches(self, rows: np.ndarray) -> Iterator[MomentBatch]:
        """Yield the moments `rows` in batches of about ROWS, each as `batch` returns it."""
        for chosen in np.array_split(rows, max(1, len(rows) // ROWS)):
            yield self.batch(chosen)
