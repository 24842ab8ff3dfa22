"""Prints the TensorBoard curves of a run as a table.

    python -m benchmarks.curves --workdir runs/denoise-blind [--points 16]

A row has the means of the loss of each stage over the steps since the row before, and the held-out
PSNR of the degraded photos and of each stage as last measured.
"""

import argparse
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import natsort
import numpy as np
from tensorboardX.proto.event_pb2 import Event

from benchmarks.tables import table

LOSS, SCORE = "loss_stage", "validation_psnr/"  # tags go on with the stage, or the image


def read_events(path: Path) -> Iterator[Event]:
    """Yields the events of a file, up to a last one that is not whole.

    Format (TFRecord): length in 8 bytes, its checksum in 4, the event, its checksum in 4.
    """
    data, start = path.read_bytes(), 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + 12 + length
        if end + 4 > len(data):
            return
        yield Event.FromString(data[start + 12 : end])
        start = end + 4


def read_curves(workdir: Path) -> dict[str, dict[int, float]]:
    """Returns the scalars of a run by tag and step; of steps done twice, the later ones."""
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        for event in read_events(path):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return curves


def tags(curves: dict[str, dict[int, float]], prefix: str) -> list[str]:
    """Returns the tags with a prefix, the degraded images before stage 1 and so on."""
    return natsort.natsorted(tag for tag in curves if tag.startswith(prefix))


def columns(curves: dict[str, dict[int, float]]) -> list[str]:
    """Returns the titles of the table's columns."""
    losses = [f"loss {tag.removeprefix(LOSS)}" for tag in tags(curves, LOSS)]
    scores = [f"PSNR of {tag.removeprefix(SCORE)}, dB" for tag in tags(curves, SCORE)]
    return ["step", *losses, *scores]


def rows(curves: dict[str, dict[int, float]], points: int) -> Iterator[list[str]]:
    """Yields the table's rows, so many at equal distances."""
    last = max(curves["loss"])
    edges = np.linspace(0, last, points + 1).round().astype(int)
    for start, end in itertools.pairwise(edges):
        cells = [str(end)]
        for tag in tags(curves, LOSS):
            values = [value for step, value in curves[tag].items() if start < step <= end]
            cells.append(f"{np.mean(values):.4f}" if values else "")
        for tag in tags(curves, SCORE):
            steps = [step for step in curves[tag] if step <= end]
            cells.append(f"{curves[tag][max(steps)]:.2f}" if steps else "")
        yield cells


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--points", type=int, default=16)
    arguments = parser.parse_args()
    curves = read_curves(arguments.workdir)
    if "loss" not in curves:
        parser.error(f"{arguments.workdir}: holds no TensorBoard events with a loss")
    print(table(columns(curves), rows(curves, arguments.points)))


if __name__ == "__main__":
    main()
