"""Sinks for numbers and pictures: metrics.jsonl always, TensorBoard and Weights & Biases where configured."""

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
    """A place for records; what it has no room for it leaves out."""

    def write(self, record: dict[str, Any]) -> None:
        """Write one record: "kind", "step" and values by name."""

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Write one picture, (H, W, 3) uint8 RGB."""

    def close(self) -> None:
        """Flush and close."""


class JsonLines(Sink):
    """A file of records, one JSON object a line; each line is flushed, so a killed run keeps its log."""

    def __init__(self, path: Path) -> None:
        self._handle = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; a number that is not finite becomes a string, as JSON has none."""
        plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._handle.write(json.dumps(plain) + "\n")
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


class TensorBoard(Sink):
    """Scalars as KIND/NAME and pictures, in TensorBoard's files."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("log.tensorboard needs TensorBoard: pip install 'tactile-align[tensorboard]'") from error
        self._writer: Any = SummaryWriter(str(folder))  # type: ignore[no-untyped-call]

    def write(self, record: dict[str, Any]) -> None:
        """Write the numbers of one record; a finding as text."""
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
    """Scalars as KIND/NAME over `step`, pictures and findings (as alerts), in a Weights & Biases run.

    The run's id is kept in FOLDER/wandb_id.txt: `--resume` goes on with it, and another run of a folder of the same
    name is another run. WANDB_MODE=offline keeps everything in FOLDER/wandb, for `wandb sync`.
    """

    def __init__(self, project: str, folder: Path, config: dict[str, Any]) -> None:
        try:
            wandb: Any = import_module("wandb")
        except ImportError as error:
            raise MissingExtra("log.wandb needs Weights & Biases: pip install wandb") from error
        self._wandb = wandb
        name, known = folder.resolve().name, folder / "wandb_id.txt"
        if not known.is_file():
            write_text_atomically(known, token_hex(8))
        key = known.read_text(encoding="utf-8")
        self._run: Any = wandb.init(project=project, name=name, id=key, dir=str(folder), config=config, resume="allow")
        self._run.define_metric("*", step_metric="step")  # else the axis counts records

    def write(self, record: dict[str, Any]) -> None:
        """Send the numbers of one record; a finding as an alert."""
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
    """Several sinks as one; without any, as in processes other than the first, records go nowhere."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = tuple(sinks)

    def write(self, record: dict[str, Any]) -> None:
        """Give a record to each."""
        for sink in self.sinks:
            sink.write(record)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Give a picture to each."""
        for sink in self.sinks:
            sink.image(name, step, image)

    @property
    def shows_images(self) -> bool:
        """Whether drawing a picture is worth the time."""
        return any(not isinstance(sink, JsonLines) for sink in self.sinks)

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *error: object) -> None:
        for sink in self.sinks:
            sink.close()


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record as KIND/NAME."""
    return {f"{record['kind']}/{name}": value for name, value in record.items() if isinstance(value, float)}


def open_sinks(out: Path, log: LogConfig, config: dict[str, Any]) -> Sinks:
    """Open the sinks of a run folder.

    Raises:
        ImportError: A package that was asked for is not installed.
    """
    sinks: list[Sink] = [JsonLines(out / "metrics.jsonl")]
    if log.tensorboard:
        sinks.append(TensorBoard(out / "tensorboard"))
    if log.wandb is not None:
        sinks.append(WeightsAndBiases(log.wandb, out, config))
    return Sinks(sinks)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl, each with "kind" and "step".

    The last line of a run that was killed, or is writing at this moment, may be cut short; it is left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another line is damaged; names it.
    """
    return [record for record, _ in _records(path)]


def truncate_log(path: Path, step: int) -> int:
    """Remove the records after `step`, where a run resumes and logs again, and return how many they were.

    Raises:
        FileNotFoundError, ValueError: As `read_metrics`.
    """
    records = _records(path)
    kept = [line + "\n" for record, line in records if record["step"] <= step]
    if "".join(kept) != read_text(path):
        write_text_atomically(path, "".join(kept))
    return len(records) - len(kept)


def _records(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Return each record with its line."""
    records = []
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):  # cut short
                break
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise InputError(
                f"{path} line {number}: needed a JSON object with an integer `step`; got {line[:60]!r}. Remove the line"
            )
        records.append((record, line))
    return records
