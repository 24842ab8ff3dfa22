"""Trains for an hour on the CPU and kills the run every ten minutes: memory, goodput, exactness.

    python -m benchmarks.soak [--minutes 60] [--kill_every 10] [--width 16]

Goodput is what a step takes on average, for each step that was kept, over all time since the first
start: what starting, saving and computing lost steps again takes is the rest. The average leaves
out the steps beside which a checkpoint is written. The compile cache is warm, as for any start but
a run's first.

Memory in use is what glibc's malloc has handed out, seen between two steps halfway between two
saves. Its slope is the median of those between any two sightings of a process (Theil-Sen), since
now and then a buffer of a few MB is held for longer; the first minutes, while caches fill, do not
count. Resident memory, what the system counts, has the heap's free parts too, which move by ten MB
up and down: its median and its most are told.

A killed run computes the steps since its last checkpoint again. Where parameters, optimizer, data
position or random keys came back otherwise than they were, their losses would differ.
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
LAST = 60  # seconds too short for another start
SAVED_EVERY = 50  # steps
SIGHTINGS = 5
WRITING = 5  # steps after a start or a save that are not counted as usual ones
FOREVER = 10_000_000  # steps


class Sample(NamedTuple):
    """What was seen after a step."""

    pid: int
    time: float  # seconds
    step: int
    loss: float
    in_use: int | None  # bytes, seen at some steps only
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
    """Bytes that glibc's malloc has handed out, from its heaps and from the system, to all but the
    steps that were on their way.
    """
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    jax.block_until_ready(jax.live_arrays())
    seen = []
    for _ in range(SIGHTINGS):  # a step's buffers are freed a moment after its results are there
        time.sleep(0.01)
        info = mallinfo()
        seen.append(info.uordblks + info.hblkhd)
    return min(seen)


def run(workdir: str, log: str, width: int, total: int) -> None:
    """Trains in this process and writes a sample to `log` after each step."""
    from mprnet_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
    from mprnet_jax.data.batches import end_with_parent
    from mprnet_jax.training.loop import train
    from mprnet_jax.training.progress import Progress

    end_with_parent()
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
    """The samples of each process."""
    pids = dict.fromkeys(sample.pid for sample in samples)
    return [[sample for sample in samples if sample.pid == pid] for pid in pids]


def warm(process: list[Sample]) -> list[Sample]:
    """The samples after the first minutes."""
    return [sample for sample in process if sample.time > process[0].time + WARM_SECONDS]


def seen_in_use(process: list[Sample]) -> list[tuple[float, float]]:
    """Hours and MB in use of each sighting after the first minutes."""
    seen = (sample for sample in warm(process) if sample.in_use is not None)
    return [(sample.time / 3600, sample.in_use / 1e6) for sample in seen]


def slope(sightings: list[tuple[float, float]]) -> float:
    """In MB an hour; nan where a process did not run for long enough."""
    if len(sightings) < 2:
        return math.nan
    hours, megabytes = zip(*sightings, strict=True)
    return theilslopes(megabytes, hours).slope


def computed_again(samples: list[Sample]) -> tuple[int, int]:
    """How many steps were computed twice, and how many of those had the same loss to the bit."""
    losses, again, same = {}, 0, 0
    for sample in samples:
        if sample.step in losses:
            again += 1
            same += losses[sample.step] == sample.loss
        losses[sample.step] = sample.loss
    return again, same


def usual_step(processes: list[list[Sample]]) -> float:
    """The mean of the steps that no start and no save disturb, in seconds."""
    took = [
        after.time - before.time
        for mine in processes
        for before, after in pairwise(mine[WRITING:])
        if (after.step - 1) % SAVED_EVERY >= WRITING
    ]
    return float(np.mean(took))


def report(samples: list[Sample], starts: list[float], end: float, workdir: Path) -> str:
    """The figures as a table."""
    begin = starts[0]
    kept = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    record = json.loads((workdir / f"checkpoints/{kept}/record/metadata").read_text())
    processes = by_process(samples)
    step, in_use = usual_step(processes), [seen_in_use(process) for process in processes]
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
