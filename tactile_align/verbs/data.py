"""Verbs on recordings: record, look at, mend, convert. Heavy modules are imported by the verb that needs them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from tactile_align.errors import InputError
from tactile_align.verbs import GOOD

if TYPE_CHECKING:
    from tactile_align.datasets.convert import Converted

logger = logging.getLogger(__name__)


def simulate(
    out: Positional[Path],
    episodes: int,
    seed: int = 0,
    task: Literal["expert", "regrasp", "mixed"] = "regrasp",
    gripper: Literal["commanded", "measured"] = "commanded",
    processes: int | None = None,
) -> int:
    """Record true-to-layout HDF5 episodes of a Nova 2 cell in MuJoCo, with the truth beside them.

    Args:
        out: Folder for the episodes and their rig.toml.
        episodes: How many.
        seed: Equal seed, equal bytes.
        task: expert: reach, close until contact, lift. regrasp: 10 to 20 contacts an episode. mixed: both.
        gripper: Whether qpos holds the last commanded or the measured opening.
        processes: How many record at the same time; all cores when left out.
    """
    from tactile_align.simulation.record import simulate as record

    written = record(out, episodes=episodes, seed=seed, task=task, gripper=gripper, processes=processes)
    print(f"{len(written)} episodes in {out}, rig in {out / 'rig.toml'}")
    return GOOD


def inspect(
    path: Positional[Path], layout: str | None = None, as_json: Annotated[bool, arg(name="json")] = False
) -> int:
    """Tell what an episode or a folder holds and what is wrong with it; exit 1 when a fault was found.

    Args:
        path: Episode file or folder.
        layout: Name or path of the layout; recognised when left out.
        as_json: Machine-readable.
    """
    from tactile_align.datasets.inspect import inspect_path

    inspection = inspect_path(path, layout)
    report = inspection.report
    print(report.json() if as_json else inspection.text())
    return report.exit_code


def trim(
    episode: Positional[str],
    out: Path,
    start: Annotated[int, arg(name="from")] = 0,
    stop: Annotated[int | None, arg(name="to")] = None,
    layout: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write some rows of an episode as a new file; the old one is never touched.

    Args:
        episode: Episode file; FILE#NAME where a file holds several.
        out: File to write.
        start: First row kept.
        stop: One past the last row kept.
        layout: Name or path of the layout; recognised when left out.
        overwrite: Replace an existing file.
    """
    from tactile_align.datasets.mend import trim_episode

    print(trim_episode(episode, out, start=start, to=stop, layout=layout, overwrite=overwrite))
    return GOOD


def repair(
    episode: Positional[str], out: Path, min_steps: int = 10, layout: str | None = None, overwrite: bool = False
) -> int:
    """Leave damaged rows out and write what is sound as new files; the old one is never touched.

    Args:
        episode: Episode file; FILE#NAME where a file holds several.
        out: File to write; several sound stretches become OUT_part0, OUT_part1, ...
        min_steps: Shorter stretches are left out.
        layout: Name or path of the layout; recognised when left out.
        overwrite: Replace existing files.
    """
    from tactile_align.datasets.mend import repair_episode

    mended = repair_episode(episode, out, min_steps=min_steps, layout=layout, overwrite=overwrite)
    for fault in mended.left_out:
        logger.info(f"left out: {fault}")
    for path in mended.paths:
        print(path)
    return GOOD


def convert(
    source: Positional[Path],
    out: Positional[Path],
    to: str,
    layout: str | None = None,
    fps: float | None = None,
    overwrite: bool = False,
) -> int:
    """Write episodes in another layout, checked frame by frame; says what could not be kept.

    Args:
        source: Episode file or folder, the folder of a LeRobotDataset v3, or raw X-Trainer recordings
            (folders of JPEGs and one pickle a step).
        out: Folder to write into.
        to: Target layout: xtrainer, aloha, another HDF5 layout's name or file, or lerobot.
        layout: Layout of the source; recognised when left out.
        fps: Frames a second, where the recording does not say; LeRobot needs it.
        overwrite: Replace existing files.
    """
    written = _convert(source, out, to, layout, fps, overwrite)
    if written.kept:
        logger.info(f"{written.kept} episodes were there already, whole, and are kept")
    for sentence in written.lossy:
        logger.info(f"not kept: {sentence}")
    for path in written.paths:
        print(path)
    return GOOD


def _convert(source: Path, out: Path, to: str, layout: str | None, fps: float | None, overwrite: bool) -> "Converted":
    if (source / "meta" / "info.json").is_file():
        from tactile_align.datasets.containers.lerobot import import_lerobot

        return import_lerobot(source, out, to=to, overwrite=overwrite)
    if to == "lerobot":
        from tactile_align.datasets.containers.lerobot import export_lerobot

        return export_lerobot(source, out, fps=fps, layout=layout)
    from tactile_align.datasets.containers.raw_xtrainer import convert_raw_xtrainer, raw_recordings
    from tactile_align.datasets.convert import convert_episodes

    if raw_recordings(source):
        if to != "xtrainer":
            raise InputError(f"{source}: raw X-Trainer recordings become layout xtrainer first; got --to {to}")
        return convert_raw_xtrainer(source, out, fps=fps, overwrite=overwrite)
    return convert_episodes(source, out, to=to, layout=layout, fps=fps, overwrite=overwrite)


def overlay(
    episode: Positional[str],
    rig: str | None = None,
    out: Path | None = None,
    cameras: tuple[str, ...] | None = None,
    start: Annotated[int, arg(name="from")] = 0,
    stop: Annotated[int | None, arg(name="to")] = None,
    every: int = 1,
    format: Literal["auto", "png", "sheet", "mp4"] = "auto",
    compare: str | None = None,
    layout: str | None = None,
    ahead_m: float = 0.0,
    overwrite: bool = False,
) -> int:
    """Draw the sensor's box, its tokens, the touch and the joints on an episode's frames.

    Args:
        episode: Episode file; FILE#NAME where a file holds several.
        rig: Name or path of the rig; rig.toml beside the episode when left out.
        out: A .png, .mp4 or .rrd (Rerun) file, or a folder.
        cameras: Which cameras; all when left out.
        start: First row.
        stop: One past the last row.
        every: Draw every so many rows.
        format: png: one picture a row; sheet: some rows on one picture; mp4: a movie; auto: by the ending of out.
        compare: A second rig, drawn dashed; IoU, shift and size of its box are against the first rig's, not the truth.
        layout: Name or path of the episode layout; recognised when left out.
        ahead_m: Draw boxes this far in front of the pads, m, as views with ahead_m see them.
        overwrite: Replace existing files.
    """
    options: dict[str, Any] = {
        "rig": rig,
        "compare": compare,
        "cameras": cameras,
        "start": start,
        "stop": stop,
        "every": every,
    }
    options |= {"layout": layout, "ahead_m": ahead_m, "overwrite": overwrite, "tell": print}
    if out is not None and out.suffix == ".rrd":
        from tactile_align.viz.overlay.rerun import record

        print(record(episode, out, **options))
        return GOOD
    from tactile_align.viz.overlay.overlay import overlay as draw

    for path in draw(episode, out=out, format=format, **options):
        print(path)
    return GOOD
