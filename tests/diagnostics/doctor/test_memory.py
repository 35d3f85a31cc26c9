"""The largest batch that fits: as counted by a made-up device, and as a real step needs it."""

from pathlib import Path

import pytest
import torch

from tactile_align.diagnostics.doctor import memory
from tactile_align.diagnostics.doctor.memory import largest_batch
from tactile_align.diagnostics.doctor.subject import Subject, examine
from tactile_align.features.cost import cost_of
from tactile_align.policies.build import make_model
from tactile_align.training.data import load_data
from tactile_align.training.loop import build_model
from tests.training.conftest import TOWER, small_training


@pytest.fixture(scope="module")
def subject(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    config = small_training(regrasp_folder, tmp_path_factory.mktemp("memory") / "run")
    data = load_data(config, progress=False)
    return examine(config, data, build_model(config, data.train))


def device(monkeypatch: pytest.MonkeyPatch, total: int, stops: int | None = None) -> list[int]:
    """Replace the device by one with `total` bytes, of which a step of n moments needs 200 + 10 n."""
    sizes: list[int] = []

    def peak(trainer: object, raw: object, size: int) -> int:
        if stops is not None and size >= stops:
            raise torch.OutOfMemoryError("planted")
        sizes.append(size)
        return 200 + 10 * size

    monkeypatch.setattr(memory, "_peak", peak)
    monkeypatch.setattr(memory, "_in_use", lambda where: 200)
    monkeypatch.setattr(memory, "_free", lambda where: total - 200)
    return sizes


def test_the_batch_follows_from_the_bytes_per_moment(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = device(monkeypatch, total=1000)
    check = largest_batch(subject)
    assert check.status == "info" and check.measured.startswith("about 80 moments: 1e-05 MB each")
    assert sizes == [2, 2, 4, 8, 16, 32, 64], "no step is run that would not fit"


def test_a_batch_that_does_not_fit_is_warned_of(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch, total=300)
    check = largest_batch(subject)
    assert subject.config.batch_size == 12 and check.status == "warn" and check.measured.startswith("about 10 moments")
    assert "batch_size is 12" in check.why


@pytest.mark.parametrize(("stops", "fits"), [(32, 31), (4, 2), (2, 0)])
def test_a_step_without_enough_memory_ends_the_trial(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, stops: int, fits: int
) -> None:
    device(monkeypatch, total=10**6, stops=stops)
    assert largest_batch(subject).measured.startswith(f"about {fits} moments")


def test_the_trial_ends_at_the_largest_batch_or_without_time(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = device(monkeypatch, total=10**9)
    assert largest_batch(subject).measured.startswith("at least 4096 moments") and sizes[-1] == 4096
    monkeypatch.setattr(memory, "SECONDS", 0.0)
    sizes.clear()
    assert largest_batch(subject).measured.startswith("at least 4096 moments") and sizes == [2, 2, 4]


def test_the_formula_counts_each_image_that_an_encoder_gets(tmp_path: Path) -> None:
    stem = {"vision": {**TOWER, "stem": "patch"}}
    for more, images in (({}, 3), ({"touch_frames": 4, "touch_time": "last"}, 6)):
        config = small_training(tmp_path, tmp_path / "run", features={**stem, **more})
        model = make_model(config, 7, 7)
        assert model.alignment is not None
        cost = cost_of(model.alignment.towers.vision)  # a crop, the whole frame, and the touches
        text = f"need {cost.fixed_bytes / 1e6:.3g} MB and {images * cost.image_bytes / 1e6:.3g} MB a moment"
        assert memory.by_formula(model, config).endswith(text)
    conv = small_training(tmp_path, tmp_path / "run")
    assert memory.by_formula(make_model(conv, 7, 7), conv) == ""


@pytest.mark.skipif(not memory.STATM.exists(), reason="needs Linux")
def test_a_real_step_needs_as_much_as_its_tensors(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SECONDS", 6.0)
    measured = largest_batch(subject).measured
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    rows = torch.arange(128) % len(subject.batch)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        subject.model.train()(subject.batch.rows(rows))
    activations = sum(saved.values()) / len(rows) / 1e6
    each = float(measured.split(" moments: ")[1].split(" MB")[0])
    assert 0.7 * activations < each < 3 * activations, (measured, activations)
