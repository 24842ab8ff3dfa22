"""Draws the curves of the runs that made the networks that come with the package.

    python -m benchmarks.pictures

From the tables of benchmarks/results/training.md into docs/curves.png; needs the extra `notebooks`.
"""

import re
from pathlib import Path

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


def main(output: Path = ROOT / "docs/curves.png") -> None:
    """Draws loss and PSNR of each network by step; the parts of a run follow each other."""
    from matplotlib.figure import Figure

    found = tables(SOURCE.read_text())
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
    figure.savefig(output, dpi=100)


if __name__ == "__main__":
    main()
