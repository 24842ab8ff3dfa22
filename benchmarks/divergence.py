"""Counts the seeds that diverge under a recipe and under its safe settings, by learning rate.

    python -m benchmarks.divergence --config configs/deblur.py:sample --seeds 10

Trains each seed by the recipe and again, on the same batches, with the clip and the limit to spikes
of configs/deblur.py:safe. The learning rate is that of the recipe, then twice that, and so on until
most seeds of the recipe diverge; or --learning_rate alone. Any field of the config can be changed,
as with mprnet_jax.train.

A run has diverged if the guard stops it, or if it ends far worse than it would by doing nothing: if
its mean loss over the last tenth of the steps is more than twice that of the degraded patches.
"""

import math
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags
from tqdm import tqdm

from benchmarks.tables import heading, line, table
from mprnet_jax import recipes
from mprnet_jax.command import run as run_command
from mprnet_jax.config import TrainConfig
from mprnet_jax.devices.compiling import jit
from mprnet_jax.errors import UserError
from mprnet_jax.train import CONFIG
from mprnet_jax.training.build import build_train_step
from mprnet_jax.training.guard import Guard
from mprnet_jax.training.losses import stage_loss
from mprnet_jax.training.setup import Run
from mprnet_jax.training.step import to_float

WORSE = 2  # times the loss of doing nothing: beyond that is far worse
HEAD = ["learning rate", "settings", "diverged", "stopped by the guard"]
MEDIANS = ["steps, median", "skipped, median", "loss / loss of doing nothing, median"]


class Outcome(NamedTuple):
    """How a run ended."""

    stopped: bool  # by the guard
    steps: int
    skipped: int  # steps
    loss: float  # mean of the last tenth of the steps, over that of doing nothing; inf: stopped

    @property
    def diverged(self) -> bool:
        """Whether it was stopped or ended far worse than by doing nothing."""
        return self.stopped or self.loss > WORSE


def safe_settings(config: TrainConfig) -> TrainConfig:
    """Returns a recipe with the clip and the limit to spikes of configs/deblur.py:safe."""
    safe = recipes.load("deblur:safe").optim
    optim = replace(config.optim, clip_norm=safe.clip_norm, spike_factor=safe.spike_factor)
    return replace(config, optim=optim)


def build_step(run: Run) -> Callable:
    """Returns the jitted `step(state, batch, learning_rate)`: one program for all rates."""

    def step(state: Any, batch: dict, learning_rate: jax.Array) -> tuple:
        optim = replace(run.config.optim, learning_rate=learning_rate)
        config = replace(run.config, optim=optim)
        _, train_step = build_train_step(
            config, run.mesh, run.abstract_params, jit=lambda function, **_: function
        )
        return train_step(state, batch)

    return jit(step, donate_argnums=0)


def train(run: Run, step: Callable, learning_rate: float) -> Outcome:
    """Trains a run from its start to its end, or until the guard stops it."""
    config, state, losses, of_nothing = run.config, run.init_state(), [], []
    guard, total = Guard(config, len(run.source), log=lambda _: None), config.total_steps
    with closing(run.batches(0)) as batches:
        for number in range(1, total + 1):
            batch = run.shard_batch(guard.log_unreadable(next(batches)))
            state, metrics = step(state, batch, learning_rate)
            values = jax.device_get(metrics)
            try:
                guard.count_and_check(number, values, names=list)
            except UserError:
                return Outcome(True, number, guard.counts["skipped"], math.inf)
            if number > total - max(1, total // 10):
                stages = sum(name.startswith("loss_stage") for name in values)
                images = to_float(batch["degraded"]), to_float(batch["target"])
                losses.append(float(values["loss"]) / stages)
                of_nothing.append(float(stage_loss(*images, config.loss)))
    loss = sum(losses) / sum(of_nothing)
    return Outcome(False, total, guard.counts["skipped"], loss if loss < math.inf else math.inf)


def cells(learning_rate: float, name: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Returns a row of the table."""
    diverged = sum(outcome.diverged for outcome in outcomes)
    stopped, *others = zip(*outcomes, strict=True)
    medians = [f"{statistics.median(values):.4g}" for values in others]
    return [
        f"{learning_rate:.2g}",
        name,
        f"{diverged} of {len(outcomes)}",
        str(sum(stopped)),
        *medians,
    ]


def rows(config: TrainConfig, seeds: int, learning_rate: float | None) -> Iterator[list[str]]:
    """Trains so many seeds of a recipe and of its safe settings; yields the rows of the table."""
    workdir = Path(tempfile.gettempdir(), "divergence")  # nothing is written there
    runs = {
        name: [Run(replace(each, seed=each.seed + seed), workdir) for seed in range(seeds)]
        for name, each in {"recipe": config, "safe": safe_settings(config)}.items()
    }
    steps = {name: build_step(of_seeds[0]) for name, of_seeds in runs.items()}
    rate, outcomes = learning_rate or config.optim.learning_rate, {}
    while True:
        for name, of_seeds in runs.items():
            bar = tqdm(of_seeds, desc=f"{name}, learning rate {rate:.2g}", unit="seed")
            outcomes[name] = [train(run, steps[name], rate) for run in bar]
            yield cells(rate, name, outcomes[name])
        if learning_rate or sum(outcome.diverged for outcome in outcomes["recipe"]) > seeds / 2:
            return
        rate *= 2


def main(config: TrainConfig, seeds: int, learning_rate: float | None) -> None:
    """Prints the table, each row as soon as its runs have ended."""
    command = shlex.join(["python", "-m", "benchmarks.divergence", *sys.argv[1:]])
    print(heading(f"Divergence of {config.name}", command))
    print(table([*HEAD, *MEDIANS], []))
    for row in rows(config, seeds, learning_rate):
        print(line(row), flush=True)


if __name__ == "__main__":
    SEEDS = flags.DEFINE_integer("seeds", 10, "Number of runs of each row of the table.", 1)
    RATE = flags.DEFINE_float("learning_rate", None, "Of all runs; by default see above.", 0)
    run_command(lambda: main(CONFIG.value, SEEDS.value, RATE.value), required=(CONFIG,))
