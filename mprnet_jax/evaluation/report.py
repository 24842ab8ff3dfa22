"""Scores for people and for programs: a table, scores.md, scores.json and sheets of pictures.

Beside ours stand the figures published for the authors' weights. Pairs of numbers are PSNR and
SSIM, or the errors that go with them, RMSE and DSSIM.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mprnet_jax.atomic import writing
from mprnet_jax.data.datasets import BENCHMARKS
from mprnet_jax.data.pairs import Example
from mprnet_jax.evaluation import metrics
from mprnet_jax.evaluation.protocols import DERAINING, DERAINING_MEAN, PROTOCOLS, Scores
from mprnet_jax.evaluation.scoring import Restore, SetScores
from mprnet_jax.imageio.sheets import make_sheet, write_png


@dataclass
class Entry:
    """The scores of one benchmark, of all stages or of the first few."""

    benchmark: str  # a key of BENCHMARKS and PROTOCOLS
    scores: SetScores
    stages: int | None = None  # how many were computed, where stages are compared
    parameters: int | None = None  # how many these stages use; None for pictures made elsewhere

    @property
    def published(self) -> Scores | None:
        """The authors' figures, which are those of all stages on a whole set."""
        comparable = self.stages in (None, 3) and self.whole
        return PROTOCOLS[self.benchmark].published if comparable else None

    @property
    def whole(self) -> bool:
        """Whether all images of the benchmark are scored, if they are scored here at all."""
        elsewhere = PROTOCOLS[self.benchmark].score is None
        return elsewhere or len(self.scores.images) >= BENCHMARKS[self.benchmark].size

    @property
    def seconds(self) -> float | None:
        """Seconds that the network took for an image."""
        return self.scores.seconds if self.parameters is not None else None


COLUMNS = (
    "set",
    "stages",
    "images",
    "PSNR",
    "SSIM",
    "published",
    "difference",
    "error reduction",
    "LPIPS",
    "s/image",
    "parameters",
    "scored on",
)


def table(entries: Sequence[Entry]) -> str:
    """All scores as a Markdown table whose columns are aligned, so that it reads well as text."""
    rows = [_row(entry) for entry in entries]
    if mean := _deraining_mean(entries):
        whole = all(entry.whole for entry in entries if entry.benchmark in DERAINING)
        rows.append({"set": "mean of the five", **_scores(mean, DERAINING_MEAN if whole else None)})
    shown = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    lines = [shown, *([row.get(name, "") for name in shown] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(shown))]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in lines
    )
    return "\n".join(padded)


def notes(entries: Sequence[Entry]) -> str:
    """What the table's columns mean, and where the published figures come from."""
    keys = dict.fromkeys(entry.benchmark for entry in entries)
    sources: dict[str, list[str]] = {}
    for key in keys:
        if any(entry.published for entry in entries if entry.benchmark == key):
            sources.setdefault(PROTOCOLS[key].source, []).append(BENCHMARKS[key].title)
    lines = [
        "PSNR in dB; published: PSNR, SSIM of the authors' weights on the whole set; difference: "
        "ours less these; error reduction: by how much our RMSE, DSSIM are below theirs."
    ]
    lines += [f"Published figures of {', '.join(t)}: {source}." for source, t in sources.items()]
    return "\n".join(lines)


def left_out(entries: Sequence[Entry]) -> list[str]:
    """A line for each image that was not scored."""
    return [line for entry in entries for line in entry.scores.left_out]


def write_scores(folder: Path, entries: Sequence[Entry], restored_by: str) -> None:
    """Writes scores.md and scores.json; `restored_by` says what the scores are of."""
    missing = left_out(entries)
    text = f"# Scores of {restored_by}\n\n{table(entries)}\n\n{notes(entries)}\n"
    if missing:
        text += "\nLeft out:\n\n" + "".join(f"- {line}\n" for line in missing)
    _write(folder / "scores.md", text)
    document = {"restored_by": restored_by, "sets": [_document(entry) for entry in entries]}
    _write(folder / "scores.json", json.dumps(_finite(document), indent=1, allow_nan=False) + "\n")


def write_sheet(path: Path, source: Sequence[Example], restore: Restore, scores: SetScores) -> None:
    """Writes a sheet of the worst, the median and the best image: degraded, restored, target."""
    ranked = sorted(scores.images, key=lambda image: image.psnr)
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    rows = []
    for rank, image in chosen.items():
        example = source[source.names.index(image.name)]
        score = f"{image.psnr:.2f} dB, SSIM {image.ssim:.3f}"
        rows.append(
            [
                (f"{rank}: {image.name}", example["degraded"]),
                (score, restore(example)),
                ("target", example["target"]),
            ]
        )
    write_png(path, make_sheet(rows))


def _row(entry: Entry) -> dict[str, str]:
    benchmark, protocol = BENCHMARKS[entry.benchmark], PROTOCOLS[entry.benchmark]
    scores = entry.scores
    return {
        "set": benchmark.title,
        "stages": _shown(entry.stages, "d"),
        "images": f"{len(scores.images)} of {benchmark.size}" if protocol.score else "",
        **_scores(scores.mean, entry.published),
        "LPIPS": _shown(scores.lpips, ".4f"),
        "s/image": _shown(entry.seconds, ".3f"),
        "parameters": _shown(entry.parameters, ",d"),
        "scored on": protocol.label,
    }


def _scores(ours: Scores | None, published: Scores | None) -> dict[str, str]:
    """The columns of PSNR and SSIM."""
    psnr, ssim = ours or (None, None)
    row = {"PSNR": _shown(psnr, ".2f"), "SSIM": _shown(ssim, ".4f")}
    if published:
        row["published"] = f"{published.psnr:.2f}, {published.ssim:.3f}"
    if ours and published:
        row["difference"] = f"{psnr - published.psnr:+.2f}, {ssim - published.ssim:+.4f}"
        less = _error_reduction(ours, published)
        row["error reduction"] = f"{less['rmse']:.1%}, {less['dssim']:.1%}"
    return row


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _error_reduction(ours: Scores, published: Scores) -> dict[str, float]:
    """By how much our errors are below the published ones."""
    return {
        "rmse": metrics.error_reduction(metrics.rmse(ours.psnr), metrics.rmse(published.psnr)),
        "dssim": metrics.error_reduction(metrics.dssim(ours.ssim), metrics.dssim(published.ssim)),
    }


def _deraining_mean(entries: Sequence[Entry]) -> Scores | None:
    """The plain mean of the five deraining sets, where all are there once."""
    means = [entry.scores.mean for entry in entries if entry.benchmark in DERAINING]
    if len(means) != len(DERAINING) or None in means or entries[0].stages:
        return None
    return Scores(*(float(np.mean(column)) for column in zip(*means)))


def _document(entry: Entry) -> dict:
    """An entry as scores.json has it."""
    protocol, scores = PROTOCOLS[entry.benchmark], entry.scores
    published = None
    if entry.published:
        published = {**entry.published._asdict(), "source": protocol.source}
        if scores.mean:
            published["error_reduction"] = _error_reduction(scores.mean, entry.published)
    return {
        "set": BENCHMARKS[entry.benchmark].title,
        "scored_on": protocol.label,
        "stages": entry.stages,
        "parameters": entry.parameters,
        "seconds_per_image": entry.seconds,
        **(scores.mean or Scores(math.nan, math.nan))._asdict(),
        "lpips": scores.lpips,
        "published": published,
        "images": [dataclasses.asdict(image) for image in scores.images],
        "left_out": scores.left_out,
    }


def _finite(value):
    """JSON knows no infinity (the PSNR of equal images): such numbers become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    with writing(path) as temporary:
        temporary.write_text(text)
