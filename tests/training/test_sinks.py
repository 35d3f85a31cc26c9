"""What TensorBoard and Weights & Biases get, read back from the files they write."""

import json
import struct
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tactile_align.config.train import TrainConfig
from tactile_align.errors import InputError, MissingExtra
from tactile_align.training.logs import WeightsAndBiases, read_metrics
from tactile_align.training.loop import train

Maker = Callable[..., TrainConfig]


def test_tensorboard_gets_scalars_and_pictures(small_config: Maker, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(small_config(steps=3, log={"tensorboard": True}), progress=False)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    held_out = next(r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "validation")
    assert events.Scalars("validation/loss")[0].value == pytest.approx(held_out["loss"], rel=1e-5)
    assert "train/hsa" in events.Tags()["scalars"] and events.Tags()["images"] == ["validation/pairs"]


def fake_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str | None) -> None:
    """Put a module `wandb` with this source in front of a real one; None: there is no wandb."""
    monkeypatch.setitem(sys.modules, "wandb", None)  # also undoes the import of the module below
    if source is not None:
        del sys.modules["wandb"]
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "wandb.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path / "modules"))


REFUSES = """
class Error(Exception): ...
def init(**options):
    raise Error("api_key not configured (no-tty)")
"""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "which is not installed. Run: pip install wandb$"),
        ("import nowhere_at_all", r"cannot be imported \(No module named 'nowhere_at_all'\).*--upgrade wandb$"),
        ("raise ImportError('needs protobuf 5')", r"cannot be imported \(needs protobuf 5\)"),
        (REFUSES, r"did not start \(api_key not configured \(no-tty\)\)\. Run wandb login"),
    ],
)
def test_a_logger_that_cannot_start_is_named_with_its_reason_and_leaves_no_run_behind(
    small_config: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, message: str
) -> None:
    fake_wandb(monkeypatch, tmp_path, source)
    config = small_config(steps=1, log={"wandb": "project"})
    with pytest.raises((MissingExtra, InputError), match=rf"^log\.wandb .*{message}"):
        train(config, progress=False)
    assert not Path(config.out).exists()


def stored(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: protobuf messages in LevelDB's log format, blocks of 32 KiB."""
    record: Any = import_module("wandb.proto.wandb_internal_pb2").Record
    data, at, message = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            yield record.FromString(message)
            message = b""


def of_folder(folder: Path) -> list[Any]:
    """Return the records of all offline runs of a folder in the order of time."""
    import_module("wandb").teardown()  # its process writes the last records when it ends
    return [one for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")) for one in stored(path)]


def histories(folder: Path) -> list[dict[str, Any]]:
    """Return what was logged, as `of_folder`."""
    logged = [one.history.item for one in of_folder(folder) if one.HasField("history")]
    return [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items} for items in logged]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_weights_and_biases_gets_scalars_and_pictures_of_a_run_and_of_its_resumption(small_config: Maker) -> None:
    frozen = {
        "lr": 1e-12,
        "lr_tower": 1e-12,
        "lr_head": 1e-12,
        "lr_temperature": 1e-12,
        "warmup_steps": 0,
    }  # no better after the first pass
    options = {"log": {"wandb": "project", "every": 1}, "optimiser": frozen, "steps": 4, "validate_every": 1}
    out = train(small_config(**options, patience=1), progress=False)
    key = (out / "wandb_id.txt").read_text()
    train(small_config(**options), resume=True, progress=False)
    sent = histories(out)
    assert len(list((out / "wandb").glob("offline-run-*"))) == 2 and sent[-1]["step"] == 4
    for record in (r for r in read_metrics(out / "metrics.jsonl") if r["kind"] in ("train", "validation")):
        name = f"{record['kind']}/loss"
        assert [one[name] for one in sent if one["step"] == record["step"] and name in one] == [record["loss"]]
    pictures = list((out / "wandb").glob("offline-run-*/files/media/images/validation/pairs_*.png"))
    assert len(pictures) == 4 and {path.stem for path in (out / "wandb").glob("*/*.wandb")} == {f"run-{key}"}


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_runs_in_folders_of_one_name_are_two_runs_and_findings_are_alerts(tmp_path: Path) -> None:
    for parent in ("first", "second"):
        folder = tmp_path / parent / "run"
        folder.mkdir(parents=True)
        sink = WeightsAndBiases("project", folder, {"hsa": {"weight": 1.0}})
        sink.write({"kind": "train", "step": 7, "loss": float("nan"), "hsa": 2.5})
        sink.write({"kind": "finding", "step": 7, "id": "collapse", "text": "all alike", "advice": "Raise it"})
        sink.image("validation/pairs", 7, np.zeros((8, 9, 3), np.uint8))
        sink.close()
        alerts = [one.alert for one in of_folder(folder) if one.HasField("alert")]
        assert [(a.title, a.text) for a in alerts] == [("collapse", "step 7: all alike. Raise it")]
        assert [one["train/hsa"] for one in histories(folder) if "train/hsa" in one] == [2.5]
    first, second = ((tmp_path / parent / "run" / "wandb_id.txt").read_text() for parent in ("first", "second"))
    assert first != second
