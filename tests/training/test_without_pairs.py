"""A loss is a mean over pairs: where there are none, it is missing and named, never 0."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.diagnose import diagnose
from tactile_align.errors import InputError
from tactile_align.moments.dataset import Moments
from tactile_align.training.data import Data, load_data, part_checks
from tactile_align.training.loop import build_model, make_trainer, train
from tactile_align.training.validation import errors_of, held_out_sampler, validate
from tactile_align.training.watch import Watch

Maker = Callable[..., TrainConfig]
KEY = "left_wrist-tactile1"
CPU = torch.device("cpu")
VIEWS = [{"camera": "left_wrist", "sensor": "tactile1"}, {"camera": "left_wrist", "sensor": "tactile1", "name": "near"}]


def without(moments: Moments, key: str, box: np.ndarray | bool = True, contact: np.ndarray | bool = True) -> Moments:
    """Return moments that keep only the boxes of a view and the contacts where `box` and `contact` are True."""
    other = copy.copy(moments)
    view, touch = moments.views[key], moments.touches["tactile1"]
    gone = touch.contact & contact
    index = np.where(gone, touch.contact_index, -1)
    other.views = {**moments.views, key: replace(view, visible=view.visible & box)}
    other.touches = {"tactile1": replace(touch, contact=gone, contact_index=index)}
    return other


def reasons(data: Data, config: TrainConfig) -> dict[str, tuple[str, str]]:
    return {check.id: (check.status, check.measured) for check in part_checks(data, config)}


def first_contact(moments: Moments) -> np.ndarray:
    return moments.touches["tactile1"].contact_index == 0


def test_a_run_without_one_pair_stops_before_it_makes_a_folder(small_config: Maker) -> None:
    config = small_config(contact_share="natural")
    data = load_data(config, progress=False)
    blind, idle = (replace(data, train=without(data.train, KEY, **{lack: False})) for lack in ("box", "contact"))
    contacts = int(data.train.touches["tactile1"].contact.sum())
    for lacks, text in ((blind, f"0 moments with a box, {contacts} in contact"), (idle, "0 in contact and none with")):
        with pytest.raises(InputError, match=rf"training episodes.*view {KEY}: .*{text}.*episode_init.*overlay"):
            train(config, data=lacks, progress=False)
    assert not Path(config.out).exists()
    found = diagnose(config, data=blind, parts=["data"])
    assert found.check("pairs/train").status == "fail" and found.check("pairs/held_out").status == "pass"


def test_held_out_episodes_without_contact_stop_the_run_and_fail_the_doctor(small_config: Maker) -> None:
    config = small_config()
    data = load_data(config, progress=False)
    idle = replace(data, held_out=without(data.held_out, KEY, contact=False))
    with pytest.raises(InputError, match=r"held-out episodes.*0 in contact.*episode_init.*split_seed"):
        train(config, data=idle, progress=False)
    assert diagnose(config, data=idle, parts=["data"]).check("pairs/held_out").status == "fail"
    off = config.model_copy(update={"contact_share": "natural", "hsa": config.hsa.model_copy(update={"weight": 0.0})})
    assert {status for status, _ in reasons(idle, off).values()} == {"pass"}


def test_held_out_moments_of_one_contact_are_warned_of_and_refused_where_the_loss_selects(small_config: Maker) -> None:
    config = small_config(hsa={"learn_temperature": False})
    data = load_data(config, progress=False)
    single = replace(data, held_out=without(data.held_out, KEY, contact=first_contact(data.held_out)))
    status, text = reasons(single, config)["pairs/held_out"]
    assert status == "warn" and "none of which is a negative of another" in text
    assert reasons(single, config.model_copy(update={"select_by": "hsa"}))["pairs/held_out"][0] == "fail"
    pulled = config.model_copy(update={"hsa": config.hsa.model_copy(update={"kind": "mse"})})
    assert "negative" not in reasons(single, pulled)["pairs/held_out"][1], "this loss needs no negatives"
    row = replace(data, held_out=without(data.held_out, KEY, contact=np.arange(len(data.held_out)) == -1))
    assert reasons(row, config)["pairs/held_out"][0] == "fail"


def test_fewer_than_eight_held_out_contacts_are_warned_of_with_the_number_of_episodes_to_hold_out(
    small_config: Maker,
) -> None:
    config = small_config(hsa={"learn_temperature": False})
    data = load_data(config, progress=False)
    assert reasons(data, config)["pairs/held_out"] == ("pass", "as needed"), "about 15 contacts"
    index = data.held_out.touches["tactile1"].contact_index
    for kept, status in ((8, "pass"), (7, "warn")):
        some = replace(data, held_out=without(data.held_out, KEY, contact=index < kept))
        (found,) = (check for check in part_checks(some, config) if check.id == "pairs/held_out")
        assert found.status == status, kept
    assert f"view {KEY}: 7 contacts, fewer than 8" in found.measured and "held_out = 2" in found.advice
    train = without(data.train, KEY, contact=first_contact(data.train))
    few = replace(some, train=train, test=None)
    (found,) = (check for check in part_checks(few, config) if check.id == "pairs/held_out")
    assert "record more episodes" in found.advice, "10 contacts in 4 episodes: 3.2 episodes hold 8, which leaves none"


def test_a_stated_share_of_moments_that_held_out_episodes_lack_is_named_before_the_first_step(
    small_config: Maker,
) -> None:
    config = small_config(hsa={"require_contact": False})
    data = load_data(config, progress=False)
    idle = replace(data, held_out=without(data.held_out, KEY, contact=False))
    assert reasons(idle, config)["pairs/held_out"][0] == "fail"
    assert "no moment in contact, but contact_share = 0.75" in reasons(idle, config)["pairs/held_out"][1]


def test_a_view_without_a_box_is_warned_of_and_has_no_loss_in_training_and_validation(
    small_config: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(views=VIEWS, steps=1, validate_every=1)
    data = load_data(config, progress=False)
    data = replace(data, train=without(data.train, "near", box=False), held_out=without(data.held_out, "near", False))
    assert {status for status, _ in reasons(data, config).values()} == {"warn"}
    trainer = make_trainer(config, data)
    parts = trainer.reduced(trainer.step(data.train.batch(np.flatnonzero(data.contact)[:60:5]), 0))
    means = validate(trainer.model, data.held_out, config, CPU)
    for found in (parts, means):
        assert found["pairs/near"] == 0 and found[f"pairs/{KEY}"] > 0
        assert found["hsa"] == pytest.approx(found[f"hsa/{KEY}"]) and found["hsa"] > 0
        assert not {f"{name}/near" for name in ("hsa", "chance", "r1", "negatives")} & set(found)
    with caplog.at_level(logging.WARNING, logger="tactile_align"):
        train(config, data=data, progress=False)
    assert "training episodes" in caplog.text and "view near: 0 moments with a box" in caplog.text
    assert "no-pairs/held_out/near" in caplog.text


def test_a_validation_batch_without_pairs_does_not_lower_the_mean(small_config: Maker) -> None:
    config = small_config(batch_size=40, contact_share="natural", hsa={"learn_temperature": False})
    data = load_data(config, progress=False)
    model, moments = build_model(config, data.train), data.held_out
    whole = [validate(model, moments, config.model_copy(update={"validation_batches": n}), CPU) for n in (1, 2)]
    second = [*held_out_sampler(moments, config)][1]
    gone = ~np.isin(np.arange(len(moments)), second)
    means = validate(model, without(moments, KEY, box=gone), config, CPU)
    assert whole[0]["hsa"] != whole[1]["hsa"] and means["hsa"] == pytest.approx(whole[0]["hsa"], rel=1e-5)
    nothing = validate(model, without(moments, KEY, box=False), config, CPU)
    assert "hsa" not in nothing and nothing["pairs/" + KEY] == 0
    assert "hsa" not in errors_of(nothing, config.model_copy(update={"select_by": "hsa"}), 1)


def test_the_watch_names_a_view_that_has_no_pairs(small_config: Maker) -> None:
    watch = Watch(small_config(steps=1000))
    record = {"data_s": 0.0, "step_s": 1.0, "pairs/v": 0.0, "no_box/v": 12.0, "no_negative/v": 0.0}
    found = [check for step in range(20) for check in watch.train(step, record)]
    assert [(check.id, check.status) for check in found] == [("no-pairs/train/v", "warn")]
    assert "120 moments without a box" in found[0].measured and "overlay" in found[0].advice
    assert [check.id for check in watch.validation({"loss": 1.0, "pairs/v": 0.0})] == ["no-pairs/held_out/v"]
    assert watch.validation({"loss": 1.0, "pairs/w": 0.25}) == []
