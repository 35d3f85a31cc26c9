"""One process and several give the same loss and the same gradients."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from tactile_align.losses.block import Weighting
from tactile_align.losses.hsa import hsa_loss
from tactile_align.losses.rivals import Rivals

BATCH, SIZE = 64, 12


def moments() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "touch": torch.randn(BATCH, SIZE, generator=generator),
        "sight": torch.randn(BATCH, SIZE, generator=generator),
        "hard": torch.randn(BATCH, 3, 8, generator=generator),
        "episode": torch.randint(0, 6, (BATCH,), generator=generator),
        "time": torch.randint(0, 40, (BATCH,), generator=generator),
        "valid": torch.rand(BATCH, generator=generator) < 0.8,
    }


def towers() -> nn.ModuleDict:
    torch.manual_seed(1)
    return nn.ModuleDict({name: nn.Linear(SIZE, 8) for name in ("touch", "sight")})


def loss_and_gradients(
    rows: dict[str, Tensor], options: dict[str, object], gather: bool
) -> tuple[Tensor, Tensor, Tensor]:
    model = towers()
    rule = Rivals(rows["episode"], rows["time"], 5, touch=rows["touch"], ceiling=0.5)
    loss, stats = hsa_loss(
        model["touch"](rows["touch"]),
        model["sight"](rows["sight"]),
        rows["hard"] if options.get("hard") else None,
        rule,
        valid=rows["valid"],
        explicit="add",
        symmetric=bool(options.get("symmetric")),
        weighting=Weighting(float(options.get("hardness", 0))),  # type: ignore[arg-type]
        chunk=options.get("chunk"),  # type: ignore[arg-type]
        stats=True,
        gather=gather,
    )
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return loss.detach(), gradient, torch.stack(list(stats))


def one_rank(rank: int, ranks: int, folder: str, options: dict[str, object]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    try:
        rows = masked(moments(), options)
        share = BATCH // ranks
        mine = {name: value[rank * share : (rank + 1) * share] for name, value in rows.items()}
        if options.get("uneven") and rank == 0:
            mine = {name: value[1:] for name, value in mine.items()}
        try:
            loss, gradient, stats = loss_and_gradients(mine, options, gather=True)
        except ValueError as error:
            (Path(folder) / f"error_{rank}").write_text(str(error), encoding="utf-8")
            return
        dist.all_reduce(gradient)  # as DistributedDataParallel does
        torch.save({"loss": loss, "gradient": gradient / ranks, "stats": stats}, Path(folder) / f"rank_{rank}.pt")
    finally:
        dist.destroy_process_group()


def masked(rows: dict[str, Tensor], options: dict[str, object]) -> dict[str, Tensor]:
    valid = rows["valid"].clone()
    if options.get("empty_rank"):
        valid[:32] = False
    if options.get("nobody"):
        valid[:] = False
    if options.get("alone"):
        valid[:] = False
        valid[3] = True
    return {**rows, "valid": valid}


def on_ranks(ranks: int, folder: Path, options: dict[str, object]) -> None:
    mp.spawn(one_rank, args=(ranks, str(folder), options), nprocs=ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, {}),
        (2, {"empty_rank": True, "symmetric": True, "hard": True}),
        (2, {"symmetric": True, "hardness": 0.5, "chunk": 5}),
        (2, {"nobody": True}),
        (4, {"symmetric": True, "hard": True}),
        (4, {"empty_rank": True, "chunk": 4}),
    ],
    ids=json.dumps,
)
def test_several_processes_agree_with_one(ranks: int, options: dict[str, object], tmp_path: Path) -> None:
    loss, gradient, stats = loss_and_gradients(masked(moments(), options), options, gather=False)
    on_ranks(ranks, tmp_path, options)
    for rank in range(ranks):
        found = torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["loss"], loss, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found["stats"], stats, atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(found["gradient"], gradient, atol=1e-6, rtol=1e-5)
    assert bool((gradient == 0).all()) == bool(options.get("nobody"))


@pytest.mark.slow
def test_a_row_without_rivals_on_one_rank_stops_every_rank(tmp_path: Path) -> None:
    on_ranks(2, tmp_path, {"alone": True})
    assert "rows [3]" in (tmp_path / "error_0").read_text(encoding="utf-8")
    assert "another rank" in (tmp_path / "error_1").read_text(encoding="utf-8")


@pytest.mark.slow
def test_batches_of_different_length_are_refused_on_every_rank(tmp_path: Path) -> None:
    on_ranks(2, tmp_path, {"uneven": True})
    for rank in range(2):
        assert "[31, 32]" in (tmp_path / f"error_{rank}").read_text(encoding="utf-8")


def test_without_other_processes_gathering_changes_nothing() -> None:
    plain = loss_and_gradients(moments(), {}, gather=False)
    for a, b in zip(plain, loss_and_gradients(moments(), {}, gather=True), strict=True):
        assert torch.equal(a, b)
