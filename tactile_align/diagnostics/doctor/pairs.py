"""Doctor checks of the pairs: rigs, boxes, contacts and negatives."""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch

from tactile_align.checks import Check, Status
from tactile_align.diagnostics.doctor.limits import judged, stated
from tactile_align.diagnostics.doctor.subject import Subject, sampler_of
from tactile_align.losses.build import negatives_of
from tactile_align.projection.other_finger import OTHER
from tactile_align.training.data import contact_share, part_checks

BATCHES = 64  # number of batches whose pairs are counted
APART_M = 0.02  # opening of each finger at which the fingers are clearly apart, m


def pair_checks(subject: Subject) -> Iterator[Check]:
    """Yield all checks of rigs, boxes, contacts and negatives, in the order of the report."""
    for checks in (rigs, pads, boxes_and_contacts, negatives_in_batches, false_negatives):
        yield from checks(subject)


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
            f"{entry.rig}: {verdict}",
            "verified: pass",
            str(number),
            why="a rig that does not fit the recordings gives boxes that miss the sensor",
            advice=f"run: tactile-align verify {entry.path} --rig {entry.rig}",
        )


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
        yield judged("negatives-per-pair", float(each.mean()), view.key, measured=measured)


def lonely_pairs(subject: Subject) -> Iterator[Check]:
    """Yield checks of the share of pairs in a batch that have no negative, counted as in the log of a training run."""
    if not subject.model.aligns:
        return
    with torch.no_grad():
        log = subject.losses(subject.batch).log
    for view in subject.model.views:
        lonely = int(log[f"no_negative/{view.key}"])
        pairs = lonely + int(log[f"pairs/{view.key}"])
        share = lonely / pairs if pairs else math.nan
        yield judged("pairs-without-negatives", share, view.key, measured=f"{lonely} of {pairs}")


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
        count = int(pairs.sum())
        yield judged("false-negatives", int((pairs & alike).sum()) / count if count else math.nan, view.key)
