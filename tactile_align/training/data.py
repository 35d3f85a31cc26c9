"""From a training config to moments: rigs checked, episodes split, inputs sized, statistics taken."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import EpisodeRef, list_episodes, open_episode
from tactile_align.datasets.inputs import Input
from tactile_align.datasets.moments import Moments
from tactile_align.datasets.normalisation import Statistics
from tactile_align.datasets.prepare import Job
from tactile_align.datasets.splits import split_episodes
from tactile_align.errors import InputError
from tactile_align.features.encoder import input_size_of
from tactile_align.policies.act_inputs import camera_key
from tactile_align.policies.aligned import AlignedPolicy, View
from tactile_align.projection.episode_boxes import hand_of, hold_sensors
from tactile_align.training.config import DataConfig, TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """What a run trains and validates on.

    Attributes:
        train: Moments of the training episodes.
        held_out: Moments of the held-out episodes.
        statistics: From the training episodes only.
        rigs: The rig of each [[data]] entry.
        contact: (N,) bool, which training moments are in contact with a visible sensor.
    """

    train: Moments
    held_out: Moments
    statistics: Statistics
    rigs: tuple[Rig, ...]
    contact: np.ndarray


@dataclass
class LowDim:
    """Raw qpos (T, D) and action (T, A) of an episode, as `Statistics.of` takes them."""

    qpos: np.ndarray
    action: np.ndarray


def views_of(config: TrainConfig) -> tuple[View, ...]:
    """Return the views as the model knows them."""
    return tuple(View(f"{v.camera}-{v.sensor}", v.sensor, v.weight) for v in config.views)


def inputs_of(config: TrainConfig, rig: Rig) -> tuple[Input, ...]:
    """Return what the model looks at, sized for its encoders."""
    vision = config.features.vision
    touch = config.features.touch or vision
    slack = 2 * config.augment.shift_px
    differs = config.features.touch_input == "difference"
    uncertain, other = config.features.sigma_px == "rig", config.hsa.finger_rival
    found = []
    if config.views:
        width, height = input_size_of(vision.model, vision.image_size)
        for view in config.views:
            rig.camera(view.camera)
            key = f"{view.camera}-{view.sensor}"
            one = Input(
                key,
                view.camera,
                width + slack,
                height + slack,
                vision.fit,
                view.sensor,
                view.zoom,
                uncertain=uncertain,
                other_finger=other,
                ahead_m=view.ahead_m,
            )
            found.append(one)
        width, height = input_size_of(touch.model, touch.image_size)
        for name in dict.fromkeys(view.sensor for view in config.views):
            stream = rig.sensor(name).stream
            found.append(Input(name, stream, width, height, touch.fit, difference=differs))
    for camera in config.policy.cameras if config.train_policy else ():
        found.append(Input(camera_key(camera), camera, *config.policy.image_size))
    return tuple(found)


def make_model(config: TrainConfig, state_dim: int, action_dim: int, fill: bool = True) -> AlignedPolicy:
    """Build the model of a config; the same seed gives the same weights.

    Args:
        config: The run.
        state_dim: Columns of qpos.
        action_dim: Columns of an action.
        fill: False leaves pretrained weights unread: a checkpoint, which holds them all, is loaded right after.
    """
    torch.manual_seed(config.seed)
    return AlignedPolicy(
        policy=config.policy if config.train_policy else None,
        features=config.features,
        hsa=config.hsa,
        views=views_of(config),
        state_dim=state_dim,
        action_dim=action_dim,
        region=config.region,
        stop_gradient=config.alignment.mode == "stop_gradient",
        fill=fill,
    )


def stream_sizes(moments: Moments) -> dict[str, tuple[int, int]]:
    """Return (width, height) of each stream that inputs and boxes are made from, as recorded in the first episode."""
    job = moments.jobs[0]
    streams = {one.stream for one in job.inputs}
    hands = {hand_of(job.rig, one.sensor) for one in job.inputs if one.sensor is not None} - {""}
    touches = {job.rig.sensor(name).stream for arm in hands for name in hold_sensors(job.rig, arm)}
    with open_episode(job.ref) as episode:
        return {name: episode.width_height(name) for name in sorted(streams | touches & {*episode.sensors})}


def load_data(config: TrainConfig, processes: int = 1, progress: bool = True) -> Data:
    """Read, check, split and prepare everything a config names.

    Raises:
        InputError: A rig that failed verification, or anything wrong with rig or episodes; names the file.
    """
    rigs = tuple(_checked_rig(entry, config) for entry in config.data)
    jobs: dict[EpisodeRef, Job] = {}
    places: dict[tuple[Path, str], str] = {}
    for entry, rig in zip(config.data, rigs, strict=True):
        inputs = inputs_of(config, rig)
        for ref in list_episodes(entry.path, entry.layout):
            first = places.setdefault((ref.path.resolve(), ref.group), entry.path)
            if len(places) == len(jobs):
                raise InputError(
                    f"{ref}: [[data]] names this episode twice, by {first} and by {entry.path}, so it could be trained "
                    f"on and held out, or take the wrong rig. Name each episode once"
                )
            jobs[ref] = Job(ref, rig.for_episode(ref.path), inputs, config.packed)
    train_refs, held_out_refs = split_episodes(tuple(jobs), config.seed, config.held_out)
    cache = Path(config.cache)

    def moments(refs: Iterable[EpisodeRef], statistics: Statistics | None) -> Moments:
        chosen = [jobs[ref] for ref in refs]
        chunk = config.policy.chunk_size
        return Moments(chosen, statistics=statistics, chunk=chunk, cache=cache, processes=processes, progress=progress)

    train = moments(train_refs, None)
    statistics = Statistics.of(LowDim(qpos, action) for qpos, action in train.low_dim())
    train.statistics = statistics
    return Data(train, moments(held_out_refs, statistics), statistics, rigs, contact_moments(train, config))


def contact_moments(moments: Moments, config: TrainConfig) -> np.ndarray:
    """Return (N,) bool: moments in which some view's sensor is visible and in contact."""
    found = np.zeros(len(moments), dtype=bool)
    for view in views_of(config):
        found |= moments.column(f"visible/{view.key}") & moments.column(f"contact/{view.sensor}")
    return found


def _checked_rig(entry: DataConfig, config: TrainConfig) -> Rig:
    rig = load_rig(entry.rig)
    if rig.verified is not None and rig.verified.verdict == "fail" and not config.unverified_rig:
        raise InputError(
            f"{entry.rig}: this rig failed `verify` on {rig.verified.when}. Boxes in the wrong place teach the wrong "
            f"thing: calibrate it and verify again, or set unverified_rig = true to train all the same"
        )
    if rig.verified is None and config.views and not config.unverified_rig:
        level, said = logging.WARNING, f"warning: rig {entry.rig} was never verified"
        if rig.status == "exact":
            level = logging.INFO
            said = f'note: rig {entry.rig} was never verified; its status "exact" is for simulations'
        logger.log(level, f"{said}; run: tactile-align verify {entry.path} --rig {entry.rig}")
    return rig
