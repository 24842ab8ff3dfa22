"""Draws the diagrams of the documentation.

    python -m benchmarks.pictures [--output docs]

curves.png, of the runs that made the networks that come with the package, from the tables of
benchmarks/results/training.md; parity.png, of these networks beside PyTorch's; plan.png, of the
programs that restore a folder. Needs the extra `notebooks`.
"""

import argparse
import re
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.sizes import photo_sizes
from mprnet_jax.config import ModelConfig
from mprnet_jax.model.cost import forward_flops
from mprnet_jax.restoration.costs import GUESSES, Costs
from mprnet_jax.restoration.planning import Plan, make_plan
from mprnet_jax.restoration.sizes import padded_size
from mprnet_jax.weights import files, parity, pretrained

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "benchmarks/results/training.md"
Row = list[float | None]


def tables(text: str) -> dict[str, list[list[Row]]]:
    """Returns the tables below each heading `NAME`; a row has None where a cell is empty."""
    found: dict[str, list[list[Row]]] = {}
    for name, section in re.findall(r"^## `(\w+)`.*?\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        for table in re.findall(r"^\| --- .*\n((?:\|.*\n?)+)", section, re.M):
            rows = [line.strip("|").split("|") for line in table.splitlines()]
            parts = found.setdefault(name, [])
            parts.append([[float(x) if x.strip() else None for x in row] for row in rows])
    return found


def draw_curves(found: dict[str, list[list[Row]]]) -> Figure:
    """Draws loss and PSNR of each network by step; the parts of a run follow each other."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots(2, len(found), sharex="col")
    for (name, parts), (upper, lower) in zip(found.items(), axes.T):
        upper.set_title(name)
        start = 0.0
        for number, rows in enumerate(parts, 1):
            steps = [start + float(row[0] or 0) for row in rows]
            label = f"stage 3, part {number}" if len(parts) > 1 else "stage 3"
            upper.plot(steps, [row[3] for row in rows], label=label)
            psnr = [row[7] for row in rows]
            # A row without a validation of its own repeats the last one.
            new = [i for i, x in enumerate(psnr) if x is not None and x not in psnr[:i]]
            lower.plot(
                [steps[i] for i in new], [psnr[i] for i in new], "o-", label=f"stage 3{label}"
            )
            start = steps[-1]
        lower.axhline(parts[0][-1][4], color="grey", linestyle="--", label="degraded")
        lower.set_xlabel("step")
    axes[0][0].set_ylabel("training loss")
    axes[1][0].set_ylabel("PSNR of validation, dB")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def draw_parity(reports: dict[str, parity.Report]) -> Figure:
    """Draws how far the blocks of each network are from PyTorch's, in the order of computation."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, report in reports.items():
        axes.semilogy([block.relative for block in report.blocks], ".", label=name)
    axes.axhline(parity.BLOCK_TOLERANCE, color="grey", linestyle="--", label="tolerance")
    first: dict[str, int] = {}  # block of each part of the network
    for number, block in enumerate(report.blocks):
        first.setdefault(re.split(r"[.\[]", block.name)[0], number)
    axes.set_xticks(list(first.values()), list(first), rotation=90)
    axes.set_ylabel("largest difference / largest value")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_plan(planned: Plan) -> Figure:
    """Draws the sizes of photos, and the programs that restore them."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for number, program in enumerate(planned.order):
        colour = f"C{number % 10}"
        sizes = [size for size, chosen in planned.programs.items() if chosen == program]
        outline = Rectangle((0, 0), program.width, program.height, fill=False, edgecolor=colour)
        axes.add_patch(outline)
        axes.plot(
            *([size[i] for size in sizes] for i in (1, 0)),
            "o",
            color=colour,
            label=f"{program.width}x{program.height}: {len(sizes)}",
        )
    axes.set_xlabel("width, pixels")
    axes.set_ylabel("height, pixels")
    axes.grid(alpha=0.3)
    axes.legend(title="program: photos", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plan_folder() -> Plan:
    """Returns the plan for 40 photos of 40 sizes and `derain`, by the costs assumed for CPUs."""
    guess = GUESSES["cpu"]
    costs = Costs(
        "",
        {False: guess.compile_exact, True: guess.compile_canvas},
        seconds_per_pixel=forward_flops(ModelConfig.derain(), 1, 1) / guess.flops_per_second,
        bytes_per_pixel=1,
    )
    sizes = [padded_size(*size) for size in photo_sizes(40, 160, 640)]
    return make_plan(dict.fromkeys(sizes, 1), costs, max_canvas_pixels=1e9)


def main(output: Path) -> None:
    """Draws all of them."""
    reports = {
        name: parity.compare(files.read(name), files.read_official(name))
        for name in pretrained.PRETRAINED
    }
    figures = {
        "curves": draw_curves(tables(SOURCE.read_text())),
        "parity": draw_parity(reports),
        "plan": draw_plan(plan_folder()),
    }
    for name, figure in figures.items():
        figure.savefig(output / f"{name}.png", dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    main(parser.parse_args().output)
