"""A batch of moments: its parts by name, some of its rows, and what is no batch."""

from dataclasses import replace

import pytest
import torch

from tactile_align.moments.batch import MomentBatch, ObservationBatch, TouchBatch, TouchImages, ViewBatch, required

B, H, W = 5, 6, 8


def images(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (B, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def batch() -> MomentBatch:
    box = torch.arange(4.0 * B).view(B, 4)
    view = ViewBatch(images(1), box, torch.arange(B) != 2, sigma=box[:, :2] + 1)
    touch = TouchBatch(image=images(2), contact=torch.arange(B) > 2, contact_index=torch.arange(B))
    return MomentBatch(
        qpos=torch.rand(B, 7),
        views={"top-t1": view},
        touches={"t1": touch},
        frames={"top": images(3)},
        qpos_raw=torch.rand(B, 7).double(),
        action=torch.rand(B, 4, 3),
        is_pad=torch.zeros(B, 4, dtype=torch.bool),
        episode=torch.arange(B) // 2,
        time=torch.arange(B) % 2,
    )


def test_some_rows_are_those_of_every_tensor_and_what_is_absent_stays_absent() -> None:
    whole = batch()
    for index, rows in ((slice(1, None, 2), [1, 3]), (torch.tensor([4, 0, 4]), [4, 0, 4])):
        part = whole.rows(index)
        assert isinstance(part, MomentBatch) and len(part) == len(rows)
        assert part.views["top-t1"].other_box is None and part.noise is None
        tensors = whole.tensors()
        assert set(part.tensors()) == set(tensors)
        assert all(torch.equal(value, tensors[name][rows]) for name, value in part.tensors().items())


def test_tensors_go_by_their_path_and_come_back_in_their_order() -> None:
    whole = batch()
    names = list(whole.tensors())
    assert names[0] == "qpos" and {"views/top-t1/box", "touches/t1/contact", "frames/top", "episode"} < set(names)
    assert not any(name.endswith(("other_box", "noise", "opening")) for name in names)
    values = iter(whole.tensors().values())
    again = whole.mapped(lambda _: next(values))
    assert all(a is b for a, b in zip(again.tensors().values(), whole.tensors().values(), strict=True))


def test_all_of_a_batch_goes_to_a_device() -> None:
    moved = batch().to("meta").tensors()
    assert set(moved) == set(batch().tensors()) and all(tensor.is_meta for tensor in moved.values())


def test_images_are_replaced_by_the_key_of_their_input() -> None:
    whole = batch()
    assert list(whole.images()) == ["top-t1", "t1", "camera-top"]
    for name, image in whole.images().items():
        changed = whole.with_images({name: 255 - image})
        for other, shown in changed.images().items():
            assert torch.equal(shown, 255 - image if other == name else whole.images()[other])
        assert torch.equal(changed.views["top-t1"].box, whole.views["top-t1"].box)


def test_parts_of_another_shape_or_length_are_no_batch() -> None:
    whole = batch()
    with pytest.raises(ValueError, match=r"ViewBatch.box must have shape \(_, 4\); got \(5, 2\)"):
        replace(whole.views["top-t1"], box=torch.zeros(B, 2))
    with pytest.raises(ValueError, match=r"TouchImages.image must have shape \(_, _, _, 3\); got \(5, 3, 6, 8\)"):
        TouchImages(image=images(0).permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match="frames/top has 4 rows, but qpos has 5"):
        ObservationBatch(qpos=torch.zeros(B, 7), frames={"top": images(0)[1:]})
    with pytest.raises(ValueError, match="the batch has no `opening/t1`"):
        required(whole.touches["t1"].opening, "opening/t1")
