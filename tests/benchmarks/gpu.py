"""Speed and memory of the parts that a GPU is for: `python -m tests.benchmarks.gpu`; `--dry` runs all at tiny sizes.

A training step of a ViT-B-16 (batch 64) in float32, TF32 and bfloat16; the loss, forward and backward, at a batch of
32,768; forward kinematics of a million poses, with its error against float64. Median seconds of five rounds. Needs no
data and no weights. `--dry` uses the CPU unless --device is given.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from tactile_align.features.encoder import load_encoder
from tactile_align.kinematics.arm import forward_kinematics, load_arm
from tactile_align.losses.hsa import hsa_loss
from tactile_align.training.step import matmul_precision

ROUNDS = 5
FULL = {"model": "ViT-B-16", "images": 64, "pairs": 32_768, "poses": 1_000_000}
TINY = {"model": "ViT-demo", "images": 2, "pairs": 256, "poses": 1_000}
# optimiser.tf32, whether the step runs under autocast
PRECISIONS = {"float32": (False, False), "TF32": (True, False), "bfloat16": (True, True)}


def seconds_and_mib(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Return the median seconds of a call, after one that is not timed, and the peak MiB on the GPU (nan on a CPU)."""
    gpu, spent = device.type == "cuda", []
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for turn in range(ROUNDS + 1):
        began = time.perf_counter()
        call()
        if gpu:
            torch.cuda.synchronize(device)
        if turn:
            spent.append(time.perf_counter() - began)
    return statistics.median(spent), torch.cuda.max_memory_allocated(device) / 2**20 if gpu else float("nan")


def tower_step(model: str, images: int, device: torch.device, bf16: bool) -> Callable[[], float]:
    """Return a training step of one tower: forward, backward, AdamW."""
    torch.manual_seed(0)
    encoder = load_encoder(model, pretrained="scratch").to(device).train()
    optimiser = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=1e-5)
    width, height = encoder.input_size
    batch = torch.randint(0, 256, (images, height, width, 3), dtype=torch.uint8, device=device)

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = encoder.tokens(batch).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def loss_step(pairs: int, device: torch.device) -> Callable[[], float]:
    """Return forward and backward of the symmetric loss on random features."""
    generator = torch.Generator().manual_seed(0)
    h_tau, h_w = (torch.randn(pairs, 512, generator=generator).to(device).requires_grad_() for _ in range(2))

    def step() -> float:
        h_tau.grad = h_w.grad = None
        loss = hsa_loss(h_tau, h_w)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        return float(loss.detach())

    return step


def main(words: Sequence[str]) -> int:
    """Print a table; return 1 where a value is not finite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--device")
    options = parser.parse_args(words)
    device, sizes = torch.device(options.device or ("cpu" if options.dry else "cuda")), TINY if options.dry else FULL
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    print(f"{name}, torch {torch.__version__}\n")
    print("| part | precision | seconds | MiB | result |\n|---|---|---:|---:|---|")
    finite = True
    for precision, (tf32, bf16) in PRECISIONS.items():
        with matmul_precision(tf32, device):
            step = tower_step(str(sizes["model"]), int(sizes["images"]), device, bf16)
            seconds, mib = seconds_and_mib(step, device)
            value = step()
            rate = f"{int(sizes['images']) / seconds:.1f} images/s, loss {value:.4f}"
            part = f"{sizes['model']} step, {sizes['images']} images"
            print(f"| {part} | {precision} | {seconds:.4f} | {mib:.0f} | {rate} |")
            del step
            finite &= value == value
            if bf16:  # the loss is never computed in bfloat16
                continue
            step = loss_step(int(sizes["pairs"]), device)
            seconds, mib = seconds_and_mib(step, device)
            value = step()
            print(f"| loss, {sizes['pairs']} pairs | {precision} | {seconds:.4f} | {mib:.0f} | loss {value:.6f} |")
            finite &= value == value
    arm = load_arm("nova2")
    q = torch.rand(int(sizes["poses"]), arm.dof, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = forward_kinematics(arm, q)[:, :3, 3]
    for dtype in (torch.float64, torch.float32):
        joints = q.to(device, dtype)
        seconds, mib = seconds_and_mib(lambda: forward_kinematics(arm, joints), device)  # noqa: B023
        error = 1000 * float((forward_kinematics(arm, joints)[:, :3, 3].cpu().double() - exact).abs().max())
        print(f"| kinematics, {len(q)} poses | {dtype} | {seconds:.4f} | {mib:.0f} | {error:.1e} mm off |")
        finite &= error < 0.01
    return int(not finite)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
