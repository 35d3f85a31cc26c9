"""Data of a training config: checked rigs, split episodes, prepared moments and normalisation statistics."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.config.data import DataConfig
from tactile_align.config.train import TrainConfig
from tactile_align.datasets.episodes import EpisodeRef, list_episodes, open_episode
from tactile_align.errors import InputError
from tactile_align.moments.cache import Job
from tactile_align.moments.dataset import Moments
from tactile_align.moments.normalisation import Statistics
from tactile_align.moments.sampling import split_episodes
from tactile_align.policies.build import inputs_of, views_of
from tactile_align.projection.episode_boxes import hand_of, hold_sensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """Data with which a run is trained and validated.

    Attributes:
        train: Moments of the training episodes.
        held_out: Moments of the held-out episodes.
        statistics: Normalisation statistics, from the training episodes only.
        rigs: The rig of each [[data]] entry.
        contact: (N,) bool, in which training moments a visible sensor is in contact.
    """

    train: Moments
    held_out: Moments
    statistics: Statistics
    rigs: tuple[Rig, ...]
    contact: np.ndarray


def stream_sizes(moments: Moments) -> dict[str, tuple[int, int]]:
    """Return the recorded (width, height), px, of each stream that inputs and boxes use, from the first episode."""
    job = moments.jobs[0]
    streams = {entry.stream for entry in job.inputs}
    hands = {hand_of(job.rig, entry.sensor) for entry in job.inputs if entry.sensor is not None} - {""}
    touches = {job.rig.sensor(name).stream for arm in hands for name in hold_sensors(job.rig, arm)}
    with open_episode(job.ref) as episode:
        return {name: episode.width_height(name) for name in sorted(streams | touches & {*episode.sensors})}


def load_data(config: TrainConfig, processes: int = 1, progress: bool = True) -> Data:
    """Return the data of a config, after checking the rigs, and splitting and preparing the episodes.

    Args:
        config: Training config.
        processes: Number of processes that prepare episodes.
        progress: Show a progress bar on stderr.

    Raises:
        InputError: A rig failed verification, or a rig or an episode is invalid; the message states the file.
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
                    f"{ref}: [[data]] contains this episode twice, in {first} and in {entry.path}. The episode could "
                    f"be in both training and held-out data, or get the wrong rig. List each episode once"
                )
            jobs[ref] = Job(ref, rig.for_episode(ref.path), inputs, config.packed)
    train_refs, held_out_refs = split_episodes(tuple(jobs), config.seed, config.held_out)

    def moments(refs: Iterable[EpisodeRef]) -> Moments:
        chosen = [jobs[ref] for ref in refs]
        chunk, cache = config.policy.chunk_size, Path(config.cache)
        return Moments(chosen, chunk=chunk, cache=cache, processes=processes, progress=progress)

    raw = moments(train_refs)
    statistics = Statistics.of(raw.low_dim())
    train, held_out = raw.normalised(statistics), moments(held_out_refs).normalised(statistics)
    return Data(train, held_out, statistics, rigs, contact_moments(train, config))


def contact_moments(moments: Moments, config: TrainConfig) -> np.ndarray:
    """Return (N,) bool, in which moments the sensor of at least one view is visible and in contact."""
    pairs = np.zeros(len(moments), dtype=bool)
    for view in views_of(config):
        pairs |= moments.views[view.key].visible & moments.touches[view.sensor].contact
    return pairs


def _checked_rig(entry: DataConfig, config: TrainConfig) -> Rig:
    rig = load_rig(entry.rig)
    if rig.verified is not None and rig.verified.verdict == "fail" and not config.unverified_rig:
        raise InputError(
            f"{entry.rig}: this rig failed `verify` on {rig.verified.when}, so its boxes may be misplaced. Calibrate "
            f"the rig and verify it again, or set unverified_rig = true to train with it anyway"
        )
    if rig.verified is None and config.views and not config.unverified_rig:
        exact = rig.status == "exact"
        level, kind = (logging.INFO, "note") if exact else (logging.WARNING, "warning")
        remark = '; its status "exact" is for simulations' if exact else ""
        command = f"tactile-align verify {entry.path} --rig {entry.rig}"
        logger.log(level, f"{kind}: rig {entry.rig} was never verified{remark}; run: {command}")
    return rig
