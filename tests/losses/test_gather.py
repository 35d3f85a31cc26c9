"""One process and several give the same loss and the same gradients."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from tactile_align.losses.hsa import Keys, LossOptions, hsa_loss
from tactile_align.losses.mse import MSELoss
from tactile_align.losses.negatives import Facts, Negatives, permuted_rows
from tactile_align.losses.temperature import Temperature
from tests.processes import METHOD

BATCH, SIZE, PAST = 64, 12, 20
IN_LOSS_OPTIONS = ("symmetric", "hardness", "hardest", "chunk")
Options = dict[str, object]
AGREEING: dict[int, list[Options]] = {
    2: [
        {},
        {"empty_rank": True, "symmetric": True, "hard": True},
        {"symmetric": True, "hardness": 0.5, "chunk": 5},
        {"nobody": True},
        {"bank": True, "learnt": True, "symmetric": True},
        {"bank": True, "learnt": True, "symmetric": True, "hard": True, "hardness": 0.5, "hardest": 9, "chunk": 7},
        {"permuted": True, "symmetric": True, "bank": True},
        {"mse": True},
        {"mse": True, "empty_rank": True},
        {"mse": True, "nobody": True},
    ],
    4: [
        {"symmetric": True, "hard": True},
        {"empty_rank": True, "chunk": 4},
        {"empty_rank": True, "symmetric": True, "bank": True, "learnt": True},
        {"mse": True, "empty_rank": True},
    ],
}
ALONE: Options = {"alone": True}
UNEVEN: Options = {"uneven": True}


def moments() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "touch": torch.randn(BATCH, SIZE, generator=generator),
        "sight": torch.randn(BATCH, SIZE, generator=generator),
        "hard": torch.randn(BATCH, 3, 8, generator=generator),
        "episode": torch.randint(0, 6, (BATCH,), generator=generator),
        "time": torch.randint(0, 40, (BATCH,), generator=generator),
        "valid": torch.rand(BATCH, generator=generator) < 0.8,
        "keys": torch.randn(BATCH, 2, 8, generator=generator),
        "contact": torch.randint(-1, 3, (BATCH,), generator=generator),
        "order": torch.rand(BATCH, generator=generator),
    }


def past() -> tuple[Tensor, Facts]:
    """Past touches and regions (2, PAST, 8) and their facts, the same on every rank."""
    generator = torch.Generator().manual_seed(2)
    episode, time, contact = (torch.randint(0, below, (PAST,), generator=generator) for below in (6, 40, 3))
    touch = torch.randn(PAST, SIZE, generator=generator)
    features = torch.randn(2, PAST, 8, generator=generator)
    return features, Facts(episode, time, touch=touch, contact_index=contact)


def towers() -> nn.ModuleDict:
    torch.manual_seed(1)
    return nn.ModuleDict({name: nn.Linear(SIZE, 8) for name in ("touch", "sight")})


def loss_and_gradients(rows: dict[str, Tensor], options: Options, gather: bool) -> tuple[Tensor, Tensor, Tensor]:
    model = towers()
    tau, w = model["touch"](rows["touch"]), model["sight"](rows["sight"])
    if options.get("mse"):
        loss, stats = MSELoss(gather)(tau, w, valid=rows["valid"], stats=True)
    else:
        if options.get("learnt"):
            model["kappa"] = Temperature(0.1, learnt=True)
        keys, facts = None, None
        if options.get("bank"):
            features, facts = past()
            keys = Keys(*rows["keys"].unbind(1), *features)
        every = {"touch": rows["touch"], "ceiling": 0.5, "bank": facts, "contact_index": rows["contact"]}
        valid = rows["valid"]
        if options.get("permuted"):
            halves = range(0, len(tau), BATCH // 2)  # each of two ranks moves its own touches
            moved = torch.cat(
                [h + permuted_rows(*(rows[n][h : h + BATCH // 2] for n in ("order", "valid"))) for h in halves]
            )
            tau, every["touch_row"] = tau[moved], moved
            keys = None if keys is None else keys._replace(touches=keys.touches[moved])
        rule = Negatives(rows["episode"], rows["time"], 5, **every)
        valid = valid & rule.unrelated() if options.get("permuted") else valid
        loss, stats = hsa_loss(
            tau,
            w,
            rows["hard"] if options.get("hard") else None,
            rule,
            temperature=model["kappa"]() if options.get("learnt") else 0.07,
            valid=valid,
            explicit="add",
            options=LossOptions(**{name: options[name] for name in IN_LOSS_OPTIONS if name in options}),  # type: ignore[arg-type]
            stats=True,
            keys=keys,
            gather=gather,
        )
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return loss.detach(), gradient, torch.stack(list(stats))


def one_rank(rank: int, ranks: int, folder: str, every: list[Options]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    try:
        for number, options in enumerate(every):
            rows = masked(moments(), options)
            share = BATCH // ranks
            mine = {name: value[rank * share : (rank + 1) * share] for name, value in rows.items()}
            if options.get("uneven") and rank == 0:
                mine = {name: value[1:] for name, value in mine.items()}
            try:
                loss, gradient, stats = loss_and_gradients(mine, options, gather=True)
            except ValueError as error:
                (Path(folder) / f"error_{number}_{rank}").write_text(str(error), encoding="utf-8")
                continue
            dist.all_reduce(gradient)  # as DistributedDataParallel does
            found = {"loss": loss, "gradient": gradient / ranks, "stats": stats}
            torch.save(found, Path(folder) / f"rank_{number}_{rank}.pt")
    finally:
        dist.destroy_process_group()


def masked(rows: dict[str, Tensor], options: Options) -> dict[str, Tensor]:
    valid = rows["valid"].clone()
    if options.get("empty_rank"):
        valid[:32] = False
    if options.get("nobody"):
        valid[:] = False
    if options.get("alone"):
        valid[:] = False
        valid[3] = True
    return {**rows, "valid": valid}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Options], tuple[Path, int]]:
    """Return what finds the folder and the number of options on some ranks; the ranks start once for all options, as
    starting them takes far longer than the losses."""

    @cache
    def folder(ranks: int) -> Path:
        where = tmp_path_factory.mktemp(f"ranks_{ranks}")
        mp.start_processes(one_rank, (ranks, str(where), all_options(ranks)), ranks, start_method=METHOD)
        return where

    return lambda ranks, options: (folder(ranks), all_options(ranks).index(options))


def all_options(ranks: int) -> list[Options]:
    return AGREEING[ranks] + ([ALONE, UNEVEN] if ranks == 2 else [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "options"), [(ranks, options) for ranks, every in AGREEING.items() for options in every], ids=json.dumps
)
def test_several_processes_agree_with_one(
    ranks: int, options: Options, together: Callable[[int, Options], tuple[Path, int]]
) -> None:
    loss, gradient, stats = loss_and_gradients(masked(moments(), options), options, gather=False)
    folder, number = together(ranks, options)
    for rank in range(ranks):
        found = torch.load(folder / f"rank_{number}_{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["loss"], loss, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found["stats"], stats, atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(found["gradient"], gradient, atol=1e-6, rtol=1e-6)
    assert bool((gradient == 0).all()) == bool(options.get("nobody"))


@pytest.mark.slow
def test_a_row_without_negatives_on_one_rank_stops_every_rank(
    together: Callable[[int, Options], tuple[Path, int]],
) -> None:
    folder, number = together(2, ALONE)
    assert "pairs [3]" in (folder / f"error_{number}_0").read_text(encoding="utf-8")
    assert "another rank" in (folder / f"error_{number}_1").read_text(encoding="utf-8")


@pytest.mark.slow
def test_batches_of_different_length_are_refused_on_every_rank(
    together: Callable[[int, Options], tuple[Path, int]],
) -> None:
    folder, number = together(2, UNEVEN)
    for rank in range(2):
        assert "[31, 32]" in (folder / f"error_{number}_{rank}").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [{}, {"mse": True}], ids=json.dumps)
def test_without_other_processes_gathering_changes_nothing(options: Options) -> None:
    plain = loss_and_gradients(moments(), options, gather=False)
    for a, b in zip(plain, loss_and_gradients(moments(), options, gather=True), strict=True):
        assert torch.equal(a, b)
