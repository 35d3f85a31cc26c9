"""Other regions of the same moment as negatives: which they are, where they count, and what the log says of them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tactile_align.config.features import EncoderConfig, FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.config.train import TrainConfig
from tactile_align.features.pooling import POOLINGS
from tactile_align.features.towers import shifted_boxes
from tactile_align.losses.hsa import Keys, LossOptions, hsa_loss
from tactile_align.losses.negatives import Facts, Negatives
from tactile_align.moments.batch import MomentBatch, TouchBatch, ViewBatch
from tactile_align.policies.alignment import Alignment, View, first_hits
from tests.features.making import noise

WIDTH, HEIGHT, B = 64, 48, 5
WRIST, TOP = View("left_wrist-t1", "left_wrist", "t1", 1.0), View("top-t1", "top", "t1", 0.5)
RIGHT = View("right_wrist-t2", "right_wrist", "t2", 1.0)
SIZE = (WIDTH, HEIGHT)


def model_of(views: tuple[View, ...], **hsa: Any) -> Alignment:
    torch.manual_seed(0)
    tower = EncoderConfig(model="ViT-demo", pretrained="scratch", image_size=SIZE)
    features = FeatureConfig(vision=tower, dim=16, **hsa.pop("features", {}))
    config = HSAConfig(**{"min_gap": 0, **hsa})
    return Alignment(features, config, views).eval()


def batch_of(views: tuple[View, ...]) -> MomentBatch:
    generator = torch.Generator().manual_seed(1)
    seen: dict[str, ViewBatch] = {}
    touches: dict[str, TouchBatch] = {}
    for i, view in enumerate(views):
        corner = torch.rand(B, 2, generator=generator) * torch.tensor([30.0, 16.0])
        box = torch.cat([corner, corner + torch.tensor([14.0, 12.0])], dim=1)
        other = box + torch.tensor([16.0, 2.0, 16.0, 2.0])
        seen[view.key] = ViewBatch(noise(B, WIDTH, HEIGHT, 10 + i), box, torch.arange(B) != i + 1, other_box=other)
        contact, index = torch.ones(B, dtype=torch.bool), torch.zeros(B, dtype=torch.int64)
        image = noise(B, WIDTH, HEIGHT, 20 + i)
        touches[view.sensor] = TouchBatch(image=image, contact=contact, contact_index=index)
    none = {"qpos": torch.zeros(B, 7), "qpos_raw": torch.zeros(B, 7), "action": torch.zeros(B, 6, 7)}
    rows = {"is_pad": torch.zeros(B, 6, dtype=torch.bool), "episode": torch.arange(B), "time": torch.zeros(B).long()}
    return MomentBatch(views=seen, touches=touches, **none, **rows)


def test_hits_are_counted_in_float32_under_autocast() -> None:
    # Own region and negative differ by 0.1 %, which bfloat16 rounds away.
    touch = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    region = torch.tensor([[1.0, 0.0], [1.0, 0.04]])
    everyone = torch.ones(2, dtype=torch.bool)
    negatives = Negatives(torch.arange(2), torch.zeros(2).long(), min_gap=0)
    for precise in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precise):
            hits, _ = first_hits(touch, region, negatives, everyone)
        assert hits == 2


def test_the_other_finger_counts_where_it_is_a_region_of_its_own() -> None:
    model, batch = model_of((WRIST,), finger_negative=True), batch_of((WRIST,))
    box = torch.tensor([[20.0, 10.0, 34.0, 22.0]]).repeat(B, 1)
    visible = torch.tensor([True, True, True, True, False])
    other = torch.tensor(
        [
            [40.0, 10.0, 54.0, 22.0],  # beside it
            [24.0, 12.0, 38.0, 24.0],  # behind it
            [57.0, 10.0, 71.0, 22.0],  # its centre right of the image
            [float("nan")] * 4,  # out of the camera's sight
            [40.0, 10.0, 54.0, 22.0],  # beside it, but the sensor itself is not seen
        ]
    )
    view = replace(batch.views[WRIST.key], box=box, visible=visible, other_box=other)
    batch = replace(batch, views={WRIST.key: view})
    assert model.finger_in_sight(batch, WRIST).tolist() == [True, False, False, False, False]


def test_the_loss_with_the_other_finger_is_that_of_its_box_as_an_explicit_negative() -> None:
    model, batch = model_of((WRIST,), finger_negative=True, region_negatives=2), batch_of((WRIST,))
    key = WRIST.key
    view = batch.views[key]
    view.other_box[3] = torch.nan
    with torch.no_grad():
        seen = model.see(batch)
        loss, log = model(batch, seen)
        box = model.finite_box(batch, WRIST)
        places = [*shifted_boxes(box, 2, SIZE)[0].unbind(1), view.other_box.nan_to_num(5.0)]
        hard = torch.stack([model.towers.of_region(view.image, p).vector for p in places], dim=1)
        exist = torch.ones(B, 3, dtype=torch.bool)
        exist[3, 2] = exist[1, 2] = False
        valid = view.visible
        want = hsa_loss(
            seen.touches["t1"].vector,
            seen.regions[key].vector,
            hard,
            Negatives(batch.episode, batch.time, 0),
            explicit="add",
            valid=valid,
            hard_valid=exist,
        )
    torch.testing.assert_close(loss, want)
    assert float(log[f"negatives_from/beside/{key}"]) == 2.0
    assert float(log[f"negatives_from/finger/{key}"]) == pytest.approx(3 / 4)  # row 3 of the four valid ones has none
    assert float(log[f"negatives/{key}"]) == pytest.approx(3 + 2 + 3 / 4)


def test_another_camera_gives_its_own_sensors_box_or_what_lies_beside_the_same_one() -> None:
    views = (WRIST, TOP, RIGHT)
    model, batch = model_of(views, camera_negative=True), batch_of(views)
    with torch.no_grad():
        seen = model.see(batch)
        found = model.region_negatives(batch, seen)
        wrist = found[WRIST.key]
        box = model.finite_box(batch, TOP)
        places, _ = shifted_boxes(box, 1, model.towers.vision.input_size)
        beside = model.towers.of_boxes(batch.views[TOP.key].image, places)
    assert wrist.kinds == ("camera", "camera")
    torch.testing.assert_close(wrist.features[:, 0], beside[:, 0])
    torch.testing.assert_close(wrist.features[:, 1], seen.regions[RIGHT.key].vector)
    assert torch.equal(wrist.exist[:, 0], batch.views[TOP.key].visible)
    assert torch.equal(wrist.exist[:, 1], batch.views[RIGHT.key].visible)
    pair_there = seen.regions[TOP.key].vector
    assert not any(torch.allclose(wrist.features[:, k], pair_there) for k in range(2)), "the pair is no negative"
    torch.testing.assert_close(found[RIGHT.key].features[:, 1], pair_there)  # to another sensor's touch it is one
    _, log = model(batch, seen)
    valid = batch.views[WRIST.key].visible
    assert float(log[f"negatives_from/camera/{WRIST.key}"]) == pytest.approx(
        float(wrist.exist[valid].sum() / valid.sum())
    )


def test_shifted_boxes_alone_are_seen_as_before_and_without_any_there_is_nothing() -> None:
    model, batch = model_of((WRIST,), region_negatives=3), batch_of((WRIST,))
    with torch.no_grad():
        seen = model.see(batch)
        found = model.region_negatives(batch, seen)[WRIST.key]
        box = model.finite_box(batch, WRIST)
        places, exist = shifted_boxes(box, 3, model.towers.vision.input_size)
        features = model.towers.of_boxes(batch.views[WRIST.key].image, places)
        assert torch.equal(found.features, features) and torch.equal(found.exist, exist)
        assert found.kinds == ("beside",) * 3
        assert model_of((WRIST,)).region_negatives(batch, seen) == {}


def test_negatives_in_the_bank_are_counted_and_hits_do_not_hang_on_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    from tactile_align.policies import alignment

    model, batch = model_of((WRIST,), bank=4, symmetric=True), batch_of((WRIST,))
    model.train()
    assert model.memory is not None
    bank = model.memory.bank(0)
    past = Facts(torch.tensor([0, 2, 7]), torch.tensor([0, 90, 0]), contact_index=torch.tensor([0, 4, 0]))
    bank.add(*torch.randn(2, 3, 16), past, torch.ones(3, dtype=torch.bool))
    model.hsa = model.hsa.model_copy(update={"min_gap": 5})
    with torch.no_grad():
        seen = model.see(batch)
        _, log = model(batch, seen)
        monkeypatch.setattr(alignment, "spans", lambda rows, columns, chunk: [(0, 2), (2, 3), (3, rows)])
        _, again = model(batch, seen)
    # Row 0 (episode 0, time 0) is too close to the first; row 1 has no box; 4 valid rows, 3 in the bank.
    assert float(log[f"negatives_from/bank/{WRIST.key}"]) == pytest.approx((4 * 3 - 1) / 4)
    for name in (f"r1/{WRIST.key}", f"negatives_from/bank/{WRIST.key}"):
        assert torch.equal(log[name], again[name])


def test_with_a_memory_all_candidates_come_from_its_copy_and_both_towers_learn() -> None:
    negatives = {"region_negatives": 2, "finger_negative": True}
    towers = {"touch": EncoderConfig(model="ViT-demo", pretrained="scratch", image_size=SIZE)}
    model = model_of((WRIST,), bank=8, symmetric=True, features=towers, **negatives).train()
    assert model.memory is not None
    with torch.no_grad():
        for p in model.memory.towers.parameters():
            p += 0.05 * torch.randn_like(p)
    batch, before = batch_of((WRIST,)), batch_of((WRIST,)).with_images({WRIST.key: noise(B, *SIZE, 90)})
    before = replace(before, episode=before.episode + 10)
    copied = model.copied(before)
    assert copied is not None
    model.remember([(before, copied)])  # four rows have a box
    loss, log = model(batch, model.see(batch))
    loss.backward()
    for tower in (model.towers.vision, model.towers.touch):
        assert sum(float(p.grad.abs().sum()) for p in tower.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in model.memory.parameters())
    key = WRIST.key
    copy = model_of((WRIST,), features=towers, **negatives)
    copy.towers.load_state_dict(model.memory.towers.state_dict())
    with torch.no_grad():
        seen, there, earlier = model.see(batch), copy.see(batch), copied.features
        others, valid = copy.region_negatives(batch, there)[key], batch.views[key].visible
        past = earlier.touches["t1"].vector[valid], earlier.regions[key].vector[valid]
        want, stats = hsa_loss(
            seen.touches["t1"].vector,
            seen.regions[key].vector,
            others.features,
            keys=Keys(there.touches["t1"].vector, there.regions[key].vector, *past),
            options=LossOptions(symmetric=True),
            explicit="add",
            valid=valid,
            hard_valid=others.exist,
            stats=True,
        )
    torch.testing.assert_close(loss.detach(), want)
    assert float(log[f"bank_share/{key}"]) == pytest.approx(float(stats.bank_share)) and stats.bank_share > 0.1


def test_what_is_remembered_is_what_the_loss_compared_before_the_copy_moves() -> None:
    model, batch = model_of((WRIST,), bank=8, symmetric=True, bank_momentum=0.0).train(), batch_of((WRIST,))
    assert model.memory is not None
    copied = model.copied(batch)
    assert copied is not None
    with torch.no_grad():
        for p in model.towers.parameters():
            p += 1
    model.remember([(batch, copied)])
    valid = batch.views[WRIST.key].visible
    pair = copied.features.touches["t1"].vector[valid], copied.features.regions[WRIST.key].vector[valid]
    assert all(torch.equal(kept, h) for kept, h in zip(model.memory.bank(0).kept(), pair, strict=True))
    for own, new in zip(model.memory.towers.parameters(), model.towers.parameters(), strict=True):
        assert torch.equal(own, new)


def test_a_row_whose_only_negatives_are_regions_counts_as_nothing_in_a_symmetric_loss() -> None:
    model, batch = model_of((WRIST,), symmetric=True, region_negatives=2), batch_of((WRIST,))
    batch = replace(batch, episode=torch.tensor([0, 1, 2, 3, 3]))  # rows 3 and 4: one contact
    batch.views[WRIST.key].visible[[0, 2]] = False
    loss, log = model(batch, model.see(batch))
    assert float(loss.detach()) == 0 and int(log[f"no_negative/{WRIST.key}"]) == 2


def test_moments_of_one_contact_are_negatives_only_where_the_config_asks_for_it() -> None:
    batch = batch_of((WRIST,))
    batch = replace(batch, episode=torch.zeros_like(batch.episode), time=torch.arange(B) * 50)
    batch.touches["t1"].contact_index[:] = torch.tensor([0, 1, 1, 2, 2])
    key, counts = WRIST.key, []
    for exclude in (True, False):
        model = model_of((WRIST,), exclude_same_contact=exclude, min_gap=20)
        _, log = model(batch, model.see(batch))
        counts.append(float(log[f"negatives/{key}"]))
        assert (f"excluded/same_contact/{key}" in log) == exclude
    assert counts == [pytest.approx((3 + 3 + 2 + 2) / 4), 3.0]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_moment_without_a_box_gives_and_receives_nothing_whatever_the_pooling(pooling: str) -> None:
    key, found = WRIST.key, []
    for other in (0, 255):  # what its image shows does not matter
        model, batch = model_of((WRIST,), region_negatives=2, features={"pooling": pooling}), batch_of((WRIST,))
        view = batch.views[key]
        assert not view.visible[1] and view.visible.sum() == B - 1
        view.image[1] = other
        view.box[1] = torch.nan
        loss, log = model(batch, model.see(batch))
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert bool(torch.isfinite(loss)) and all(bool(torch.isfinite(g).all()) for g in gradients)
        found.append((loss.detach(), torch.cat([g.flatten() for g in gradients]), log[f"negatives_from/beside/{key}"]))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)
    assert float(found[0][2]) == 2.0


def test_a_pair_without_any_negative_counts_with_a_loss_of_nothing() -> None:
    model, batch = model_of((WRIST,)), batch_of((WRIST,))
    model.hsa = model.hsa.model_copy(update={"min_gap": 5})
    # Row 1 has no box; rows 2 and 4 are too near to 0 and to 3, which are far enough from each other.
    batch = replace(batch, episode=torch.zeros(B, dtype=torch.int64), time=torch.tensor([0, 99, 3, 6, 3]))
    batch.touches["t1"].contact_index[:] = torch.arange(B)
    key, two = WRIST.key, torch.tensor([0, 3])
    seen = model.see(batch)
    loss, log = model(batch, seen)
    touches, regions = seen.touches["t1"].vector[two], seen.regions[key].vector[two]
    torch.testing.assert_close(loss, hsa_loss(touches, regions, temperature=model.temperature()))
    assert int(log[f"no_negative/{key}"]) == 2 and int(log[f"pairs/{key}"]) == 2
    counts = model.counts(batch)
    part, _ = model(batch, seen, counts)
    torch.testing.assert_close(part, loss / 2)  # the mean over four pairs, two of them 0
    batch.time[:] = 0
    nothing, log = model(batch, model.see(batch))
    assert float(nothing.detach()) == 0 and int(log[f"no_negative/{key}"]) == 4


def test_at_a_border_only_the_regions_that_are_there_are_negatives() -> None:
    model, batch = model_of((WRIST,), region_negatives=4), batch_of((WRIST,))
    batch.views[WRIST.key].box[:] = torch.tensor([44.0, 28.0, 63.5, 47.5])  # in the corner: left, up, and both
    _, log = model(batch, model.see(batch))
    assert float(log[f"negatives_from/beside/{WRIST.key}"]) == 3.0
    assert float(log[f"negatives/{WRIST.key}"]) == 3 + 3


def test_each_view_counts_the_touches_that_feel_the_same_to_its_own_sensor() -> None:
    model, batch = model_of((WRIST, RIGHT), touch_ceiling=0.98), batch_of((WRIST, RIGHT))
    batch.touches["t1"].image[3] = batch.touches["t1"].image[2]
    _, log = model(batch, model.see(batch))
    assert int(log[f"excluded/same_touch/{WRIST.key}"]) == 2 and int(log[f"excluded/same_touch/{RIGHT.key}"]) == 0


def test_a_touch_that_lies_in_the_memory_feels_the_same_as_itself() -> None:
    model, batch = model_of((WRIST,), touch_ceiling=0.98, bank=8, symmetric=True), batch_of((WRIST,))
    model.train()
    assert model.memory is not None
    copied = model.copied(batch)
    assert copied is not None
    model.remember([(batch, copied)])  # four rows have a box
    touches = noise(B, WIDTH, HEIGHT, 77)
    touches[0] = batch.touches["t1"].image[0]
    later = replace(batch.with_images({"t1": touches}), episode=batch.episode + 10)
    _, log = model(later, model.see(later))
    assert int(log[f"excluded/same_touch/{WRIST.key}"]) == 1
    assert float(log[f"negatives_from/bank/{WRIST.key}"]) == pytest.approx((4 * 4 - 1) / 4)


def test_a_negative_from_another_camera_needs_one() -> None:
    entries = {"data": [{"path": "x", "rig": "cell"}], "hsa": {"camera_negative": True}}
    one = {"camera": "left_wrist", "sensor": "tactile1"}
    with pytest.raises(ValueError, match=r"at least two cameras; got left_wrist"):
        TrainConfig.model_validate({**entries, "views": [one, {**one, "sensor": "tactile2"}]})
    TrainConfig.model_validate({**entries, "views": [one, {**one, "camera": "top"}]})
