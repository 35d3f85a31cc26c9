"""The doctor's checks of pairs: is there a box, is there a contact, and what are they held against."""

import numpy as np
import torch

from tactile_align.diagnostics.doctor.subject import Finding, Patient, judged
from tactile_align.projection.other_finger import OTHER

APART_M, ASIDE_DEG = 0.02, 45.0  # an opening at which the fingers are apart
FALSE_NEGATIVES = (0.02, 0.10)


def pair_checks(patient: Patient) -> list[Finding]:
    """Return all findings about rigs, boxes, contacts and negatives."""
    return [*rigs(patient), *pads(patient), *boxes_and_contacts(patient), *false_negatives(patient)]


def rigs(patient: Patient) -> list[Finding]:
    """Whether the rigs were held against recordings."""
    found = []
    for entry, rig in zip(patient.config.data, patient.data.rigs, strict=True):
        verdict = "exact, from a simulation" if rig.status == "exact" else "never verified"
        if rig.verified is not None:
            verdict = f"verified on {rig.verified.when}: {rig.verified.verdict}"
        doubted = rig.status != "exact" if rig.verified is None else rig.verified.verdict != "pass"
        found.append(
            judged(
                "rig",
                f"{entry.rig}: {verdict}",
                "verified: pass",
                broken=rig.verified is not None and rig.verified.verdict == "fail",
                warn=doubted and patient.config.hsa.weight > 0,
                why="a rig that does not explain the recordings puts boxes where the sensor is not",
                advice=f"run: tactile-align verify {entry.path} --rig {entry.rig}",
            )
        )
    return found


def pads(patient: Patient) -> list[Finding]:
    """Whether each sensor on a finger looks at the other finger: what it feels is held between the two."""
    found = []
    qpos = patient.data.train.low_dim()[0][0][0]
    for rig, name in ((rig, name) for rig in patient.data.rigs for name in patient.model.sensors):
        sensor = rig.sensor(name)
        arm, _, finger = sensor.parent.partition("/")
        if finger not in OTHER:
            continue
        across = rig.T_from_to(sensor.parent, f"{arm}/{OTHER[finger]}", qpos, np.full(2, APART_M))[:3, 3]
        normal = sensor.T_parent_this[:3, :3] @ np.asarray(sensor.pad.normal)
        angle = float(np.degrees(np.arccos(np.clip(normal @ across / np.linalg.norm(across), -1, 1))))
        found.append(
            judged(
                "pad direction",
                f"{name}: its normal is {angle:.0f} degrees away from the other finger",
                f"< {ASIDE_DEG:g} degrees",
                warn=angle >= ASIDE_DEG,
                why="a pad that looks along the tool, or into its own finger, is the sensor turned: its box is too",
                advice="set pad.normal in the rig to the outward direction of the gel, in the sensor's axes",
            )
        )
    return found


def boxes_and_contacts(patient: Patient) -> list[Finding]:
    """How often each sensor has a box, how often it touches, and how much of a pair's moments is left."""
    moments, found = patient.data.train, []
    for view in patient.model.views:
        visible, contact = moments.views[view.key].visible, moments.touches[view.sensor].contact
        share = float(visible.mean())
        found.append(
            judged(
                "box share",
                f"{view.key}: {share:.0%} of the moments have a box",
                "> 50 %, broken below 5 %",
                broken=share < 0.05,
                warn=share < 0.5,
                why="without a box there is no pair; a sensor that is never in view points at a wrong rig",
                advice="run `tactile-align verify` and look at `tactile-align overlay`; is the sensor where the "
                "rig says?",
            )
        )
        touching = float((visible & contact).mean())
        found.append(
            judged(
                "contact share",
                f"{view.key}: {touching:.1%} of the moments are in contact with a box",
                "> 5 %, broken below 0.5 %",
                broken=touching < 0.005,
                warn=touching < 0.05,
                why="moments without contact all feel alike and cannot be told apart",
                advice="record more contacts, or raise contact_share; check the touch stream with `tactile-align "
                "inspect`",
            )
        )
    return found


def lonely_pairs(patient: Patient) -> list[Finding]:
    """How many pairs of a batch have nothing to be told apart from, as a run's own log counts them."""
    if not patient.model.aligns:
        return []
    with torch.no_grad():
        log = patient.losses(patient.batch).log
    return [
        _lonely(view.key, int(log[f"no_negative/{view.key}"]), int(log[f"pairs/{view.key}"]))
        for view in patient.model.views
    ]


def _lonely(key: str, lonely: int, others: int) -> Finding:
    return judged(
        "pairs without negatives",
        f"{key}: {lonely} of {lonely + others} pairs of a batch have no negative in it",
        "0, broken from half of them",
        broken=lonely >= others,
        warn=lonely > 0,
        why="the loss of such a pair is 0 whatever it shows, so the run learns less than its length says",
        advice="set contact_share = 0.5 or more, raise batch_size, or lower hsa.min_gap below the length of an episode",
    )


def false_negatives(patient: Patient) -> list[Finding]:
    """How many negatives of a batch show the very same contact, or none either."""
    alignment, found, batch = patient.model.alignment, [], patient.batch
    if alignment is None or not patient.model.aligns:
        return []
    for view in patient.model.views:
        rule = alignment.negatives(batch, view).rows(0, len(batch))
        valid = alignment.valid_pairs(batch, view)
        pairs = rule & valid[:, None] & valid[None, :]
        index, contact = batch.touches[view.sensor].contact_index, batch.touches[view.sensor].contact
        same = (index[:, None] == index) & (batch.episode[:, None] == batch.episode) & (index >= 0)
        alike = same | (~contact[:, None] & ~contact)
        share = float((pairs & alike).sum() / pairs.sum().clamp(min=1))
        found.append(
            judged(
                "false negatives",
                f"{view.key}: {share:.1%} of {int(pairs.sum())} negatives show the same contact, or no contact either",
                f"< {FALSE_NEGATIVES[0]:.0%}, broken above {FALSE_NEGATIVES[1]:.0%}",
                broken=share > FALSE_NEGATIVES[1] or not bool(pairs.any()),
                warn=share > FALSE_NEGATIVES[0],
                why="the loss then pushes apart what is alike and can never fall far",
                advice="raise hsa.min_gap to the length of a contact, keep hsa.require_contact, or set "
                "hsa.touch_ceiling",
            )
        )
    return found
