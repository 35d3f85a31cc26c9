"""The doctor's checks of data: what comes in at the door, before any network."""

import numpy as np
import torch

from tactile_align.datasets.episodes import open_episode
from tactile_align.datasets.looks import LEAST_TOUCH_QUALITY, colours, look_at, stored_quality
from tactile_align.diagnostics.doctor.pairs import pair_checks
from tactile_align.diagnostics.doctor.subject import Finding, Patient, judged
from tactile_align.evenly import evenly
from tactile_align.moments.frames import difference
from tactile_align.moments.normalisation import Statistics
from tactile_align.training.data import LowDim

CONSTANT = 1.0  # grey levels
DOOR = 1.0  # grey levels by which a packed frame may differ from the recording's
LOOKED_AT = 8  # episodes whose stored touches are looked at


def image_checks(patient: Patient) -> list[Finding]:
    """Return all findings about images."""
    return [
        *diversity(patient),
        *ranges(patient),
        *door(patient),
        *colour_order(patient),
        *touch_storage(patient),
    ]


def diversity(patient: Patient) -> list[Finding]:
    """How much the moments of each stream differ from each other."""
    found = []
    for name, images in patient.wide.images().items():
        per_pixel = images.float().std(dim=0).mean()
        unique = len({bytes(image.numpy().tobytes()) for image in images})
        found.append(
            judged(
                "data diversity",
                f"{name}: {float(per_pixel):.1f} grey levels of change from moment to moment, {unique} of "
                f"{len(images)} frames differ",
                f"> {CONSTANT:g} grey levels",
                broken=float(per_pixel) < CONSTANT or unique == 1 < len(images),
                warn=unique < 0.5 * len(images),
                why="a stream that always looks the same tells the encoder nothing; no loss can fall on it",
                advice="look at the stream with `tactile-align inspect`; is the camera frozen, or the wrong "
                "stream named?",
            )
        )
    return found


def ranges(patient: Patient) -> list[Finding]:
    """Brightness of each stream at the encoder's door."""
    found = []
    for name, images in patient.wide.images().items():
        values = images.float()
        mean, low, high = float(values.mean()), float(values.min()), float(values.max())
        wrong = images.dtype != torch.uint8 or high <= 1.0
        found.append(
            judged(
                "image range",
                f"{name}: {images.dtype} {low:.0f} to {high:.0f}, mean {mean:.0f}",
                "uint8, 0 to 255, mean 5 to 250",
                broken=wrong or not 5 < mean < 250,
                why="the encoder divides by 255 and takes away its own mean; images that were scaled before come "
                "in black",
                advice="hand images over as recorded, uint8 RGB",
            )
        )
    return found


def door(patient: Patient) -> list[Finding]:
    """Whether images and boxes at the door are those of the recording, moment by moment."""
    moments, raw = patient.data.train, patient.raw
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
                expected = there.apply_to_image(episode.image(one.stream, t))
                if one.difference:
                    expected = difference(expected, moments.reference(int(raw.episode[row]), one.key))
                here = shown[one.key][row].float().numpy()
                off = np.abs(here - expected.astype(np.float32)).mean() if here.shape == expected.shape else np.inf
                worst[one.key] = max(worst.get(one.key, 0.0), float(off))
                if box is not None and np.isfinite(box).all():
                    moved = there.apply_to_box(box)
                    gap = np.abs(raw.views[one.key].box[row].numpy() - moved).max()
                    box_off[one.key] = max(box_off.get(one.key, 0.0), float(gap))
    found = [
        judged(
            "images are the recording's",
            f"{name}: {value:.2f} grey levels off",
            f"<= {DOOR:g}",
            broken=not value <= DOOR,
            why="what the encoder sees is not the frame of that moment: channels exchanged, rows shuffled, or "
            "scaled twice",
            advice="compare a batch with `tactile-align overlay`; keep every change of an image in its ImageMap",
        )
        for name, value in worst.items()
    ]
    found += [
        judged(
            "box moves with its image",
            f"{name}: {value:.2f} px off",
            "<= 0.5 px",
            broken=not value <= 0.5,
            why="a box scaled by another factor than its image lies on the wrong tokens",
            advice="move image and box by the same ImageMap",
        )
        for name, value in box_off.items()
    ]
    return found


def colour_order(patient: Patient) -> list[Finding]:
    """Whether the stated channel order of the first episode is likely: cameras of one scene share its colours."""
    with open_episode(patient.data.train.jobs[0].ref) as episode:
        every = max(1, len(episode) // 6)
        remarks = colours(episode, {name: look_at(episode, name, every) for name in episode.cameras})
    return [
        judged(
            "colour order",
            remarks[0] if remarks else "as stated",
            "cameras of one scene share its colours",
            broken=bool(remarks),
            why="pretrained encoders know red from blue; exchanged channels cost them what they know",
            advice="set channels in the episode layout to what the recorder wrote",
        )
    ]


def touch_storage(patient: Patient) -> list[Finding]:
    """The JPEG quality that each touch stream is stored with, over some of the training episodes."""
    jobs = patient.data.train.jobs
    worst: dict[str, int | None] = {}
    for index in evenly(len(jobs), LOOKED_AT):
        with open_episode(jobs[index].ref) as episode:
            for name in (one.stream for one in jobs[index].inputs if one.key in patient.model.sensors):
                known = [q for q in (worst.get(name), stored_quality(episode, name)) if q is not None]
                worst[name] = min(known, default=None)
    return [
        judged(
            "touch storage",
            f"{name}: " + ("without loss" if quality is None else f"JPEG of quality {quality}"),
            f"JPEG of quality {LEAST_TOUCH_QUALITY} or more",
            warn=quality is not None and quality < LEAST_TOUCH_QUALITY,
            why="a print is a faint change of colour, and JPEG rounds faint colours away: at quality 50 it errs by a "
            "tenth of what a contact adds",
            advice="convert the raw recordings again (`tactile-align convert` takes their JPEGs over as they are), and "
            "record touches at quality 95 or as PNG; nothing brings back what is lost",
        )
        for name, quality in worst.items()
    ]


def data_checks(patient: Patient) -> list[Finding]:
    """Return all findings about data."""
    return [*image_checks(patient), action_diversity(patient), statistics(patient), *pair_checks(patient)]


def action_diversity(patient: Patient) -> Finding:
    """How many action columns move at all."""
    action = patient.data.train.low_dim()
    moving = np.concatenate([a for _, a in action]).std(axis=0)
    return judged(
        "action diversity",
        f"{int((moving > 1e-4).sum())} of {len(moving)} action columns move",
        "at least one",
        broken=not (moving > 1e-4).any(),
        why="constant actions are learnt at once and mean nothing",
        advice="check the action stream of the layout",
    )


def statistics(patient: Patient) -> Finding:
    """Whether mean and spread are those of the training episodes."""
    given = patient.data.statistics
    own = Statistics.of(LowDim(qpos, action) for qpos, action in patient.data.train.low_dim())
    gap = max(
        float(np.abs(np.subtract(getattr(given, name), getattr(own, name))).max())
        for name in ("qpos_mean", "qpos_std", "action_mean", "action_std")
    )
    scale = max(1e-9, max(own.qpos_std + own.action_std))
    other = given.episodes != own.episodes or gap > 1e-6 * scale
    normal = patient.batch.qpos
    wild = float(normal.abs().max())
    return judged(
        "statistics",
        f"of {given.episodes} episodes (training has {own.episodes}), {gap:.1e} apart; normalised joints up to "
        f"{wild:.1f}",
        "those of the training episodes alone; joints within 12",
        broken=other or wild > 12,
        why="statistics that include held-out episodes make validation too kind; wrong ones put inputs out of range",
        advice="take them from the training split: Statistics.of(training episodes)",
    )
