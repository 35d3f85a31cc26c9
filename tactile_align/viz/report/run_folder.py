"""A training run's folder, read for people: what is there, in plain values."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tactile_align.errors import InputError
from tactile_align.files import read_json, read_text, read_toml
from tactile_align.training.logs import read_metrics

Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run folder holds; a part that is not there is None or empty.

    Attributes:
        folder: The folder.
        config: The resolved config.
        config_text: config.toml as it is.
        metrics: Records of metrics.jsonl in order; numbers that are not finite are None.
        summary: summary.json, written by `evaluate`.
        verification: verification.json, written by `verify --json`.
        doctor: doctor.json, written by `doctor --json`, in the keys of verification.json, with `tables`.
        statistics: statistics.json.
        environment: Lines of environment.txt.
        rig: rig.toml.
        pictures: Files of the folder `drawn`, in order.
        drawn: Where pictures are.
        label: What the page calls the run, where the folder's name is not enough.
        live: Whether the run is looked at while it trains.
    """

    folder: Path
    config: Json
    config_text: str
    metrics: tuple[Json, ...]
    summary: Json | None
    verification: Json | None
    doctor: Json | None
    statistics: Json | None
    environment: tuple[str, ...]
    rig: Json | None
    pictures: tuple[Path, ...]
    drawn: Path
    label: str = ""
    live: bool = False

    @property
    def name(self) -> str:
        """The label, or the folder's name; with its parent's where it is just called `run`."""
        place = self.folder.resolve()
        return self.label or (f"{place.parent.name}/run" if place.name == "run" else place.name)

    @property
    def scratch(self) -> bool:
        """Whether an encoder began from random weights."""
        return self.summary is not None and "scratch" in str(self.summary.get("encoder", "")).lower()

    def series(self, kind: str, key: str) -> tuple[list[int], list[float | None]]:
        """Return steps and values of one number in the records of one kind ("train", "validation")."""
        found = [(r["step"], r[key]) for r in self.metrics if r.get("kind") == kind and key in r]
        return [step for step, _ in found], [value for _, value in found]

    def keys(self, prefix: str) -> list[str]:
        """Return the names of logged numbers that begin with `prefix`, sorted."""
        return sorted({key for record in self.metrics for key in record if key.startswith(prefix)})


def read_run(folder: str | Path, pictures: str | Path | None = None) -> Run:
    """Read a run folder; `pictures` is where its pictures are, FOLDER/pictures when None.

    Raises:
        FileNotFoundError: No such folder, or none of a run.
        ValueError: A file is damaged; names file and line.
    """
    place = Path(folder)
    if not (place / "config.toml").is_file():
        raise FileNotFoundError(
            f"{place}: needed a run folder with config.toml in it; found none. "
            "Train one with: tactile-align train CONFIG"
        )
    text = read_text(place / "config.toml")
    drawn = place / "pictures" if pictures is None else Path(pictures)
    found = (file for file in drawn.rglob("*") if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    environment = place / "environment.txt"
    return Run(
        folder=place,
        config=_toml(place / "config.toml") or {},
        config_text=text,
        metrics=_metrics(place / "metrics.jsonl"),
        summary=_json(place / "summary.json"),
        verification=_json(place / "verification.json"),
        doctor=_doctor(place / "doctor.json"),
        statistics=_json(place / "statistics.json"),
        environment=tuple(read_text(environment).splitlines()) if environment.is_file() else (),
        rig=_toml(place / "rig.toml"),
        pictures=tuple(sorted(found)) if drawn.is_dir() else (),
        drawn=drawn,
    )


def _toml(path: Path) -> Json | None:
    return read_toml(path, "Restore it or remove it") if path.is_file() else None


def _json(path: Path) -> Json | None:
    if not path.is_file():
        return None
    data = read_json(path, "Write it anew or remove it")
    if not isinstance(data, dict):
        raise InputError(f"{path}: needed a JSON object; got a {type(data).__name__}. Write it anew or remove it")
    return data


def _doctor(path: Path) -> Json | None:
    """Return what the doctor reported, in the keys that `verify` writes."""
    data = _json(path)
    if data is None:
        return None
    checks, tables = data.get("checks"), data.get("tables")
    if not isinstance(checks, list) or not isinstance(tables, dict) or not all(isinstance(c, dict) for c in checks):
        raise InputError(f"{path}: needed what `tactile-align doctor CONFIG --json` prints; got keys {', '.join(data)}")
    return data | {
        "checks": [
            {
                "name": check.get("title", ""),
                "measured": check.get("measured", ""),
                "needed": check.get("limit", ""),
                "outcome": check.get("status", ""),
                "advice": ". ".join(part for part in (check.get("why"), check.get("advice")) if part),
            }
            for check in checks
        ],
        "tables": {title: [[*rows[0]], *([*row.values()] for row in rows)] for title, rows in tables.items() if rows},
    }


def _metrics(path: Path) -> tuple[Json, ...]:
    found = read_metrics(path) if path.is_file() else []
    return tuple({key: _number(value) for key, value in record.items()} for record in found)


def _number(value: Any) -> Any:
    """Turn "nan" and "inf", which JSON cannot hold, into None."""
    if value in ("nan", "inf", "-inf") or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
