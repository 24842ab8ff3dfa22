"""Trains the networks of the paper's ablation (table 6) and compares them.

    python -m benchmarks.ablation --config configs/deblur.py --seeds 3 --workdir runs/ablation

Each row of the table is a network in which something was left out, or another loss. All rows are
trained by the same recipe: by default in the paper's setting, 100,000 steps on 128x128 patches.
Anything shorter is quick to try, such as

    python -m benchmarks.ablation --config configs/deblur.py:sample --steps 200 --patch_size 32

Any field of the recipe can be changed, as with mprnet_jax.train. The same command resumes. After
each run the table is written to ablation.md in the workdir.

A row is compared with the whole network seed by seed, since runs of one seed see the same data. Its
difference counts as real only if it is larger than the spread of both over the seeds (the standard
deviation), and if the 95 % confidence interval of its mean (Student's t) excludes 0.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from absl import flags

from benchmarks.tables import heading, table
from mprnet_jax import paths
from mprnet_jax.atomic import writing
from mprnet_jax.command import run
from mprnet_jax.config import TrainConfig
from mprnet_jax.train import CONFIG, WORKDIR

SEEDS = flags.DEFINE_integer("seeds", 3, "Number of runs of each row.", 1)
STEPS = flags.DEFINE_integer("steps", 100_000, "Steps of each run.", 1)
PATCH_SIZE = flags.DEFINE_integer("patch_size", 128, "Side of the patches, in pixels.", 8)
CONFIDENCE = 0.95
COMMAND = ("python -m benchmarks.ablation", *sys.argv[1:])


class Row(NamedTuple):
    """A row of the table: what it changes in the recipe, and the paper's PSNR on GoPro in dB."""

    title: str
    model: Mapping[str, Any] = {}
    loss: Mapping[str, Any] = {}
    paper: float | None = None


WHOLE = "whole"
ROWS = {
    "unet": Row("U-Net", {"stages": "unet"}),
    "orsnet": Row("ORSNet", {"stages": "orsnet"}),
    "unet_unet": Row("U-Net + U-Net", {"stages": "unet+unet"}, paper=29.40),
    "orsnet_orsnet": Row("ORSNet + ORSNet", {"stages": "orsnet+orsnet"}, paper=29.53),
    "unet_orsnet": Row("U-Net + ORSNet", {"stages": "unet+orsnet"}, paper=29.70),
    "no_sam_no_csff": Row(
        "without SAM and CSFF",
        {"supervised_attention": False, "cross_stage_fusion": False},
        paper=29.86,
    ),
    "no_sam": Row("without SAM", {"supervised_attention": False}, paper=30.07),
    "no_csff": Row("without CSFF", {"cross_stage_fusion": False}, paper=30.31),
    WHOLE: Row("whole network: U-Net + U-Net + ORSNet", paper=30.49),
    "operator": Row("whole, edge loss by the Laplacian operator", loss={"laplacian": "operator"}),
}


def config_of(recipe: TrainConfig, row: Row, seed: int, steps: int, patch_size: int) -> TrainConfig:
    """Returns the config of one run."""
    optim = recipe.optim
    return replace(
        recipe,
        name=f"{row.title}, seed {seed}",
        model=replace(recipe.model, **row.model),
        loss=replace(recipe.loss, **row.loss),
        # A long warm-up is shortened with the run.
        optim=replace(optim, warmup_steps=min(optim.warmup_steps, steps // 10), decay_steps=0),
        total_steps=steps,
        patch_size=patch_size,
        validate_every=steps,
        seed=recipe.seed + seed,
    )


def score(config: TrainConfig, workdir: Path) -> float | None:
    """Trains one run, or continues it; returns its held-out PSNR in dB, or None after a signal."""
    import jax

    from mprnet_jax.training.loop import train
    from mprnet_jax.weights.run_folder import check_same_run

    result = workdir / "result.json"
    if result.exists():
        check_same_run(workdir, config)
        return json.loads(result.read_text())["psnr"]
    jax.clear_caches()  # no other run uses this network
    validation = train(config, workdir)
    if validation is None:
        return None
    with writing(result) as temporary:
        temporary.write_text(json.dumps({"psnr": validation.score}) + "\n")
    return validation.score


def compare(scores: list[float], whole: list[float]) -> tuple[float, float, bool]:
    """Compares scores of the same seeds.

    Returns:
        The mean difference, half of its confidence interval (infinite for a single seed), and
        whether it is larger than that and than the spread of either.
    """
    differences = np.subtract(scores, whole)
    if len(differences) < 2:
        return float(differences.mean()), math.inf, False
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    half = float(error * scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
    mean = float(differences.mean())
    spread = max(np.std(scores, ddof=1), np.std(whole, ddof=1))
    return mean, half, bool(abs(mean) > max(half, spread))


def report(scores: Mapping[str, list[float]]) -> str:
    """Returns the table of the rows that have scores."""
    head = ["network", "paper, dB", "paper's difference", "ours, dB", "spread", "difference", ""]
    return table(head, [cells(name, scores) for name in ROWS if scores.get(name)])


def cells(name: str, scores: Mapping[str, list[float]]) -> list[str]:
    """Returns one row of the table."""
    row, ours, whole = ROWS[name], scores[name], scores.get(WHOLE, [])
    paper, reference = row.paper, ROWS[WHOLE].paper
    spread = f"{np.std(ours, ddof=1):.3f}" if len(ours) > 1 else ""
    shown = [
        row.title,
        f"{paper:.2f}" if paper else "",
        f"{paper - reference:+.2f}" if paper and reference and name != WHOLE else "",
        f"{np.mean(ours):.3f}",
        spread,
    ]
    count = min(len(ours), len(whole))
    if name == WHOLE or not count:
        return [*shown, "", ""]
    difference, half, is_real = compare(ours[:count], whole[:count])
    interval = f" ± {half:.3f}" if math.isfinite(half) else ""
    verdict = ("better" if difference > 0 else "worse") if is_real else "no difference shown"
    return [*shown, f"{difference:+.3f}{interval}", verdict]


def main() -> None:
    """Runs the command."""
    workdir = paths.absolute(WORKDIR.value or "runs/ablation")
    recipe = CONFIG.value
    scores: dict[str, list[float]] = {name: [] for name in ROWS}
    for seed in range(SEEDS.value):
        for name, row in ROWS.items():
            config = config_of(recipe, row, seed, STEPS.value, PATCH_SIZE.value)
            config.validate()
            print(f"\n{config.name}")
            psnr = score(config, workdir / name / str(seed))
            if psnr is None:
                return
            scores[name].append(psnr)
            text = heading("The paper's ablation", " ".join(COMMAND))
            with writing(workdir / "ablation.md") as temporary:
                temporary.write_text(f"{text}\n{report(scores)}\n")
    print(f"\n{report(scores)}\n\nThis table is in {workdir / 'ablation.md'}")


if __name__ == "__main__":
    run(main, required=(CONFIG,))
