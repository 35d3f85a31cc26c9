"""Conversion of recordings of any format: HDF5 episodes, a LeRobotDataset, or raw X-Trainer recordings."""

from pathlib import Path
from typing import Any

from tactile_align.datasets.containers.lerobot import Form, TouchGroup, export_lerobot, import_lerobot
from tactile_align.datasets.containers.raw_xtrainer import convert_raw_xtrainer, raw_recordings
from tactile_align.datasets.convert import Converted, convert_episodes
from tactile_align.errors import InputError


def convert(
    source: Path,
    out: Path,
    to: str,
    layout: str | None = None,
    fps: float | None = None,
    overwrite: bool = False,
    cameras: Form | None = None,
    touches: Form | None = None,
    touch_group: TouchGroup | None = None,
) -> Converted:
    """Convert recordings to another format, and return the written files and a list of what was lost.

    Args:
        source: An HDF5 episode, a LeRobotDataset, a Zarr store, a folder of these, or raw X-Trainer recordings.
        out: Folder to write into.
        to: xtrainer, aloha, lerobot, or the name or path of another HDF5 layout.
        layout: Layout of the source; recognised from the files when None.
        fps: Frames per second, if the recording does not state the rate; required for lerobot.
        overwrite: Whether existing files may be replaced.
        cameras: As for `export_lerobot`, only for lerobot; None: its default.
        touches: As for `export_lerobot`, only for lerobot; None: its default.
        touch_group: As for `export_lerobot`, only for lerobot; None: its default.

    Raises:
        InputError: Raw X-Trainer recordings are to become something other than xtrainer, or an option of lerobot is
            given for another format. Also the errors of `convert_episodes`, `export_lerobot`, `import_lerobot` and
            `convert_raw_xtrainer`.
    """
    given = {"cameras": cameras, "touches": touches, "touch_group": touch_group}
    storage: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if storage and to != "lerobot":
        names = ", ".join(f"--{name.replace('_', '-')}" for name in storage)
        raise InputError(f"{names} state how a LeRobotDataset stores frames; got --to {to}. Leave them out")
    if to == "lerobot":
        return export_lerobot(source, out, fps=fps, layout=layout, **storage)
    if (source / "meta" / "info.json").is_file():
        return import_lerobot(source, out, to=to, layout=layout, overwrite=overwrite)
    if not raw_recordings(source):
        return convert_episodes(source, out, to=to, layout=layout, fps=fps, overwrite=overwrite)
    if to == "xtrainer":
        return convert_raw_xtrainer(source, out, fps=fps, overwrite=overwrite)
    raise InputError(
        f"{source}: raw X-Trainer recordings can only be converted to the layout xtrainer; got --to {to}. Use "
        f"--to xtrainer, then convert the result to {to}"
    )
