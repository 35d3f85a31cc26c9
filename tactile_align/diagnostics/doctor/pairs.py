"""The doctor's checks of pairs: is there a box, is there a contact, and what are they held against."""

import math
from itertools import product

import numpy as np
import torch

from tactile_align.checks import Check, Status
from tactile_align.diagnostics.doctor.limits import judged, stated
from tactile_align.diagnostics.doctor.subject import Subject
from tactile_align.projection.other_finger import OTHER

APART_M = 0.02  # an opening at which the fingers are apart


def pair_checks(subject: Subject) -> list[Check]:
    """Return all checks of rigs, boxes, contacts and negatives."""
    return [*rigs(subject), *pads(subject), *boxes_and_contacts(subject), *false_negatives(subject)]


def rigs(subject: Subject) -> list[Check]:
    """Whether the rigs were held against recordings."""
    checks = []
    for number, (entry, rig) in enumerate(zip(subject.config.data, subject.data.rigs, strict=True)):
        status: Status = "pass" if rig.status == "exact" else "warn"
        verdict = "exact, from a simulation" if rig.status == "exact" else "never verified"
        if rig.verified is not None:
            status = "fail" if rig.verified.verdict == "fail" else "pass" if rig.verified.verdict == "pass" else "warn"
            verdict = f"verified on {rig.verified.when}: {rig.verified.verdict}"
        checks.append(
            stated(
                "rig-verified",
                "pass" if status == "warn" and subject.config.hsa.weight == 0 else status,
                f"{entry.rig}: {verdict}",
                "verified: pass",
                str(number),
                why="a rig that does not explain the recordings puts boxes where the sensor is not",
                advice=f"run: tactile-align verify {entry.path} --rig {entry.rig}",
            )
        )
    return checks


def pads(subject: Subject) -> list[Check]:
    """Whether each sensor on a finger looks at the other finger: what it feels is held between the two."""
    checks = []
    qpos = subject.data.train.low_dim()[0][0][0]
    for (number, rig), name in product(enumerate(subject.data.rigs), subject.model.sensors):
        sensor = rig.sensor(name)
        arm, _, finger = sensor.parent.partition("/")
        if finger not in OTHER:
            continue
        across = rig.T_from_to(sensor.parent, f"{arm}/{OTHER[finger]}", qpos, np.full(2, APART_M))[:3, 3]
        normal = sensor.T_parent_this[:3, :3] @ np.asarray(sensor.pad.normal)
        angle = float(np.degrees(np.arccos(np.clip(normal @ across / np.linalg.norm(across), -1, 1))))
        advice = "set pad.normal in the rig to the outward direction of the gel, in the sensor's axes"
        checks.append(judged("pad-direction", angle, str(number), name, advice=advice))
    return checks


def boxes_and_contacts(subject: Subject) -> list[Check]:
    """How often each sensor has a box, how often it touches, and how much of a pair's moments is left."""
    moments, checks = subject.data.train, []
    for view in subject.model.views:
        visible, contact = moments.views[view.key].visible, moments.touches[view.sensor].contact
        box_advice = "run `tactile-align verify`, look at `tactile-align overlay`; is the sensor where the rig says?"
        contact_advice = (
            "record more contacts, or raise contact_share; check the touch stream with `tactile-align inspect`"
        )
        checks += [
            judged("box-share", float(visible.mean()), view.key, advice=box_advice),
            judged("contact-share", float((visible & contact).mean()), view.key, advice=contact_advice),
        ]
    return checks


def lonely_pairs(subject: Subject) -> list[Check]:
    """How many pairs of a batch have nothing to be told apart from, as a run's own log counts them."""
    if not subject.model.aligns:
        return []
    with torch.no_grad():
        log = subject.losses(subject.batch).log
    checks = []
    for view in subject.model.views:
        lonely = int(log[f"no_negative/{view.key}"])
        pairs = lonely + int(log[f"pairs/{view.key}"])
        checks.append(
            judged(
                "pairs-without-negatives",
                lonely / pairs if pairs else math.nan,
                view.key,
                measured=f"{lonely} of {pairs}",
                advice="set contact_share = 0.5 or more, raise batch_size, or lower hsa.min_gap below the length of an "
                "episode",
            )
        )
    return checks


def false_negatives(subject: Subject) -> list[Check]:
    """How many negatives of a batch show the very same contact, or none either."""
    alignment, checks, batch = subject.model.alignment, list[Check](), subject.batch
    if alignment is None or not subject.model.aligns:
        return []
    for view in subject.model.views:
        rule = alignment.negatives(batch, view).rows(0, len(batch))
        valid = alignment.valid_pairs(batch, view)
        pairs = rule & valid[:, None] & valid[None, :]
        index, contact = batch.touches[view.sensor].contact_index, batch.touches[view.sensor].contact
        same = (index[:, None] == index) & (batch.episode[:, None] == batch.episode) & (index >= 0)
        alike = same | (~contact[:, None] & ~contact)
        count = int(pairs.sum())
        checks.append(
            judged(
                "false-negatives",
                int((pairs & alike).sum()) / count if count else math.nan,
                view.key,
                advice="raise hsa.min_gap to the length of a contact, keep hsa.require_contact, or set "
                "hsa.touch_ceiling",
            )
        )
    return checks
