"""Doctor checks of the data, which compute nothing with the model."""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from tactile_align.checks import Check
from tactile_align.datasets.episodes import open_episode
from tactile_align.datasets.stream_faults import colours, look_at, stored_quality
from tactile_align.diagnostics.doctor.limits import judged, stated
from tactile_align.diagnostics.doctor.pairs import pair_checks
from tactile_align.diagnostics.doctor.subject import Subject
from tactile_align.evenly import evenly
from tactile_align.moments.frames import input_image
from tactile_align.moments.normalisation import Statistics

LOOKED_AT = 8  # largest number of episodes whose stored touches are checked


def data_checks(subject: Subject) -> Iterator[Check]:
    """Yield all checks of the data and of the pairs (touch image, image region), in the order of the report."""
    for checks in (policy_sees, streams, door, colour_order, touch_storage, moving_actions, statistics, pair_checks):
        yield from checks(subject)


def policy_sees(subject: Subject) -> Iterator[Check]:
    """Yield the check that the policy gets whole camera frames, with a list of all inputs of the policy."""
    model = subject.model
    if model.act is None:
        return
    seen = []
    for camera, key in model.frame_keys.items():
        crops = "" if key in subject.batch.views else " (one more image a moment: the views of this camera are crops)"
        seen.append(f"whole frame of {camera} through the vision tower{crops}")
    seen += [f"whole frame of {camera} through its ResNet" for camera in model.act.config.cameras]
    shown = [f"region {view.key}" for view in model.views if model.reads_regions]
    shown += [f"touch {sensor}" for sensor in model.sensors if model.reads_touches]
    yield stated(
        "policy-sees",
        "pass" if seen else "warn",
        ", ".join([*seen, *shown, "joints"]),
        "the whole frame of a camera",
        why="a policy without whole frames acts blindly until a sensor is in view",
        advice="set policy.vision = 'tower', or 'resnet18' with policy.cameras; keep 'none' only for comparisons",
    )


def streams(subject: Subject) -> Iterator[Check]:
    """Yield checks of each image stream: change from moment to moment, repeated frames, and brightness."""
    for name, images in subject.wide.images().items():
        values = images.float()
        unique, mean = len({bytes(image.numpy().tobytes()) for image in images}), float(values.mean())
        yield judged("stream-change", float(values.std(dim=0).mean()), name)
        yield judged("distinct-frames", unique / len(images), name, measured=f"{unique} of {len(images)}")
        brightness = min(mean, 255 - mean) if images.dtype == torch.uint8 else math.nan
        measured = f"{images.dtype} {float(values.min()):.0f} to {float(values.max()):.0f}, mean {mean:.0f}"
        yield judged("image-brightness", brightness, name, measured=measured)


def door(subject: Subject) -> Iterator[Check]:
    """Yield the checks that the images and boxes in a training batch equal the recorded ones, moment by moment."""
    moments, raw = subject.data.train, subject.raw
    shown = raw.images()
    worst: dict[str, float] = {}
    box_off: dict[str, float] = {}
    for row in range(0, len(raw), max(1, len(raw) // 6)):
        job = moments.jobs[int(raw.episode[row])]
        t = int(raw.time[row])
        start = int(np.flatnonzero(moments.episode == int(raw.episode[row]))[0])
        with open_episode(job.ref) as episode:
            for one in job.inputs:
                width, height = episode.width_height(one.stream)
                box = moments.views[one.key].frame_box[start + t] if one.sensor is not None else None
                there = one.image_map(width, height, box if one.zoom is not None else None)
                reference = partial(moments.reference, int(raw.episode[row]), one.key)
                expected = input_image(one, there.apply_to_image(episode.image(one.stream, t)), reference)
                here = shown[one.key][row].float().numpy()
                off = np.abs(here - expected.astype(np.float32)).mean() if here.shape == expected.shape else np.inf
                worst[one.key] = max(worst.get(one.key, 0.0), float(off))
                if box is not None and np.isfinite(box).all():
                    moved = there.apply_to_box(box)
                    gap = np.abs(raw.views[one.key].box[row].numpy() - moved).max()
                    box_off[one.key] = max(box_off.get(one.key, 0.0), float(gap))
    yield from (judged("image-is-recorded", value, name) for name, value in worst.items())
    yield from (judged("box-follows-image", value, name) for name, value in box_off.items())


def colour_order(subject: Subject) -> Iterator[Check]:
    """Yield the check that the stated channel order of the first episode is plausible.

    All cameras show the same scene, so their colours should be similar.
    """
    with open_episode(subject.data.train.jobs[0].ref) as episode:
        every = max(1, len(episode) // 6)
        remarks = colours(episode, {name: look_at(episode, name, every) for name in episode.cameras})
    yield judged("colour-order", len(remarks), measured=remarks[0] if remarks else "as stated")


def touch_storage(subject: Subject) -> Iterator[Check]:
    """Yield checks of the JPEG quality of each touch stream, over some of the training episodes."""
    jobs = subject.data.train.jobs
    worst: dict[str, float] = {}  # infinite for lossless storage
    for index in evenly(len(jobs), LOOKED_AT):
        with open_episode(jobs[index].ref) as episode:
            for name in (one.stream for one in jobs[index].inputs if one.key in subject.model.sensors):
                stored = stored_quality(episode, name)
                worst[name] = min(worst.get(name, math.inf), math.inf if stored is None else stored)
    for name, quality in worst.items():
        measured = "lossless" if quality == math.inf else f"JPEG quality {quality:.0f}"
        yield judged("touch-storage", quality, name, measured=measured)


def moving_actions(subject: Subject) -> Iterator[Check]:
    """Yield the check of the number of action columns that change over time."""
    moving = np.concatenate([action for _, action in subject.data.train.low_dim()]).std(axis=0) > 1e-4
    yield judged("moving-actions", int(moving.sum()), measured=f"{int(moving.sum())} of {len(moving)}")


def statistics(subject: Subject) -> Iterator[Check]:
    """Yield checks of the normalisation: statistics of the training episodes, and the joints normalised by them."""
    given = subject.data.statistics
    own = Statistics.of(subject.data.train.low_dim())
    gap = max(
        float(np.abs(np.subtract(getattr(given, name), getattr(own, name))).max())
        for name in ("qpos_mean", "qpos_std", "action_mean", "action_std")
    )
    scale = max(1e-9, max(own.qpos_std + own.action_std))
    normal = subject.batch.qpos
    measured = f"of {given.episodes} episodes (training has {own.episodes}), {gap:.1e} apart"
    error = gap / scale if given.episodes == own.episodes else math.inf
    yield judged("training-statistics", error, measured=measured)
    yield judged("normalised-joints", float(normal.abs().max()))
