"""Trains for an hour on the CPU and kills the run every ten minutes: memory, goodput, exactness.

    python -m benchmarks.soak [--minutes 60] [--kill_every 10] [--width 16]

Goodput is the share of all time since the first start that the steps kept in checkpoints took, at
the average time of a step. The rest went into starting, saving and repeating lost steps. The
average leaves out steps during which a checkpoint is written. The compile cache is warm, as it is
for any start but the first of a run.

Memory in use is what glibc's malloc has allocated, sampled between two steps halfway between two
saves. Its slope is the median of the slopes between all pairs of samples of a process (Theil-Sen),
since a buffer of a few MB is sometimes held for longer. The first minutes, while caches fill, do
not count. Resident memory also has the free parts of the heap and varies by 10 MB; the table has
its median and its maximum.

A killed run repeats the steps since its last checkpoint. If parameters, optimizer, data position or
random keys were not restored exactly, their losses would differ.
"""

import argparse
import ctypes
import json
import math
import multiprocessing
import os
import signal
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import psutil
from scipy.stats import theilslopes

WARM_SECONDS = 240
LAST = 60  # seconds before the end without another start
SAVED_EVERY = 50  # steps
SAMPLES = 5  # of memory in use, of which the smallest counts
WRITING = 5  # steps after a start or a save that the average leaves out
FOREVER = 10_000_000  # steps


class Sample(NamedTuple):
    """What was measured after a step."""

    pid: int
    time: float  # seconds
    step: int
    loss: float
    in_use: int | None  # bytes, measured after some steps only
    resident: int  # bytes


class MallInfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns, in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def memory_in_use() -> int:
    """Returns the bytes that glibc's malloc has allocated, without those of running steps."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    jax.block_until_ready(jax.live_arrays())
    seen = []
    for _ in range(SAMPLES):  # a step's buffers are freed a moment after its results are ready
        time.sleep(0.01)
        info = mallinfo()
        seen.append(info.uordblks + info.hblkhd)
    return min(seen)


def run(workdir: str, log: str, width: int, total: int) -> None:
    """Trains in this process; writes a sample to `log` after each step."""
    from mprnet_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
    from mprnet_jax.data.batches import exit_when_parent_exits
    from mprnet_jax.training.loop import train
    from mprnet_jax.training.progress import Progress

    exit_when_parent_exits()
    config = TrainConfig(
        name="soak",
        model=ModelConfig(
            width=width, unet_growth=width // 2, orsnet_growth=width // 2, cabs_per_orb=2
        ),
        data=DataConfig(source="sample_rain"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=20, ema_decay=0.999),
        total_steps=FOREVER,
        batch_size=4,
        patch_size=64,
        validation_crop=296,
        validate_every=FOREVER,
        checkpoint_every=SAVED_EVERY,
        log_every=10,
    )
    me = psutil.Process()
    update = Progress.update
    with open(log, "a", buffering=1) as file:

        def update_and_log(bar: Progress, values: dict) -> None:
            update(bar, values)
            step, loss, resident = bar._bar.n, float(values["loss"]), me.memory_info().rss
            now = time.time()
            in_use = memory_in_use() if step % SAVED_EVERY == SAVED_EVERY // 2 else None
            sample = Sample(me.pid, now, step, loss, in_use, resident)
            file.write(json.dumps(sample) + "\n")
            if sample.step == total:
                os.kill(me.pid, signal.SIGTERM)

        Progress.update = update_and_log
        train(config, workdir)


def by_process(samples: list[Sample]) -> list[list[Sample]]:
    """Groups the samples by process."""
    pids = dict.fromkeys(sample.pid for sample in samples)
    return [[sample for sample in samples if sample.pid == pid] for pid in pids]


def warm(process: list[Sample]) -> list[Sample]:
    """Returns the samples after the first minutes."""
    return [sample for sample in process if sample.time > process[0].time + WARM_SECONDS]


def used_megabytes(process: list[Sample]) -> list[tuple[float, float]]:
    """Returns hours and MB in use of each sample after the first minutes."""
    seen = (sample for sample in warm(process) if sample.in_use is not None)
    return [(sample.time / 3600, sample.in_use / 1e6) for sample in seen]


def slope(samples: list[tuple[float, float]]) -> float:
    """Returns the slope in MB per hour; NaN if a process did not run for long enough."""
    if len(samples) < 2:
        return math.nan
    hours, megabytes = zip(*samples, strict=True)
    return theilslopes(megabytes, hours).slope


def computed_again(samples: list[Sample]) -> tuple[int, int]:
    """Returns how many steps were repeated, and how many of those with exactly the same loss."""
    losses, again, same = {}, 0, 0
    for sample in samples:
        if sample.step in losses:
            again += 1
            same += losses[sample.step] == sample.loss
        losses[sample.step] = sample.loss
    return again, same


def usual_step(processes: list[list[Sample]]) -> float:
    """Returns the mean seconds of a step that no start and no save disturbs."""
    took = [
        after.time - before.time
        for mine in processes
        for before, after in pairwise(mine[WRITING:])
        if (after.step - 1) % SAVED_EVERY >= WRITING
    ]
    return float(np.mean(took))


def report(samples: list[Sample], starts: list[float], end: float, workdir: Path) -> str:
    """Returns the figures as a table."""
    begin = starts[0]
    kept = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    record = json.loads((workdir / f"checkpoints/{kept}/record/metadata").read_text())
    processes = by_process(samples)
    step, in_use = usual_step(processes), [used_megabytes(process) for process in processes]
    slopes = [slope(sightings) for sightings in in_use]
    resident = [s.resident / 1e6 for process in processes for s in warm(process)]
    again, same = computed_again(samples)
    return "\n".join(
        [
            "| what | measured |\n|---|---|",
            f"| time, kills | {(end - begin) / 60:.1f} minutes, {len(starts) - 1} |",
            "| from each start to its first finished step | "
            f"{', '.join(f'{mine[0].time - s:.1f}' for mine, s in zip(processes, starts))} s |",
            f"| steps kept, of steps computed | {kept} of {len(samples)} |",
            f"| usual step; a checkpoint every | {step:.3f} s; {SAVED_EVERY * step:.0f} s |",
            f"| goodput | {100 * kept * step / (end - begin):.1f} % |",
            f"| memory in use, slope in each process after {WARM_SECONDS} s; their median | "
            f"{', '.join(f'{mine:+.1f}' for mine in slopes)}; "
            f"{np.nanmedian(slopes):+.1f} MB an hour |",
            "| memory in use at the end of each process | "
            f"{', '.join(f'{mine[-1][1]:.1f}' for mine in in_use if mine)} MB |",
            f"| resident memory after {WARM_SECONDS} s, median and most | "
            f"{np.median(resident or math.nan):.0f}, {max(resident, default=math.nan):.0f} MB |",
            f"| steps computed again, with the same loss to the bit | {again}, {same} |",
            f"| last step, batches drawn according to its checkpoint | "
            f"{samples[-1].step}, {record['batches']} |",
        ]
    )


def main() -> None:
    """Runs the soak and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--kill_every", type=float, default=10, help="minutes")
    parser.add_argument("--width", type=int, default=16)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:

        def start(name: str, total: int) -> multiprocessing.Process:
            paths = str(Path(folder) / name), str(Path(folder) / f"{name}.log")
            process = context.Process(target=run, args=(*paths, arguments.width, total))
            process.start()
            return process

        def check(process: multiprocessing.Process, expected: int | None) -> None:
            if process.exitcode != expected:
                raise SystemExit(f"the run ended with status {process.exitcode}")

        warming = start("warming", 2)
        warming.join()
        check(warming, 0)

        begin, starts = time.time(), []
        end = begin + 60 * arguments.minutes
        while True:
            starts.append(time.time())
            process = start("run", FOREVER)
            process.join(min(60 * arguments.kill_every, end - time.time()))
            check(process, None)  # it goes on
            if time.time() > end - LAST:
                break
            process.kill()
            process.join()
        process.terminate()  # the last one saves, as when it is preempted
        process.join()
        end = time.time()
        log = (Path(folder) / "run.log").read_text()
        samples = [Sample(*json.loads(line)) for line in log.splitlines()]
        print(report(samples, starts, end, Path(folder) / "run"))
        check(process, 0)


if __name__ == "__main__":
    main()
