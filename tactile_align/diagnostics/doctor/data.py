"""Doctor checks of the data: streams, statistics, rigs, boxes, contacts and negatives. No check runs the model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import torch

from tactile_align.checks import Check, Status
from tactile_align.datasets.episodes import Episode, open_episode
from tactile_align.datasets.stream_faults import colours, look_at, stored_quality
from tactile_align.diagnostics.doctor.limits import judged, stated
from tactile_align.diagnostics.doctor.subject import Subject, sampler_of
from tactile_align.evenly import evenly
from tactile_align.geometry.images import ImageMap
from tactile_align.losses.build import negatives_of
from tactile_align.moments.dataset import Moments
from tactile_align.moments.inputs import Input, input_image, window
from tactile_align.moments.normalisation import Statistics
from tactile_align.projection.sensor_box import OTHER
from tactile_align.training.data import contact_share, part_checks
from tactile_align.verify.episode_checks import gripper_checks

LOOKED_AT = 8  # largest number of episodes whose stored touches are checked
BATCHES = 64  # number of batches whose pairs are counted
APART_M = 0.02  # opening of each finger at which the fingers are clearly apart, m


def data_checks(subject: Subject) -> Iterator[Check]:
    """Yield all checks of the data and of the pairs (touch image, image region), in the order of the report."""
    for checks in (policy_sees, box_jitter, streams, door, colour_order, touch_storage, moving_actions, statistics):
        yield from checks(subject)
    for checks in (rigs, grippers, pads, boxes_and_contacts, negatives_in_batches, false_negatives):
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


def box_jitter(subject: Subject) -> Iterator[Check]:
    """Yield the check that a policy which reads crops at the box was trained with crops that are not exact."""
    model, shift = subject.model, subject.config.augment.shift_px
    crops = [view.key for view in subject.config.views if view.zoom is not None]
    if model.act is None or not model.reads_regions or not crops:
        return
    yield stated(
        "box-jitter",
        "pass" if shift else "warn",
        f"augment.shift_px = {shift} px of the encoder's input, crops: {', '.join(crops)}",
        "random shifts of the crops in training",
        why="a policy whose crops were always exact can fail when a rig puts the box a few pixels off",
        advice="set augment.shift_px to the error of a box that you expect, in px of the encoder's input",
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
                frame = partial(_input_frame, episode, one, there, reference)
                expected = window(one, frame, t)
                here = shown[one.key][row].float().numpy()
                off = np.abs(here - expected.astype(np.float32)).mean() if here.shape == expected.shape else np.inf
                worst[one.key] = max(worst.get(one.key, 0.0), float(off))
                if box is not None and np.isfinite(box).all():
                    moved = there.apply_to_box(box)
                    gap = np.abs(raw.views[one.key].box[row].numpy() - moved).max()
                    box_off[one.key] = max(box_off.get(one.key, 0.0), float(gap))
    yield from (judged("image-is-recorded", value, name) for name, value in worst.items())
    yield from (judged("box-follows-image", value, name) for name, value in box_off.items())


def _input_frame(
    episode: Episode, entry: Input, there: ImageMap, reference: Callable[[], np.ndarray], t: int
) -> np.ndarray:
    return input_image(entry, there.apply_to_image(episode.image(entry.stream, t)), reference)


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
    own = Statistics.of(subject.data.train.low_dim(), scale_to_range=given.action_range is not None)
    names = ["qpos_mean", "qpos_std", "action_mean", "action_std", *(["action_range"] if own.action_range else [])]
    gap = max(float(np.abs(np.subtract(getattr(given, name), getattr(own, name))).max()) for name in names)
    scale = max(1e-9, max(own.qpos_std + own.action_std))
    normal = subject.batch.qpos
    measured = f"of {given.episodes} episodes (training has {own.episodes}), {gap:.1e} apart"
    error = gap / scale if given.episodes == own.episodes else math.inf
    yield judged("training-statistics", error, measured=measured)
    yield judged("normalised-joints", float(normal.abs().max()))
    if subject.config.scales_to_range:
        yield judged("action-range", float(subject.wide.action.abs().max()))


def rigs(subject: Subject) -> Iterator[Check]:
    """Yield the checks that the rigs were verified against recordings."""
    for number, (entry, rig) in enumerate(zip(subject.config.data, subject.data.rigs, strict=True)):
        status: Status = "pass" if rig.status == "exact" else "warn"
        verdict = "exact, from a simulation" if rig.status == "exact" else "never verified"
        if rig.verified is not None:
            status = rig.verified.verdict
            verdict = f"verified on {rig.verified.when}: {rig.verified.verdict}"
        yield stated(
            "rig-verified",
            "pass" if status == "warn" and subject.config.hsa.weight == 0 else status,
            f"{entry.rig_source}: {verdict}",
            "verified: pass",
            str(number),
            why="a rig that does not fit the recordings gives boxes that miss the sensor",
            advice=f"run: tactile-align verify {entry.path} --rig {entry.rig_source}",
        )


def grippers(subject: Subject) -> Iterator[Check]:
    """Yield the checks of the law of each gripper against its reading, for each data entry; see `gripper_checks`."""
    for number, rig in enumerate(subject.data.rigs):
        for check in gripper_checks(rig):
            _, _, arm = check.id.partition("/")
            yield replace(check, id=f"{check.kind}/{number}/{arm}", title=f"{check.title}, data entry {number}")


def pads(subject: Subject) -> Iterator[Check]:
    """Yield the checks that each sensor on a finger faces the other finger, across the grasped object."""
    qpos = subject.data.train.low_dim()[0][0][0]
    for (number, rig), name in product(enumerate(subject.data.rigs), subject.model.sensors):
        sensor = rig.sensor(name)
        arm, _, finger = sensor.parent.partition("/")
        if finger in OTHER:
            across = rig.T_from_to(sensor.parent, f"{arm}/{OTHER[finger]}", qpos, np.full(2, APART_M))[:3, 3]
            normal = sensor.T_parent_this[:3, :3] @ np.asarray(sensor.pad.normal)
            angle = np.arccos(np.clip(normal @ across / np.linalg.norm(across), -1, 1))
            yield judged("pad-direction", float(np.degrees(angle)), str(number), name)


def boxes_and_contacts(subject: Subject) -> Iterator[Check]:
    """Yield checks of the share of moments with a box, of that with both box and contact, and of each part's pairs."""
    moments = subject.data.train
    for view in subject.model.views:
        visible, contact = moments.views[view.key].visible, moments.touches[view.sensor].contact
        yield judged("box-share", float(visible.mean()), view.key)
        yield judged("contact-share", float((visible & contact).mean()), view.key)
    yield from part_checks(subject.data, subject.config)


def negatives_in_batches(subject: Subject) -> Iterator[Check]:
    """Yield checks of the mean number of negatives per pair, over many batches drawn as in training.

    Negatives from the same image and from the memory bank are counted at their largest possible number; the option
    hsa.touch_ceiling is ignored.
    """
    config, data, moments = subject.config, subject.data, subject.data.train
    hsa = config.hsa.model_copy(update={"touch_ceiling": None})
    if not subject.model.aligns or hsa.kind == "mse":
        return
    sampler, parts = sampler_of(config, data), config.optimiser.accumulate
    batches = [sampler.batch(n)[part::parts] for n in range(BATCHES) for part in range(parts)]
    more = hsa.region_negatives + hsa.finger_negative + hsa.camera_negative + hsa.bank
    share = contact_share(data.contact, config)
    drawn = f"batch_size {config.batch_size}{f' in {parts} parts' if parts > 1 else ''}, contact_share "
    drawn += f"natural = {data.contact.mean():.2g}" if share is None else f"{share:g}"
    for view in subject.model.views:
        touch, valid = moments.touches[view.sensor], moments.views[view.key].visible
        valid = valid & touch.contact if hsa.require_contact else valid
        counts = []
        for batch in batches:
            rows = batch[valid[batch]]
            columns = (moments.episode, moments.time, touch.contact_index)
            episode, time, index = (torch.from_numpy(column[rows]) for column in columns)
            rule = negatives_of(hsa, episode, time, None, index)
            counts.append(rule.rows(0, len(rows)).sum(dim=1) + more)
        each = torch.cat(counts).double()
        empty = sum(not len(count) for count in counts) / len(counts)
        extra = f", up to {more} of them regions or past pairs" if more else ""
        measured = f"{float(each.mean()):.1f}{extra} (chance {float(each.log1p().mean()):.2f}), "
        measured += f"{len(each) / len(counts):.1f} pairs a batch, none in {empty:.0%} of batches; {drawn}"
        advice = (
            f"set contact_share to 0.5 or more, raise batch_size, {lower_gap(subject, view.sensor)}or set "
            f"hsa.region_negatives"
        )
        yield judged("negatives-per-pair", float(each.mean()), view.key, measured=measured, advice=advice)


def contact_rows(moments: Moments, sensor: str) -> np.ndarray:
    """Return the length of each contact of a sensor, (C,) int, in rows of its episode."""
    index = moments.touches[sensor].contact_index
    found = np.stack([moments.episode, index])[:, index >= 0]
    return np.unique(found, axis=1, return_counts=True)[1]


def lasting(lengths: np.ndarray) -> str:
    """Return the lengths of contacts, (C,) rows, as text; C is at least 1."""
    median, longest = int(np.median(lengths)), int(lengths.max())
    return f"contacts last {longest} rows" if median == longest else f"contacts last {median} to {longest} rows"


def lower_gap(subject: Subject, sensor: str) -> str:
    """Return the advice on a lower hsa.min_gap, with its value; "" if it is no longer than the sensor's contacts."""
    lengths, gap = contact_rows(subject.data.train, sensor), subject.config.hsa.min_gap
    if not len(lengths) or gap <= lengths.max():
        return ""
    return f"lower hsa.min_gap ({lasting(lengths)}: `hsa.min_gap = {lengths.max()}`), "


def false_negatives(subject: Subject) -> Iterator[Check]:
    """Yield checks of the share of negatives in a batch that are false.

    A negative is false if its two moments belong to the same contact, or if both are without contact.
    """
    alignment, batch = subject.model.alignment, subject.batch
    if alignment is None or not subject.model.aligns:
        return
    for view in subject.model.views:
        rule = alignment.negatives(batch, view).rows(0, len(batch))
        valid = alignment.valid_pairs(batch, view)
        pairs = rule & valid[:, None] & valid[None, :]
        index, contact = batch.touches[view.sensor].contact_index, batch.touches[view.sensor].contact
        same = (index[:, None] == index) & (batch.episode[:, None] == batch.episode) & (index >= 0)
        alike = same | (~contact[:, None] & ~contact)
        count, hsa, advice = int(pairs.sum()), subject.config.hsa, []
        lengths = contact_rows(subject.data.train, view.sensor)
        if not hsa.exclude_same_contact and len(lengths):
            value = f"`hsa.min_gap = {lengths.max()}`"
            advice.append(f"{lasting(lengths)}: {value}, or better `hsa.exclude_same_contact = true`")
        if not hsa.require_contact:
            advice.append("moments without contact all look alike: `hsa.require_contact = true`")
        share = int((pairs & alike).sum()) / count if count else math.nan
        yield judged("false-negatives", share, view.key, advice="; ".join(advice))
