"""Sinks for logged values and pictures: metrics.jsonl, and optionally TensorBoard and Weights & Biases."""

import json
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from tactile_align.config.train import LogConfig
from tactile_align.errors import InputError, MissingExtra
from tactile_align.files import read_text, write_text_atomically


class Sink:
    """Base class of the destinations of log records; a sink ignores records that it does not support."""

    def write(self, record: dict[str, Any]) -> None:
        """Write one record, a dict of "kind", "step" and values by name."""

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Write one picture, (H, W, 3) uint8 RGB."""

    def close(self) -> None:
        """Flush and close the sink."""


class JsonLines(Sink):
    """File with one record per line as JSON; each line is flushed, so a killed run keeps its log."""

    def __init__(self, path: Path) -> None:
        self._handle = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; a non-finite number becomes a string, because JSON has no such numbers."""
        plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._handle.write(json.dumps(plain) + "\n")
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


class TensorBoard(Sink):
    """TensorBoard files with scalars, named KIND/NAME, and pictures."""

    def __init__(self, folder: Path) -> None:
        SummaryWriter = _imported("tensorboard").SummaryWriter
        self._writer: Any = SummaryWriter(str(folder))

    def write(self, record: dict[str, Any]) -> None:
        """Write the numbers of one record; a finding (see `watch.finding`) is written as text."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])
        if record["kind"] == "finding":
            self._writer.add_text("finding", f"{record['id']}: {record['text']}. {record['advice']}", record["step"])

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Write one picture."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush the files."""
        self._writer.close()


class WeightsAndBiases(Sink):
    """Weights & Biases run with scalars, named KIND/NAME, over `step`. Pictures are sent, too.

    Findings (see `watch.finding`) are sent as alerts.

    The id of the run is stored in FOLDER/wandb_id.txt, so that `--resume` continues the same Weights & Biases run.
    A run folder of the same name in another place gets another id. With WANDB_MODE=offline, all data stays in
    FOLDER/wandb until `wandb sync` uploads it.
    """

    def __init__(self, project: str, folder: Path, config: dict[str, Any]) -> None:
        wandb = _imported("wandb")
        self._wandb = wandb
        name, known = folder.resolve().name, folder / "wandb_id.txt"
        if not known.is_file():
            write_text_atomically(known, token_hex(8))
        key = known.read_text(encoding="utf-8")
        options = {"id": key, "dir": str(folder), "config": config, "resume": "allow"}
        try:
            self._run: Any = wandb.init(project=project, name=name, **options)
        except wandb.Error as error:
            raise InputError(
                f"log.wandb = '{project}': Weights & Biases did not start ({error}). Run wandb login, set "
                f"WANDB_MODE=offline, or omit log.wandb"
            ) from error
        self._run.define_metric("*", step_metric="step")  # otherwise the x axis counts records

    def write(self, record: dict[str, Any]) -> None:
        """Send the numbers of one record; a finding (see `watch.finding`) is sent as an alert."""
        if record["kind"] == "finding":
            self._run.alert(title=record["id"], text=f"step {record['step']}: {record['text']}. {record['advice']}")
        else:
            self._run.log({**scalars(record), "step": record["step"]})

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Send one picture."""
        self._run.log({name: self._wandb.Image(image), "step": step})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class Sinks:
    """Sinks that all receive the same records; only the first process has sinks, the others discard records."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = tuple(sinks)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record to each sink."""
        for sink in self.sinks:
            sink.write(record)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Write a picture to each sink."""
        for sink in self.sinks:
            sink.image(name, step, image)

    @property
    def shows_images(self) -> bool:
        """Whether any sink shows pictures."""
        return any(not isinstance(sink, JsonLines) for sink in self.sinks)

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *error: object) -> None:
        for sink in self.sinks:
            sink.close()


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a log record, by names of the form KIND/NAME."""
    return {f"{record['kind']}/{name}": value for name, value in record.items() if isinstance(value, float)}


_LOGGERS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
_INSTALLED_BY = {"tensorboard": "'tactile-align[tensorboard]'", "wandb": "wandb"}


def _imported(option: str) -> Any:
    """Return the module of a logger that an option of [log] selects.

    Raises:
        MissingExtra: The package is not installed, or cannot be imported; the message contains the reason.
    """
    try:
        return import_module(_LOGGERS[option])
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == option
        fault = "which is not installed" if missing else f"which is installed but cannot be imported ({error})"
        package = _INSTALLED_BY[option]
        command = f"pip install {package}" if missing else f"pip install --upgrade {package}"
        raise MissingExtra(f"log.{option} needs the package {option}, {fault}. Run: {command}") from error


def require_sinks(log: LogConfig) -> None:
    """Import the packages of the selected sinks, so that a missing one is found before the episodes are prepared.

    Raises:
        MissingExtra: As for `open_sinks`.
    """
    for option in _LOGGERS:
        if getattr(log, option):
            _imported(option)


def open_sinks(out: Path, log: LogConfig, config: dict[str, Any]) -> Sinks:
    """Return the open sinks of a run folder.

    Args:
        out: The run folder.
        log: Config of the log, which selects the sinks.
        config: Training config as plain data, stored with the Weights & Biases run.

    Raises:
        MissingExtra: The package of a selected sink is not installed, or cannot be imported.
        InputError: Weights & Biases does not start.
    """
    others: list[Sink] = [WeightsAndBiases(log.wandb, out, config)] if log.wandb is not None else []
    if log.tensorboard:
        others.append(TensorBoard(out / "tensorboard"))
    # Opened last, because a folder with this file is a run.
    return Sinks([JsonLines(out / "metrics.jsonl"), *others])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl, each with "kind" and "step".

    The last line may be incomplete if the run was killed or is still writing; an incomplete last line is left out.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Another line is damaged; the message states its number.
    """
    return [record for record, _ in _records(path)]


def truncate_log(path: Path, step: int) -> int:
    """Remove the records after the step at which a run resumes, and return the number of removed records.

    Raises:
        FileNotFoundError, ValueError: As for `read_metrics`.
    """
    records = _records(path)
    kept = [line + "\n" for record, line in records if record["step"] <= step]
    if "".join(kept) != read_text(path):
        write_text_atomically(path, "".join(kept))
    return len(records) - len(kept)


def _records(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Return each record of the file with its line of text."""
    records = []
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):  # an incomplete last line
                break
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise InputError(
                f"{path} line {number}: expected a JSON object with an integer `step`; found {line[:60]!r}. Delete the "
                f"line"
            )
        records.append((record, line))
    return records
