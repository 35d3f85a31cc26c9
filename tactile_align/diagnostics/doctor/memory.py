"""Doctor check of memory: training steps of growing batches on the run's device, and the largest batch that fits."""

import ctypes
import gc
import os
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import torch

from tactile_align.checks import Check
from tactile_align.config.train import AlignmentConfig, TrainConfig
from tactile_align.diagnostics.doctor.limits import stated
from tactile_align.diagnostics.doctor.subject import Subject
from tactile_align.errors import InputError
from tactile_align.features.cost import cost_of
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import device_of
from tactile_align.training.distributed import Group
from tactile_align.training.loop import make_trainer
from tactile_align.training.step import Trainer

MOST = 4096  # largest batch that is considered, moments
SECONDS = 10.0  # no further step is started if it would end later than this
STATM, MEMINFO = Path("/proc/self/statm"), Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of version 2, where a container has a limit of its own
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def largest_batch(subject: Subject) -> Check:
    """Return the check of the largest batch whose training step fits into the memory of the run's device.

    The batch size is doubled from step to step until memory or time is used up. The memory of the last two steps gives
    the bytes per moment, and from these the largest batch is computed. On a CPU, memory is the resident memory of this
    process, read during the step, and the free memory of the machine. Large batches repeat the moments of one batch.
    torch.compile is not used.
    """
    config, device = subject.config, device_of(subject.config.device)
    advice = "raise batch_size for more negatives, up to this number"
    needed, why = "", "negatives come from the same batch"
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and not STATM.exists()):
        measured = f"not measured: memory can be read on NVIDIA GPUs and on Linux; got device {device}"
        return stated("largest-batch", "info", measured, needed, why=why, advice="try batch_size by hand")
    optimiser = config.optimiser.model_copy(update={"compile": False})
    joint = config.model_copy(update={"alignment": AlignmentConfig(), "optimiser": optimiser})
    trainer = make_trainer(joint, subject.data, Group(0, 1, device), fill=False)
    size, failed, most, began = 2 * config.optimiser.accumulate, MOST + 1, 0, time.perf_counter()
    peaks: dict[int, int] = {}
    try:
        _peak(trainer, subject.raw, size)  # the first step also allocates the state of the optimiser
        most = _in_use(device) + _free(device)
        while size <= MOST:
            start = time.perf_counter()
            peaks[size] = _peak(trainer, subject.raw, size)
            now = time.perf_counter()
            late = now - began + 2 * (now - start) > SECONDS
            if len(peaks) > 1 and (late or peaks[size] + _slope(peaks) * size > most):
                break
            size *= 2
    except torch.OutOfMemoryError:
        failed = size
    each, last = _slope(peaks), max(peaks, default=0)
    if each <= 0 and failed > MOST:
        measured = f"not measured: steps of up to {last} moments show no growth of memory on {device}"
        return stated("largest-batch", "info", measured, needed, why=why, advice="try batch_size by hand")
    more = max(0, int((most - peaks[last]) / each)) if each > 0 else 0
    fits = min(MOST, failed - 1, last + more)
    measured = (
        f"{'at least ' if fits == MOST else 'about '}{fits} moments: {each / 1e6:.3g} MB each, {most / 1e9:.3g} GB "
    )
    measured += f"of memory on {device}; steps of up to {last} moments were run{by_formula(subject.model, config)}"
    if fits >= config.batch_size:
        return stated("largest-batch", "info", measured, needed, why=why, advice=advice)
    why = f"training stops, or is ended by the system, when memory is used up; batch_size is {config.batch_size}"
    advice = "lower batch_size or features.vision.image_size, or set features.vision.checkpointing = true"
    return stated("largest-batch", "warn", measured, f"at least {config.batch_size}", why=why, advice=advice)


def by_formula(model: AlignedPolicy, config: TrainConfig) -> str:
    """Return a text with the memory that the encoders alone need, by `cost_of`; empty where no formula is known.

    The text covers one pass over the images of the views, whole frames and touches.
    """
    if model.alignment is None:
        return ""
    towers, views = model.alignment.towers, model.views if config.region == "box" else ()
    shown = len(dict.fromkeys([*(view.key for view in views), *model.frame_keys.values()]))
    touched = len(model.sensors) * (config.features.touch_frames if towers.touch_over_time is not None else 1)
    try:
        vision, touch = (cost_of(tower, config.optimiser.precision) for tower in (towers.vision, towers.touch))
    except InputError:  # not a vision transformer
        return ""
    fixed = vision.fixed_bytes + (touch.fixed_bytes if towers.touch is not towers.vision else 0)
    each = shown * vision.image_bytes + touched * touch.image_bytes
    return f"; by formula, the encoders need {fixed / 1e6:.3g} MB and {each / 1e6:.3g} MB a moment"


def _slope(peaks: dict[int, int]) -> float:
    """Return the bytes per moment, computed from the two largest batches in `peaks`; 0 for fewer than two batches."""
    if len(peaks) < 2:
        return 0.0
    small, large = sorted(peaks)[-2:]
    return (peaks[large] - peaks[small]) / (large - small)


def _peak(trainer: Trainer, raw: MomentBatch, size: int) -> int:
    """Return the largest memory in use during one training step on `size` moments, bytes."""
    device = trainer.group.device
    batch = raw.rows(torch.arange(size) % len(raw)).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        trainer.step(batch, 0)
        return torch.cuda.max_memory_allocated(device)
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # otherwise glibc keeps freed memory, and small steps seem to need none
    seen, done = [_in_use(device)], Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(_in_use(device))

    thread = Thread(target=watch)
    thread.start()
    try:
        trainer.step(batch, 0)
    finally:
        done.set()
        thread.join()
    return max(seen)


def _in_use(device: torch.device) -> int:
    """Return the memory that this process uses on a device, bytes."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(STATM.read_text().split()[1]) * PAGE


def _free(device: torch.device) -> int:
    """Return the memory that this process can still get on a device, bytes."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    free = next(int(line.split()[1]) * 1024 for line in MEMINFO.read_text().splitlines() if line[:12] == "MemAvailable")
    with suppress(OSError, ValueError):  # no cgroup, or "max": no limit
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = next(int(x.split()[1]) for x in (CGROUP / "memory.stat").open() if x.startswith("inactive_file "))
        free = min(free, limit - used + cached)  # the kernel frees cached files when needed
    return free
