"""A training run's folder, read for people: what is there, in plain values."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tactile_align.checks import GRAVEST_FIRST, Check, Report, Table
from tactile_align.diagnostics.summary_text import readout_lines
from tactile_align.errors import InputError
from tactile_align.files import read_json, read_text, read_toml
from tactile_align.training.logs import read_metrics

Json = dict[str, Any]


@dataclass(frozen=True)
class Recall:
    """Recall at each k in a gallery of `gallery` moments: the share, its 95 % interval, and chance."""

    at: dict[int, float]
    interval: dict[int, tuple[float, float]]
    chance: dict[int, float]
    gallery: int


@dataclass(frozen=True)
class ViewSummary:
    """What `evaluate` measured of one view.

    Attributes:
        hsa: Alignment loss on held-out episodes, nats.
        chance: Its chance level.
        retrieval: Recall by direction, "both" among them.
        opening: The same from the gripper's opening alone; empty where that was not measured.
    """

    hsa: float
    chance: float
    retrieval: dict[str, Recall]
    opening: dict[str, Recall]


@dataclass(frozen=True)
class Summary:
    """What summary.json holds, for the report.

    Attributes:
        encoder: The encoders' name.
        views: By the view's key.
        readouts: What else was read off each view's features, as `evaluate` prints it; by the view's key.
        error: Mean absolute action error by column, robot units; empty where no policy was judged.
        still: The same of standing still; empty where it was not measured.
    """

    encoder: str
    views: dict[str, ViewSummary]
    readouts: dict[str, str]
    error: tuple[float, ...]
    still: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """What a run folder holds; a part that is not there is None or empty.

    Attributes:
        folder: The folder.
        config: The resolved config.
        config_text: config.toml as it is.
        metrics: Records of metrics.jsonl in order; numbers that are not finite are None.
        summary: summary.json, written by `evaluate`.
        verification: verification.json, written by `verify --json`; the gravest check first.
        doctor: doctor.json, written by `doctor --json`; the gravest check first.
        watch: What the watch remarked in metrics.jsonl while the run trained.
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
        """The label, or the folder's name; with its parent's where it is just called `run`."""
        place = self.folder.resolve()
        return self.label or (f"{place.parent.name}/run" if place.name == "run" else place.name)

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
    metrics = _metrics(place / "metrics.jsonl")
    return Run(
        folder=place,
        config=_toml(place / "config.toml") or {},
        config_text=text,
        metrics=metrics,
        summary=_summary(place / "summary.json"),
        verification=_report(place / "verification.json", "verify EPISODES"),
        doctor=_report(place / "doctor.json", "doctor CONFIG"),
        watch=_watch(place / "metrics.jsonl", metrics),
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


def _summary(path: Path) -> Summary | None:
    data = _json(path)
    if data is None:
        return None
    error = data.get("action_error", {})
    try:
        return Summary(
            encoder=data["encoder"],
            views={key: _view(view) for key, view in data["views"].items()},
            readouts={
                key: "\n".join(readout_lines(view)) for key, view in data["views"].items() if "galleries" in view
            },
            error=tuple(error.get("per_column", ())),
            still=tuple(error.get("standing_still_per_column", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise InputError(
            f"{path}: needed what `tactile-align evaluate RUN` writes; {cause!r} is missing or wrong. Evaluate anew"
        ) from cause


def _view(view: Json) -> ViewSummary:
    loss, opening = view["loss"], view.get("opening_only", {"retrieval": {}})
    return ViewSummary(loss["hsa"], loss["chance"], _recalls(view["retrieval"]), _recalls(opening["retrieval"]))


def _recalls(retrieval: dict[str, Json]) -> dict[str, Recall]:
    """Return recall by direction."""
    return {
        direction: Recall(_by_k(found["at"]), _by_k(found["interval"]), _by_k(found["chance"]), found["gallery"])
        for direction, found in retrieval.items()
    }


def _by_k(values: Json) -> dict[int, Any]:
    """Return values by k, which JSON made a word."""
    return {int(k): value for k, value in values.items()}


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
            f"{path}: needed what `tactile-align {verb} --json` prints; {cause!r} is missing or wrong. Write it anew"
        ) from cause


def _watch(path: Path, metrics: tuple[Json, ...]) -> Report | None:
    """Return the remarks of the watch, each once: a resumed run may make one again."""
    try:
        checks = {
            r["id"]: Check(r["id"], r["text"], r["status"], f"at step {r['step']}", advice=r["advice"])
            for r in metrics
            if r.get("kind") == "finding"
        }
    except KeyError as cause:
        raise InputError(
            f"{path}: needed records of kind finding with id, status, step, text and advice; one has no {cause}. "
            f"This version does not read logs of earlier ones: train anew"
        ) from cause
    return Report("watch", path.parent.name, tuple(checks.values())) if checks else None


def _metrics(path: Path) -> tuple[Json, ...]:
    found = read_metrics(path) if path.is_file() else []
    return tuple({key: _number(value) for key, value in record.items()} for record in found)


def _number(value: Any) -> Any:
    """Turn "nan" and "inf", which JSON cannot hold, into None."""
    if value in ("nan", "inf", "-inf") or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
