"""The doctor lets healthy runs pass and finds every defect that kept the original from learning."""

import itertools
import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import tomlkit
import torch

from tactile_align.checks import GRAVEST_FIRST, Check, Report
from tactile_align.cli import run
from tactile_align.config.train import TrainConfig, config_text
from tactile_align.datasets import codec
from tactile_align.diagnostics.doctor import memory
from tactile_align.diagnostics.doctor.data import box_jitter, contact_rows, grippers, lower_gap, policy_sees
from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.diagnostics.doctor.learning import features
from tactile_align.diagnostics.doctor.limits import LIMITS, SELF_CHECKS, STATED
from tactile_align.diagnostics.doctor.subject import examine
from tactile_align.moments.normalisation import Statistics
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.checkpoint import FORMAT, load_checkpoint
from tactile_align.training.data import Data, load_data
from tactile_align.training.loop import build_model, train
from tactile_align.verify.verify import verify_episodes
from tests.diagnostics.doctor import planting_defects as plant
from tests.training.conftest import small_training

KEY = "left_wrist-tactile1"
Maker = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def healthy(regrasp_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Data]:
    # From random weights a first step at the full rate overshoots; a healthy run warms up.
    config = small_training(regrasp_folder, tmp_path_factory.mktemp("doctor") / "run", optimiser={"warmup_steps": 40})
    return config, load_data(config, progress=False)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SECONDS", 0.5)
        yield


def gravest(report: Report, kind: str) -> Check:
    """Return the check of a kind that is furthest from passing, or the self-checks, which name this kind."""
    if kind in SELF_CHECKS:
        assert kind in report.check("self-checks").measured, report.text()
        return report.check("self-checks")
    return min((c for c in report.checks if c.kind == kind), key=lambda c: GRAVEST_FIRST.index(c.status))


def test_a_healthy_run_raises_no_alarm_and_the_doctor_leaves_model_and_random_numbers_alone(
    healthy: tuple[TrainConfig, Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = healthy
    model = build_model(config, data.train)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = diagnose(config, data=data, model=model)  # ten seeds: `tests.benchmarks.doctor`
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [f"{c.id}: {c.measured}" for c in found.checks if c.status in ("fail", "warn")] == []
    assert found.verdict == "pass"
    monkeypatch.setattr("tactile_align.diagnostics.doctor.diagnose.diagnose", lambda *args, **options: found)
    (tmp_path / "config.toml").write_text(config_text(config), encoding="utf-8")
    assert run(["doctor", str(tmp_path / "config.toml")]) == 0


@pytest.mark.slow
def test_the_verb_prints_a_diagnosis_as_json_for_machines_that_is_also_a_table_for_people(
    healthy: tuple[TrainConfig, Data],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, data = healthy
    wild = changed(config, "optimiser", lr=1.0, lr_tower=1.0, lr_head=1.0)
    (tmp_path / "config.toml").write_text(config_text(wild), encoding="utf-8")
    reports = list[Report]()

    def kept(*args: Any, **options: Any) -> Report:
        reports.append(diagnose(*args, **options))
        return reports[-1]

    monkeypatch.setattr("tactile_align.diagnostics.doctor.diagnose.diagnose", kept)
    assert run(["doctor", str(tmp_path / "config.toml"), "--json"]) == 1
    (found,), loaded = reports, json.loads(capsys.readouterr().out)
    assert loaded == json.loads(found.json())
    text, ids = found.text(), [check["id"] for check in loaded["checks"]]
    parts = {f"box-share/{KEY}", "touch-shuffle", "gradient/towers.touch_head", f"feature-rank/region/{KEY}"}
    assert parts <= {*ids} and loaded["verdict"] == "fail"
    assert gravest(found, "full-rate-step").status == "fail", "the rates are a thousand times too high"
    for check in found.checks:
        assert check.id in text and (check.advice in text) and bool(check.advice) == (check.status != "pass")
    assert {check.kind for check in found.checks} <= set(LIMITS) | set(STATED)
    model = build_model(config, data.train)
    rows = {row["module"]: list(row.values())[1:] for row in loaded["tables"]["parameters by module"]}
    count = sum(p.numel() for p in model.act.action_head.parameters())
    assert rows["act.action_head"] == [count, count, "1"]  # of them trained, learning rate
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rest = sum(p.numel() for p in model.parameters()) - learn
    assert rows["all"][:2] == [learn + rest, learn]


IN_DATA = {
    "9 BGR fed as RGB": (plant.bgr, "image-is-recorded"),
    "7 box scaled by the smaller factor": (plant.box_scaled_by_the_smaller_factor, "box-follows-image"),
    "12 one image for all rows": (plant.one_image_for_all, "stream-change"),
    "constant touch images": (plant.constant_touch, "stream-change"),
    "shuffled pairs": (plant.shuffled_pairs, "image-is-recorded"),
}


@pytest.mark.parametrize("name", IN_DATA)
def test_a_defect_of_the_data_is_found(healthy: tuple[TrainConfig, Data], name: str) -> None:
    config, data = healthy
    change, check = IN_DATA[name]
    found = diagnose(config, data=plant.spoilt(data, change), parts=["data"])
    assert gravest(found, check).status == "fail", found.text()


def test_constant_touches_cannot_be_learnt(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    found = diagnose(config, data=plant.spoilt(data, plant.constant_touch), parts=["learning"])
    assert gravest(found, "touch-shuffle").status == "fail"
    # The loss falls from above chance to chance, which is no learning.
    overfits = found.check("one-batch-overfits")
    assert overfits.status == "fail" and overfits.value == pytest.approx(1, abs=0.02), overfits.measured


IN_MODEL: dict[str, tuple[Callable[[AlignedPolicy], None], str]] = {
    "2 blocks behind the tokens learn": (plant.blocks_behind_the_tokens_learn, "gradient"),
    "2 ImageNet statistics": (plant.imagenet_statistics, "normalisation"),
    "11 validation leaves the loss out": (plant.validation_left_out, "validation-losses"),
    "13 one image at a time": (plant.towers_as(plant.OneImageAtATime), "images-per-pass"),
    "a frozen encoder that should train": (plant.frozen_encoder, "trainable-parameters"),
    "a detached feature": (plant.towers_as(plant.DetachedTouch), "gradient"),
    "normalised images normalised again": (plant.normalised_again, "normalisation"),
    "features that belong to other rows": (plant.towers_as(plant.RolledTouch), "rows-stay-pairs"),
    "a tanh-saturated head": (plant.saturated_head, "saturated-activations"),
    "initial outputs of spread 37": (plant.outputs_of_spread_37, "output-scale"),
}


@pytest.mark.parametrize("name", IN_MODEL)
def test_a_defect_of_the_model_is_found(healthy: tuple[TrainConfig, Data], name: str) -> None:
    config, data = healthy
    spoil, check = IN_MODEL[name]
    model = build_model(config, data.train)
    spoil(model)
    found = diagnose(config, data=data, model=model, parts=["model"])
    assert gravest(found, check).status == "fail", found.text()


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (plant.features_of_rank_one, f"feature-rank/region/{KEY}"),
        (plant.touches_in_one_point, "feature-spread/touch/tactile1"),
    ],
    ids=["rank one", "a point"],
)
def test_collapsed_features_are_found(
    healthy: tuple[TrainConfig, Data], spoil: Callable[[AlignedPolicy], None], check: str
) -> None:
    config, data = healthy
    model = build_model(config, data.train)
    assert {found.id: found.status for found in features(examine(config, data, model))}[check] == "pass"
    spoil(model)
    assert {found.id: found.status for found in features(examine(config, data, model))}[check] == "fail"


def changed(config: TrainConfig, part: str, **entries: Any) -> TrainConfig:
    return config.model_copy(update={part: getattr(config, part).model_copy(update=entries)})


def test_1_a_private_encoder_is_found(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    private = changed(config, "policy", vision="none", region_tokens=False, touch_tokens=False)
    assert gravest(diagnose(private, data=data, parts=["model"]), "alignment-reaches-action").status == "fail"


def test_a_policy_that_sees_no_whole_frame_is_warned_of(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    whole = config.model_copy(update={"views": (config.views[0].model_copy(update={"zoom": None}),)})
    sees = next(policy_sees(examine(whole, load_data(whole, progress=False), build_model(whole, data.train))))
    assert sees.status == "pass"
    assert sees.measured == f"whole frame of left_wrist through the vision tower, region {KEY}, touch tactile1, joints"
    blind = changed(config, "policy", vision="none")
    sees = next(policy_sees(examine(blind, data, build_model(blind, data.train))))
    assert sees.status == "warn" and sees.measured == f"region {KEY}, touch tactile1, joints"


def test_a_policy_whose_crops_are_always_exact_is_warned_of(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    for shift, status in ((0, "warn"), (2, "pass")):
        shifted = changed(config, "augment", shift_px=shift)
        (check,) = box_jitter(examine(shifted, data, build_model(shifted, data.train)))
        assert check.status == status and f"shift_px = {shift} px" in check.measured and KEY in check.measured
    unread = changed(config, "policy", region_tokens=False)
    assert not list(box_jitter(examine(unread, data, build_model(unread, data.train))))


def test_the_cost_of_a_whole_frame_beside_crops_is_stated(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    sees = next(policy_sees(examine(config, data, build_model(config, data.train))))
    assert sees.status == "pass" and "left_wrist through the vision tower (one more image a moment" in sees.measured


@pytest.mark.parametrize(
    ("share", "parts", "pairs", "status"),
    [(0.2, 1, 3, "warn"), (0.07, 1, 1, "fail"), (0.75, 1, 12, "pass"), (0.75, 4, 3, "warn")],
)
def test_the_negatives_of_a_pair_are_counted_at_the_contact_share_and_batch_of_the_run(
    healthy: tuple[TrainConfig, Data], share: float, parts: int, pairs: int, status: str
) -> None:
    config, data = healthy
    config = config.model_copy(update={"batch_size": 16, "contact_share": share})
    config = changed(changed(config, "optimiser", accumulate=parts), "hsa", min_gap=0, exclude_same_contact=False)
    check = diagnose(config, data=data, parts=["data"]).check(f"negatives-per-pair/{KEY}")
    assert (check.status, check.value) == (status, pairs - 1), check.measured
    assert f"(chance {np.log(pairs):.2f}), {pairs}.0 pairs a batch" in check.measured
    more = changed(config, "hsa", min_gap=0, exclude_same_contact=False, region_negatives=2)
    assert diagnose(more, data=data, parts=["data"]).check(f"negatives-per-pair/{KEY}").value == pairs + 1


def test_each_new_part_has_its_rate_and_a_pretrained_tower_has_none(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    slow = changed(config, "optimiser", lr=1e-6, lr_tower=1e-5, lr_head=1e-5, lr_temperature=1e-5)
    model = build_model(config, data.train)
    kinds = ("new-part-rate/heads", "new-part-rate/temperature", "act-rate", "new-part-rate/towers")
    found = diagnose(slow, data=data, model=model, parts=["model"])
    assert [found.check(kind).status for kind in kinds] == ["warn"] * 4
    assert "towers.region_pooling, towers.touch_head, region_to_act" in found.check(kinds[0]).measured
    found = diagnose(config, data=data, model=model, parts=["model"])
    assert [found.check(kind).status for kind in kinds] == ["pass"] * 4
    model.alignment.towers.vision.scratch = False  # as if its weights had been loaded
    assert not [c for c in diagnose(slow, data=data, model=model, parts=["model"]).checks if c.id == kinds[3]]


def test_the_checks_of_the_toolkit_itself_are_one_line(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    report = diagnose(config, data=data, parts=["data", "model"])
    assert not {check.kind for check in report.checks} & set(SELF_CHECKS)
    assert report.check("self-checks").measured == "all 11 pass" and report.checks[-1].id == "self-checks"


def test_gradients_are_computed_on_a_few_rows_with_pairs(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    config = config.model_copy(update={"batch_size": 64, "contact_share": 0.25})
    subject = examine(config, data, build_model(config, data.train))
    assert (len(subject.batch), len(subject.few)) == (64, 16)
    assert bool((subject.few.views[KEY].visible & subject.few.touches["tactile1"].contact).all())


def test_10_near_frames_and_free_moments_as_negatives_are_found(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    loose = changed(config, "hsa", min_gap=0, exclude_same_contact=False, require_contact=False)
    loose = loose.model_copy(update={"contact_share": 0.1, "batch_size": 48})
    check = gravest(diagnose(loose, data=data, parts=["data"]), "false-negatives")
    assert check.status == "fail" and "hsa.require_contact = true" in check.advice
    # The advice states the smallest gap that no contact of the recordings outlasts.
    rows = zip(data.train.episode, data.train.touches["tactile1"].contact, strict=True)
    longest = max(len([*group]) for (_, contact), group in itertools.groupby(rows) if contact)
    assert f"`hsa.min_gap = {longest}`" in check.advice and f" {longest} rows: " in check.advice


def test_a_gap_longer_than_each_contact_is_to_be_lowered_to_its_length(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    longest = int(contact_rows(data.train, "tactile1").max())
    for gap, advice in ((longest, ""), (longest + 1, f"`hsa.min_gap = {longest}`")):
        subject = SimpleNamespace(data=data, config=changed(config, "hsa", min_gap=gap))
        assert advice in (told := lower_gap(subject, "tactile1")) and bool(told) == bool(advice)  # type: ignore[arg-type]


@pytest.mark.parametrize(("open_m", "status"), [(0.16, "warn"), (0.08, None)])
def test_a_law_that_opens_twice_as_far_as_the_reading_is_found(
    healthy: tuple[TrainConfig, Data], open_m: float, status: str | None
) -> None:
    (rig,) = healthy[1].rigs
    law = {"kind": "linear", "open_m": open_m}
    rig = rig.with_gripper("left", open=0.16 if status else 1.0, closed=0.0, law=law)
    checks = list(grippers(SimpleNamespace(data=SimpleNamespace(rigs=[rig]))))  # type: ignore[arg-type]
    assert [(check.id, check.status) for check in checks] == ([("gripper-stroke/0/left", status)] if status else [])


def test_10_the_same_touch_rule_takes_false_negatives_away(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    loose = config.model_copy(update={"batch_size": 48})
    loose = changed(loose, "hsa", min_gap=0, exclude_same_contact=False)
    configs = (changed(loose, "hsa", touch_ceiling=ceiling) for ceiling in (None, 0.9))
    plain, ruled = (gravest(diagnose(one, data=data, parts=["data"]), "false-negatives").value for one in configs)
    assert plain is not None and ruled is not None and ruled < plain


def test_12_a_batch_of_one_is_refused_by_name(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    alone = config.model_copy(update={"batch_size": 1, "contact_share": 1.0})
    found = gravest(diagnose(alone, data=data, parts=["model"]), "training-step")
    assert found.status == "fail" and "requires negatives" in found.measured


@pytest.mark.parametrize(("regions", "status"), [(0, "fail"), (2, "pass")])
def test_a_pair_alone_in_its_batch_has_a_negative_only_in_other_regions(
    healthy: tuple[TrainConfig, Data], regions: int, status: str
) -> None:
    config, data = healthy
    pair = changed(config, "hsa", region_negatives=regions).model_copy(update={"batch_size": 2, "contact_share": 0.5})
    assert gravest(diagnose(pair, data=data, parts=["model"]), "pairs-without-negatives").status == status


def test_14_statistics_that_include_held_out_episodes_are_found(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    everything = data.train.low_dim() + data.held_out.low_dim()
    found = diagnose(config, data=replace(data, statistics=Statistics.of(everything)), parts=["data"])
    assert gravest(found, "training-statistics").status == "fail"


def test_14_a_loss_diluted_by_padding_is_pointed_out(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    diluted = changed(config, "policy", loss_reduction="all")
    assert gravest(diagnose(diluted, data=data, parts=["model"]), "padded-steps").status == "warn"


def test_14_a_checkpoint_of_weights_alone_is_no_resume(small_config: Maker) -> None:
    out = train(small_config(steps=3), progress=False)
    path = out / "checkpoints" / "step_00000003.pt"
    state = load_checkpoint(path)
    torch.save({"format": FORMAT, "model": state["model"], "step": 3}, path)
    with pytest.raises(ValueError, match=r"cannot be resumed; missing: .*optimiser"):
        train(small_config(steps=3), resume=True, progress=False)


def test_a_first_step_that_makes_things_worse_is_found(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    cold = changed(config, "optimiser", warmup_steps=0)
    found = gravest(diagnose(cold.model_copy(update={"seed": 1}), data=data, parts=["learning"]), "first-step")
    assert found.status != "pass" and "warmup_steps" in found.advice, found.measured


def test_an_alignment_whose_gradient_has_the_wrong_sign_is_found(healthy: tuple[TrainConfig, Data]) -> None:
    config, data = healthy
    model = build_model(config, data.train)
    plant.towers_as(plant.TurnedRound)(model)
    found = diagnose(config, data=data, model=model, parts=["learning"])
    assert gravest(found, "first-step").status == "warn", found.text()


def with_rig(config: TrainConfig, folder: Path, edit: Callable[[dict[str, Any]], None]) -> TrainConfig:
    """Return the config with a copy of its rig, edited as TOML."""
    rig = tomllib.loads(Path(config.data[0].rig_source).read_text(encoding="utf-8"))
    edit(rig)
    path = folder / "rig.toml"
    path.write_text(tomlkit.dumps(rig), encoding="utf-8")
    return config.model_copy(update={"data": (config.data[0].model_copy(update={"rig": str(path)}),)})


def recording_with(config: TrainConfig, folder: Path, edit: Callable[[h5py.File], None]) -> TrainConfig:
    """Return the config with an edited copy of two of its episodes."""
    copy = folder / "recording"
    copy.mkdir()
    source = Path(config.data[0].path)
    for path in sorted(source.glob("*.hdf5"))[:2]:
        shutil.copy(path, copy / path.name)
        with h5py.File(copy / path.name, "r+") as file:
            edit(file)
    return config.model_copy(update={"data": (config.data[0].model_copy(update={"path": str(copy)}),)})


def z_scored(file: h5py.File) -> None:
    qpos = file["observations/qpos"]
    qpos[...] = (qpos[...] - qpos[...].mean(axis=0)) / np.maximum(qpos[...].std(axis=0), 0.01)


def touches_at_quality_50(file: h5py.File) -> None:
    rows = file["observations/tactile1"]
    for t, row in enumerate(rows[()]):
        data = codec.encode_jpeg(codec.decode(codec.without_padding(row)), 50)
        rows[t] = np.frombuffer(data.ljust(len(row), b"\0"), np.uint8)


def test_9_touches_stored_as_jpeg_of_quality_50_are_found(healthy: tuple[TrainConfig, Data], tmp_path: Path) -> None:
    config, data = healthy
    assert gravest(diagnose(config, data=data, parts=["data"]), "touch-storage").value == 95
    found = gravest(diagnose(recording_with(config, tmp_path, touches_at_quality_50), parts=["data"]), "touch-storage")
    assert (
        found.status == "warn" and found.id == "touch-storage/tactile1" and found.value == 50 and "95" in found.advice
    )


def test_3_normalised_joints_are_refused_by_name(healthy: tuple[TrainConfig, Data], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"episode_init_\d\.hdf5: /observations/qpos: .*normalised"):
        load_data(recording_with(healthy[0], tmp_path, z_scored), progress=False)


def metres_for_readings(rig: dict[str, Any]) -> None:
    rig["arms"]["left"]["gripper"]["law"] = {"kind": "linear", "closed_m": 0.0, "open_m": 1.0}


def mirrored(rig: dict[str, Any]) -> None:
    camera = rig["cameras"]["left_wrist"]
    del camera["quat_wxyz"]
    del camera["translation_m"]
    camera["matrix"] = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()


def of_another_resolution(rig: dict[str, Any]) -> None:
    rig["cameras"]["left_wrist"]["K"] = [[910.0, 0.0, 648.3], [0.0, 910.0, 357.9], [0.0, 0.0, 1.0]]


def wrong_size(rig: dict[str, Any]) -> None:
    camera = rig["cameras"]["left_wrist"]
    camera["width"], camera["height"] = 1280, 720
    camera["K"] = [[910.0, 0.0, 648.3], [0.0, 910.0, 357.9], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (metres_for_readings, "open_m"),
        (mirrored, "det"),
        (of_another_resolution, "principal point"),
        (wrong_size, r"640x480 frames but rig"),
    ],
    ids=["3 reading as metres", "5 det -1", "5 K of another size", "5 frames of another size"],
)
def test_a_defect_of_the_rig_is_refused_by_name(
    healthy: tuple[TrainConfig, Data], tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_data(with_rig(healthy[0], tmp_path, edit), progress=False)


def looks_away(rig: dict[str, Any]) -> None:
    camera = rig["cameras"]["left_wrist"]
    w, x, y, z = camera["quat_wxyz"]
    camera["quat_wxyz"] = [-y, z, w, -x]  # turned half round its own vertical axis


def sensor_far_off(rig: dict[str, Any]) -> None:
    rig["sensors"]["tactile1"]["translation_m"][2] += 0.18


def test_4_and_6_a_sensor_behind_the_camera_is_found(healthy: tuple[TrainConfig, Data], tmp_path: Path) -> None:
    found = diagnose(with_rig(healthy[0], tmp_path, looks_away), parts=["data"])
    assert gravest(found, "box-share").status == "fail", found.text()


def pad_along_the_tool(rig: dict[str, Any]) -> None:
    rig["sensors"]["tactile1"]["pad"]["normal"] = [0.0, 0.0, 1.0]


def test_8_a_pad_that_looks_along_the_tool_is_found(healthy: tuple[TrainConfig, Data], tmp_path: Path) -> None:
    found = gravest(diagnose(with_rig(healthy[0], tmp_path, pad_along_the_tool), parts=["data"]), "pad-direction")
    assert found.status == "warn" and found.value == pytest.approx(90, abs=1)


def test_8_a_sensor_far_from_where_it_is_fails_verification_and_is_refused(
    healthy: tuple[TrainConfig, Data], tmp_path: Path
) -> None:
    config = with_rig(healthy[0], tmp_path, sensor_far_off)
    rig = config.data[0].rig_source
    assert verify_episodes(config.data[0].path, rig, most=1, write_into=rig, progress=False).verdict == "fail"
    with pytest.raises(ValueError, match="failed `verify`"):
        load_data(config, progress=False)
    trusting = config.model_copy(update={"unverified_rig": True})
    assert gravest(diagnose(trusting, parts=["data"]), "rig-verified").status == "fail"


@pytest.mark.parametrize(("verdict", "status"), [("pass", "pass"), ("warn", "warn")])
def test_a_rig_is_as_good_as_the_verdict_it_got(
    healthy: tuple[TrainConfig, Data], tmp_path: Path, verdict: str, status: str
) -> None:
    def note(rig: dict[str, Any]) -> None:
        rig["verified"] = {"when": "2026-01-01", "verdict": verdict, "data_hash": "0"}

    found = gravest(diagnose(with_rig(healthy[0], tmp_path, note), parts=["data"]), "rig-verified")
    assert found.status == status and found.measured.endswith(f": {verdict}")
    assert ("tactile-align verify" in found.advice) == (status == "warn")
