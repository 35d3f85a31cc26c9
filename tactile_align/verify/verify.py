"""Verification of a rig against recordings: checks, a verdict, and advice on what to do next."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tactile_align.calibration.rig import Rig, load_rig, rig_beside
from tactile_align.checks import Check, Report, Table
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import rotation_from_quaternion, rpy_from_rotation
from tactile_align.kinematics.controller import PoseFile, check_poses
from tactile_align.sessions.write_rig import provenance, write_verdict
from tactile_align.verify.episode_checks import box_drift, drift_checks, episode_checks
from tactile_align.verify.evidence import Labels, gather, label_name
from tactile_align.verify.labels import require_matching
from tactile_align.verify.motion_checks import motion_checks, watch

MOST_POSES = 200
"""Largest number of recorded poses that are compared with the arm's; they are spread evenly over the episodes."""
WATCHED = 5
"""Largest number of episodes whose frames are searched for motion; more take time and add little evidence."""


def verify(
    path: str | Path,
    rig: Rig | str | Path | None = None,
    *,
    pictures: str | Path | None = None,
    page: str | Path | None = None,
    write_into: str | Path | None = None,
    labels: Labels | None = None,
    layout: str | Path | None = None,
    most: int | None = None,
    progress: bool = True,
) -> Report:
    """Return the report on a calibration session, if `path` is a folder with session.toml, or else on episodes.

    Arguments and errors are those of `verify_episodes` and of `sessions.calibrate.verify_session`.
    """
    if (Path(path) / "session.toml").is_file():
        if labels is not None:
            raise InputError(
                f"{path}: labels need recorded episodes, but this folder is a calibration session. Give the folder of "
                f"the episodes, or no labels"
            )
        # Imports scipy, which is slow and not needed for episodes.
        from tactile_align.sessions.calibrate import verify_session

        return verify_session(path, rig, pictures=pictures, page=page, write_into=write_into)
    result = verify_episodes(
        path, rig, layout=layout, most=most, labels=labels, write_into=write_into, progress=progress
    )
    if page is not None:
        from tactile_align.sessions.report import write_page

        write_page(result, page)
    return result


def verify_episodes(
    path: str | Path,
    rig: Rig | str | Path | None = None,
    *,
    layout: str | Path | None = None,
    labels: Labels | None = None,
    most: int | None = None,
    write_into: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Return a report on whether a rig fits recorded episodes.

    Args:
        path: A folder of episodes, or one file.
        rig: The rig, its name or its file; None: `rig.toml` beside the episodes.
        layout: The episodes' layout; recognised when None.
        labels: Boxes drawn by hand, see `verify.labels.read_labels`. Simulated episodes contain their own truth. Every
            label must refer to an episode in `path`, and to a camera and a sensor that both the episode and the rig
            have.
        most: Largest number of episodes to read. Episodes with labels are chosen first, the others evenly from the
            list; None: all.
        write_into: A rig file whose [verified] table receives the verdict; None: do not write the verdict.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The report. Its `facts` state when the report was made, and the hash of the episodes' data.

    Raises:
        FileNotFoundError: No episodes or no rig were found.
        FactError: The rig file is wrong.
        EpisodeError, InputError: The episodes cannot be compared with this rig (frame sizes, value ranges, missing
            streams), or labels match nothing. The message states file and key.
    """
    known = _rig_of(path, rig)
    refs = list_episodes(path, layout)
    if labels is not None:
        require_matching(labels, path, refs, known)
    if most is not None:
        drawn = {key[0] for key in labels or {}}
        labelled = np.array([label_name(ref) in drawn for ref in refs])
        first, rest = np.flatnonzero(labelled), np.flatnonzero(~labelled)
        first = first[evenly(len(first), most)]
        rest = rest[evenly(len(rest), most - len(first))]
        refs = tuple(refs[i] for i in sorted((*first, *rest)))
    watching = {refs[i] for i in evenly(len(refs), WATCHED)}
    evidence, watched = [], []
    for ref in tqdm(refs, desc="verify", unit="episode", disable=not progress):
        with open_episode(ref) as episode:
            evidence.append(gather(episode, known, labels))
            if ref in watching:
                watched.append(watch(episode, known.for_episode(episode.path), evidence[-1].contact))
    source = "" if rig is None or isinstance(rig, Rig) else f" from {rig}"
    drift, frames = box_drift(evidence), sum(episode.frames for episode in evidence)
    looked_at = f"{len(watched)} of {len(evidence)}, evenly spread"
    checks = (
        *episode_checks(known, evidence),
        Check("episodes-watched", "Episodes watched for motion", "info", looked_at),
        *motion_checks(known, watched),
        *drift_checks(drift),
    )
    tables = (Table.of("box drift by episode, worst first", drift[:20]),)
    subject = f"rig {known.name}{source} ({known.status}) against {len(evidence)} episodes, {frames} frames of {path}"
    result = Report("verify", subject, checks, tables, provenance([episode.digest for episode in evidence]))
    if write_into is not None:
        write_verdict(result, write_into)
    return result


def verify_poses(
    path: str | Path,
    array: str,
    rig: Rig | str | Path | None = None,
    *,
    arm: str | None = None,
    layout: str | Path | None = None,
) -> Report:
    """Return a report on whether an arm's kinematics give the poses of its flange that recordings contain.

    Args:
        path: A folder of episodes, or one file.
        array: Path of an array in the episodes that the layout lists under `carried`: (T, 6) x, y, z, m, and three
            angles or a rotation vector, rad; or (T, 7) x, y, z, m, and a quaternion, in either order.
        rig: The rig, its name or its file; None: `rig.toml` beside the episodes.
        arm: Name of the arm in the rig; None: its only arm.
        layout: The episodes' layout; recognised when None.

    Raises:
        FileNotFoundError: No episodes or no rig were found.
        InputError: The rig has several arms and none is given, an episode lacks the array, the array has another form,
            or there are fewer than 8 rows.
    """
    known = _rig_of(path, rig)
    if (arm is None and len(known.arms) != 1) or (arm is not None and arm not in known.arms):
        raise InputError(
            f"--poses needs one arm of rig {known.name}; got {arm or 'none'}. Choose one with --arm: "
            f"{', '.join(known.arms) or 'the rig has none'}"
        )
    name = arm or next(iter(known.arms))
    joints, poses = [], []
    for ref in list_episodes(path, layout):
        with open_episode(ref) as episode:
            if array not in episode.carried:
                raise InputError(
                    f"{ref}: --poses needs an array that the layout lists under `carried`; got {array}. Choose one of: "
                    f"{', '.join(episode.carried) or 'none (add it to carried in the layout)'}"
                )
            values = np.asarray(episode.carried_array(array), np.float64)
            if values.ndim != 2 or values.shape[1] not in (6, 7) or not np.isfinite(values).all():
                raise InputError(
                    f"{ref}: {array} must be (T, 6), x y z and three angles, or (T, 7), x y z and a quaternion, all "
                    f"finite; got shape {values.shape}. Write such poses into a CSV file: --poses FILE.csv with --arm"
                )
            joints.append(np.asarray(known.for_episode(episode.path).joints(name, episode.qpos)))
            poses.append(values)
    q, pose = np.concatenate(joints), np.concatenate(poses)
    rows = evenly(len(q), MOST_POSES)
    q, pose = q[rows], pose[rows]
    source, units = f"{array} in {path}", ("rad", "m", "m", "rad")
    angles = [pose[:, 3:]]
    if pose.shape[1] == 7:
        both = (pose[:, [6, 3, 4, 5]], pose[:, 3:])
        unit = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True) for quaternion in both)
        angles = [rpy_from_rotation(rotation_from_quaternion(quaternion)) for quaternion in unit]
    fits = [check_poses(PoseFile(q, pose[:, :3], turned, *units), known.arms[name].arm, source) for turned in angles]
    report = min(fits, key=lambda fit: fit.fitted.rms_deg).report
    if any((check.kind, check.status) == ("still-joints", "warn") for check in report.checks):
        return report
    # Mistakes that concern only the poses are a fact: the rig does not read these poses.
    facts = (
        replace(check, status="info", limit="", advice="") if (check.kind, check.status) == ("trap", "warn") else check
        for check in report.checks
    )
    return replace(report, checks=tuple(facts))


def _rig_of(path: str | Path, rig: Rig | str | Path | None) -> Rig:
    if isinstance(rig, Rig):
        return rig
    if rig is not None:
        return load_rig(rig)
    place = Path(str(path).partition("#")[0])
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such file or folder. Give recorded episodes or a calibration session")
    found = rig_beside(place)
    if found is None:
        beside = (place if place.is_dir() else place.parent) / "rig.toml"
        raise FileNotFoundError(
            f"{beside}: no such file. `verify` needs a rig: put rig.toml beside the episodes, or choose one with --rig"
        )
    return found
