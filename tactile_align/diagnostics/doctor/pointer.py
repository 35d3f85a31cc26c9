"""Doctor checks of the contact pointer: its targets, its outputs, and what it predicts after some steps."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tactile_align.checks import Check
from tactile_align.datasets.episodes import open_episode
from tactile_align.diagnostics.doctor.limits import judged
from tactile_align.diagnostics.doctor.subject import Subject, sampler_of
from tactile_align.moments.ahead import contacts_ahead
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.pointer import PointerOutput
from tactile_align.projection.episode_boxes import ViewBoxes, qpos_at_exposure

BATCHES = 16
"""Number of training batches in which the classes of done are counted."""
ROWS = 6
"""Number of moments of a batch whose points are compared with the recording."""


def targets(subject: Subject) -> Iterator[Check]:
    """Yield checks of the targets: their share, the classes of done in batches, and their places at the door."""
    moments = subject.data.train
    for key in subject.model.pointed_keys:
        ahead = moments.ahead[key]
        share = float(ahead.known.any(axis=1).mean())
        counts = ", ".join(f"{count} {name}" for name, count in ahead.counts().items())
        yield judged("pointer-targets", share, key, measured=f"{share:.0%}; entries: {counts}")
        sampler = sampler_of(subject.config, subject.data)
        rows = np.concatenate([sampler.batch(number) for number in range(BATCHES)])
        done = ahead.done[rows][ahead.done_known[rows]]
        share = float(done.mean()) if len(done) else math.nan
        yield judged("done-classes", min(share, 1 - share), key, measured=f"done in {share:.0%} of the drawn entries")
        if bool(subject.batch.ahead[key].known.any()):
            yield judged("point-is-recorded", _gap_px(subject, key), key)


def _gap_px(subject: Subject, key: str) -> float:
    """Return the largest distance of known points at the door from the recorded contacts, px of the recorded frame."""
    config, moments, batch = subject.config, subject.data.train, subject.batch
    options, shift = config.pointer, config.augment.shift_px
    gaps: list[float] = []
    assert options is not None
    known = batch.ahead[key].known.any(dim=1).nonzero().flatten()
    for row in known[:: max(1, len(known) // ROWS)].tolist():
        number, t = int(batch.episode[row]), int(batch.time[row])
        job, rows = moments.jobs[number], np.flatnonzero(moments.episode == number)
        entry = next(one for one in job.inputs if one.key == key)
        assert entry.sensor is not None
        touch, qpos = moments.touches[entry.sensor], moments.low_dim()[number][0]
        with open_episode(job.ref) as episode:
            size = episode.width_height(entry.stream)
            exposed = qpos_at_exposure(job.rig, entry.stream, qpos, episode.fps)
        opening = None if touch.opening is None else touch.opening[rows]
        view = ViewBoxes(job.rig, entry.stream, entry.sensor, exposed, opening)
        horizon, most, complete = options.horizon, options.most, options.complete
        contact = touch.contact[rows]
        ahead = contacts_ahead(view, qpos, contact, horizon=horizon, most=most, complete=complete)
        sides = entry.width - 2 * shift, entry.height - 2 * shift
        door = entry.image_map(*size).crop(shift, shift, *sides)
        there = batch.ahead[key].known[row].numpy()
        points = np.asarray(door.inverse().apply(batch.ahead[key].points[row].double().numpy()[there]))
        gaps += np.linalg.norm(points - ahead.points[t][there], axis=1).tolist()
    return float(np.max(gaps))


@torch.no_grad()
def rate_and_outputs(subject: Subject) -> Iterator[Check]:
    """Yield the checks of the pointer's learning rate, and that its offsets are not squashed to a limit."""
    model, rate = subject.model.eval(), subject.config.optimiser.lr_pointer
    if model.pointer is None:
        return
    width = model.pointer.options.width
    yield judged("pointer-rate", rate * width, measured=f"{rate:.2g} x {width} = {rate * width:.2g}")
    offsets: list[Tensor] = []
    hook = model.pointer.offset.register_forward_hook(lambda module, args, out: offsets.append(out))
    with hook:
        model.point(subject.few, model.see(subject.few, alignment=False, action=False, pointer=True))
    sizes = torch.cat([out.flatten() for out in offsets]).abs()
    yield judged("pointer-saturated", float((sizes > 0.99 * sizes.max()).float().mean()))


@torch.no_grad()
def predictions(subject: Subject, trained: AlignedPolicy) -> Iterator[Check]:
    """Yield checks of the predictions of a trained model: their spread, corners, classes of done, and use of images.

    Args:
        subject: The run; its moments `few` are used.
        trained: Copy of the model that was trained on these moments.
    """
    model, few = trained.eval(), subject.few
    if model.pointer is None:
        return
    outputs = model.point(few, model.see(few, alignment=False, action=False, pointer=True))
    for key, output in outputs.items():
        ahead = few.ahead[key]
        if int(ahead.known.sum()) > 1:
            found, wanted = output.points[ahead.known], ahead.points[ahead.known]
            yield _spread(found, wanted, key)
            corner = _in_corner(model, found) & ~_in_corner(model, wanted)
            yield judged("points-in-corner", float(corner.float().mean()), key)
        if bool((ahead.done & ahead.done_known).any()) and bool((~ahead.done & ahead.done_known).any()):
            yield _classes(output, few, key)
    if any(bool(few.ahead[key].known.any()) for key in outputs) and len(few) > 1:
        half = len(few) // 2
        shown = few.images()
        true, mixed = (
            float(model.losses(batch).log["pointer"])
            for batch in (few, few.with_images({key: shown[key].roll(half, 0) for key in outputs}))
        )
        yield judged("pointer-image-shuffle", mixed / max(true, 1e-9), measured=f"{true:.3f}, shuffled {mixed:.3f}")


def _spread(found: Tensor, wanted: Tensor, key: str) -> Check:
    own, true = (float(points.std(dim=0).norm()) for points in (found, wanted))
    measured = f"{own:.1f} px, targets {true:.1f} px"
    return judged("point-spread", own / true if true else math.nan, key, measured=measured)


def _classes(output: PointerOutput, few: MomentBatch, key: str) -> Check:
    ahead = few.ahead[key]
    said, true = ((values[ahead.done_known]).float().mean().item() for values in (output.says_done, ahead.done))
    least = min(said, 1 - said) / min(true, 1 - true)
    measured = f"done predicted in {said:.0%} of the entries, true in {true:.0%}"
    return judged("done-predicted", least, key, measured=measured)


def _in_corner(model: AlignedPolicy, points: Tensor) -> Tensor:
    """Return which points (N, 2) lie in or beyond one of the four corner tokens of the image, (N,) bool."""
    assert model.pointer is not None
    sides = points.new_tensor(model.pointer.grid[::-1])
    tokens = model.pointer.share(points) * sides
    return ((tokens < 1) | (tokens > sides - 1)).all(dim=1)
