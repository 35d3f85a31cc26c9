"""Reader of a run folder, for the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tactile_align.checks import GRAVEST_FIRST, Check, Report, Table, finite
from tactile_align.diagnostics.summary import Summary, summary_of
from tactile_align.errors import InputError
from tactile_align.files import read_json, read_text, read_toml
from tactile_align.training.logs import read_metrics

Json = dict[str, Any]
REMEDY = "Run the command that wrote the file again, or remove the file"


@dataclass(frozen=True)
class Run:
    """Contents of a run folder; a part whose file does not exist is None or empty.

    Attributes:
        folder: The folder.
        config: The resolved config.
        config_text: Text of config.toml.
        metrics: Records of metrics.jsonl in order; non-finite numbers are None.
        summary: Content of summary.json, which `evaluate` writes.
        verification: Content of verification.json, the output of `verify --json`; the most severe check comes first.
        doctor: Content of doctor.json, the output of `doctor --json`; the most severe check comes first.
        watch: Warnings that were logged to metrics.jsonl during training.
        statistics: Content of statistics.json.
        environment: Lines of environment.txt.
        rig: Content of rig.toml.
        pictures: Picture files in `drawn`, sorted.
        drawn: Folder of the pictures.
        label: Name of the run on the page, set if the folder name is ambiguous; "" otherwise.
        live: Whether the run is still training.
    """

    folder: Path
    config: Json
    config_text: str
    metrics: tuple[Json, ...]
    summary: Summary | None
    verification: Report | None
    doctor: Report | None
    watch: Report | None
    statistics: Json | None
    environment: tuple[str, ...]
    rig: Json | None
    pictures: tuple[Path, ...]
    drawn: Path
    label: str = ""
    live: bool = False

    @property
    def name(self) -> str:
        """Name of the run on the page: `label`, otherwise the folder name; for a folder named `run`, "PARENT/run"."""
        place = self.folder.resolve()
        return self.label or (f"{place.parent.name}/run" if place.name == "run" else place.name)

    def series(self, kind: str, key: str) -> tuple[list[int], list[float | None]]:
        """Return the training steps and the values logged under `key` in records of `kind`: "train" or "validation".

        Of several records of one step, such as those of a resumed run, the last one counts.
        """
        values = {r["step"]: r[key] for r in self.metrics if r.get("kind") == kind and key in r}
        return list(values), list(values.values())

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix` of all values logged in metrics.jsonl, sorted."""
        return sorted({key for record in self.metrics for key in record if key.startswith(prefix)})


def read_run(folder: str | Path, pictures: str | Path | None = None) -> Run:
    """Read a run folder.

    Args:
        folder: The folder.
        pictures: Folder of the run's pictures; None: FOLDER/pictures.

    Raises:
        FileNotFoundError: The folder does not exist or is not a run folder.
        InputError: A file is damaged; the message states the file and the line.
    """
    place = Path(folder)
    config, environment = place / "config.toml", place / "environment.txt"
    if not config.is_file():
        raise FileNotFoundError(
            f"{place}: expected a run folder, but config.toml does not exist. Make one with: tactile-align train CONFIG"
        )
    drawn = place / "pictures" if pictures is None else Path(pictures)
    files = sorted(file for file in drawn.rglob("*") if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    metrics = _metrics(place / "metrics.jsonl")
    remedy = "Restore the file or remove it"
    return Run(
        folder=place,
        config=read_toml(config, remedy),
        config_text=read_text(config),
        metrics=metrics,
        summary=summary_of(summary) if (summary := place / "summary.json").is_file() else None,
        verification=_report(place / "verification.json", "verify EPISODES"),
        doctor=_report(place / "doctor.json", "doctor CONFIG"),
        watch=_watch(place / "metrics.jsonl", metrics),
        statistics=_json(place / "statistics.json"),
        environment=tuple(read_text(environment).splitlines()) if environment.is_file() else (),
        rig=read_toml(rig, remedy) if (rig := place / "rig.toml").is_file() else None,
        pictures=tuple(files),
        drawn=drawn,
    )


def _json(path: Path) -> Json | None:
    if not path.is_file():
        return None
    data = read_json(path, REMEDY)
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(data).__name__}. {REMEDY}")
    return data


def _report(path: Path, verb: str) -> Report | None:
    data = _json(path)
    if data is None:
        return None
    known = ("command", "subject", "verdict", "checks", "tables")
    try:
        checks = [Check(**check) for check in data["checks"]]
        return Report(
            data["command"],
            data["subject"],
            tuple(sorted(checks, key=lambda check: GRAVEST_FIRST.index(check.status))),
            tuple(Table.of(title, records) for title, records in data["tables"].items()),
            {key: value for key, value in data.items() if key not in known},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise InputError(
            f"{path}: expected the output of `tactile-align {verb} --json`, but a key is missing or wrong: {cause!r}. "
            f"{REMEDY}"
        ) from cause


def _watch(path: Path, metrics: tuple[Json, ...]) -> Report | None:
    """Return the warnings logged during training; a warning that a resumed run repeats is returned only once."""
    try:
        checks = {
            r["id"]: Check(r["id"], r["text"], r["status"], f"at step {r['step']}", advice=r["advice"])
            for r in metrics
            if r.get("kind") == "finding"
        }
    except KeyError as cause:
        raise InputError(
            f"{path}: a record of kind finding has no {cause}; expected the keys id, status, step, text and advice. "
            f"If an earlier version wrote the file, train again, because this version cannot read it"
        ) from cause
    return Report("watch", path.parent.name, tuple(checks.values())) if checks else None


def _metrics(path: Path) -> tuple[Json, ...]:
    """Return the records of metrics.jsonl; non-finite numbers, logged as "nan", "inf" and "-inf", become None."""
    records = read_metrics(path) if path.is_file() else []
    names = ("nan", "inf", "-inf")
    return tuple(finite({key: None if value in names else value for key, value in r.items()}) for r in records)
