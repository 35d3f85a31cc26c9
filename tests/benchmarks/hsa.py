"""Time and memory of the HSA loss, forward and backward: `python -m tests.benchmarks.hsa [B ...]`; exit 1 when a bar
is missed.

Time gap, contact and same-touch rules are on, a tenth of the rows is not valid. Memory is the process's peak above
what it held once the inputs were made; seconds are those of one thread of the processor, so other work does not count.
Each figure comes from a process of its own, as a peak never goes down.
"""

import json
import subprocess
import sys
import time

import torch

from tactile_align.losses.hsa import LossOptions, hsa_loss
from tactile_align.losses.negatives import Negatives

DIM, TOUCH = 512, 192
MOST_MIB = 1024
"""Of the form the loss chooses, above the inputs, up to a batch of 32,768."""
SLOWEST = 1.3
"""Times the seconds of the plain form, where that fits into memory."""


def peak_mib() -> float:
    """Return the peak resident memory of this process so far, MiB."""
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="utf-8") as status:  # noqa: PTH123
            line = next(line for line in status if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measure(batch: int, chunk: int | None, runs: int) -> dict[str, float]:
    """Return processor seconds of the fastest run and MiB above the inputs; `chunk` None lets the loss choose."""
    torch.set_num_threads(1)  # a thread that waits for another is no cost of the loss, but counts as seconds
    torch.manual_seed(0)
    h_tau, h_w = (torch.randn(batch, DIM, requires_grad=True) for _ in range(2))
    touch = torch.randn(batch, TOUCH)
    episode, when = torch.randint(0, batch // 100 + 1, (batch,)), torch.randint(0, 500, (batch,))
    contact, valid = torch.rand(batch) < 0.95, torch.rand(batch) < 0.9
    # A small call first: threads, libraries and allocator pools are no cost of the batch.
    hsa_loss(h_tau[:128], h_w[:128]).backward()  # type: ignore[union-attr]
    h_tau.grad = h_w.grad = None
    before, seconds = peak_mib(), []
    for _ in range(runs):
        rule = Negatives(episode, when, 20, contact=contact, touch=touch, ceiling=0.9)
        start = time.process_time()
        loss = hsa_loss(h_tau, h_w, negative=rule, valid=valid & contact, options=LossOptions(chunk=chunk))
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        seconds.append(time.process_time() - start)
        h_tau.grad = h_w.grad = None
    return {"seconds": min(seconds), "mib": peak_mib() - before, "loss": float(loss.detach())}


def bars_missed(found: dict[str, dict[str, float]]) -> list[str]:
    """Return what is wrong with the figures of one batch size, by form: "plain" where it was run, "chosen"."""
    missed, chosen = [], found["chosen"]
    if chosen["mib"] > MOST_MIB:
        missed.append(f"{chosen['mib']:.0f} MiB, wanted at most {MOST_MIB}")
    if "plain" in found and chosen["seconds"] > SLOWEST * found["plain"]["seconds"]:
        missed.append(f"{chosen['seconds'] / found['plain']['seconds']:.2f} of plain, wanted at most {SLOWEST}")
    return missed


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        batch, chunk, runs = (int(word) for word in sys.argv[2:5])
        print(json.dumps(measure(batch, chunk or None, runs)))
        return 0
    missed = 0
    print(f"{'B':>7} {'form':8} {'seconds':>9} {'MiB above inputs':>17} {'loss':>9}   (D = {DIM})")
    for batch in [int(word) for word in sys.argv[1:]] or [512, 2048, 8192, 32768]:
        found: dict[str, dict[str, float]] = {}
        # The plain form at 32,768 would keep several matrices of 4 GiB.
        for name, chunk in (("plain", batch), ("chosen", 0)) if batch <= 8192 else (("chosen", 0),):
            command = [sys.executable, "-m", "tests.benchmarks.hsa", "--one", str(batch), str(chunk)]
            runs = 5 if batch <= 2048 else 2 if batch <= 8192 else 1
            one = json.loads(subprocess.run([*command, str(runs)], check=True, capture_output=True).stdout)
            print(f"{batch:7d} {name:8} {one['seconds']:9.3f} {one['mib']:17.0f} {one['loss']:9.5f}", flush=True)
            found[name] = one
        for what in bars_missed(found):
            print(f"{batch:7d} MISSED: {what}")
            missed += 1
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
