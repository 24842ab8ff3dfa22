"""Trains for an hour on the CPU and kills the run every ten minutes: memory, goodput, position.

    python -m benchmarks.soak [--minutes 60] [--kill_every 10] [--width 16]

Goodput is the time of the steps that were kept over all time since the first start: what starting,
saving and computing lost steps again takes is the rest. Memory is that of the training process
after each step; its slope leaves out the first minutes after a start, while caches fill.
"""

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil

WARM_SECONDS = 180
SAVED_EVERY = 10  # steps


def run(workdir: str, log: str, width: int, total: int) -> None:
    """Trains in this process and writes (time, step, resident bytes) after each step."""
    from mprnet_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
    from mprnet_jax.training import loop

    config = TrainConfig(
        name="soak",
        model=ModelConfig(
            width=width, unet_growth=width // 2, orsnet_growth=width // 2, cabs_per_orb=2
        ),
        data=DataConfig(source="sample_rain"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=20, ema_decay=0.999),
        total_steps=total,
        batch_size=4,
        patch_size=64,
        validation_crop=296,
        validate_every=total,
        checkpoint_every=SAVED_EVERY,
        log_every=10,
    )
    me = psutil.Process()
    update = loop.Progress.update
    with open(log, "a", buffering=1) as file:

        def update_and_log(bar: loop.Progress, values: dict) -> None:
            update(bar, values)
            sample = (os.getpid(), time.time(), bar._bar.n, me.memory_info().rss)
            file.write(json.dumps(sample) + "\n")

        loop.Progress.update = update_and_log
        loop.train(config, workdir)


def step_seconds(samples: list) -> dict[int, float]:
    """How long each step took, of the last time it was computed; saving does not count."""
    seconds = {}
    for pid in dict.fromkeys(sample[0] for sample in samples):
        mine = [sample for sample in samples if sample[0] == pid]
        took = {after[2]: after[1] - before[1] for before, after in pairwise(mine)}
        usual = float(np.median(list(took.values())))
        # The step after a save waited for it; the first one, for the compiler.
        seconds |= {n: usual if n % SAVED_EVERY == 1 else took.get(n, usual) for *_, n, _ in mine}
    return seconds


def report(samples: list, begin: float, end: float, workdir: Path, kills: int) -> str:
    """The figures as a table."""
    kept = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    record = json.loads((workdir / f"checkpoints/{kept}/record/metadata").read_text())
    seconds = step_seconds(samples)
    useful = sum(took for step, took in seconds.items() if step <= kept)
    slopes = []
    for pid in dict.fromkeys(sample[0] for sample in samples):
        mine = np.array([sample[1:] for sample in samples if sample[0] == pid])
        warm = mine[mine[:, 0] > mine[0, 0] + WARM_SECONDS]
        if len(warm) > 10:
            slopes.append(np.polyfit(warm[:, 0], warm[:, 2], 1)[0] * 3600 / 1e6)
    return "\n".join(
        [
            "| what | measured |\n|---|---|",
            f"| time, kills | {(end - begin) / 60:.1f} minutes, {kills} |",
            f"| steps kept, of steps computed | {kept} of {len(samples)} |",
            f"| median step | {np.median(list(seconds.values())):.3f} s |",
            f"| goodput | {100 * useful / (end - begin):.1f} % |",
            "| memory's slope after warm-up, by process | "
            f"{', '.join(f'{slope:+.1f}' for slope in slopes)} MB/h |",
            f"| memory at the end | {samples[-1][3] / 1e6:.0f} MB |",
            f"| data position saved at step {kept} | batch {record['batches']} |",
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
        workdir, log = Path(folder) / "run", Path(folder) / "log"
        begin, kills = time.time(), 0
        end = begin + 60 * arguments.minutes
        while time.time() < end:
            process = context.Process(
                target=run, args=(str(workdir), str(log), arguments.width, 10_000_000)
            )
            process.start()
            process.join(min(60 * arguments.kill_every, end - time.time()))
            if process.exitcode is not None:
                raise SystemExit(f"the run ended by itself with status {process.exitcode}")
            if time.time() < end:
                process.kill()
                kills += 1
            else:  # the last one saves, as when it is preempted
                os.kill(process.pid, signal.SIGTERM)
            process.join()
        samples = [json.loads(line) for line in log.read_text().splitlines()]
        print(report(samples, begin, time.time(), workdir, kills))


if __name__ == "__main__":
    main()
