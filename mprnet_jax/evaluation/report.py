"""Writes scores: a table, scores.md, scores.json and sheets of pictures.

Reports compare ours with the figures published for the authors' weights and, as the paper does,
with those of an earlier method. Pairs of numbers are PSNR and SSIM, or the corresponding errors,
RMSE and DSSIM.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from mprnet_jax.atomic import writing
from mprnet_jax.data.datasets import BENCHMARKS
from mprnet_jax.data.pairs import Source
from mprnet_jax.evaluation import metrics
from mprnet_jax.evaluation.protocols import (
    DERAINING,
    DERAINING_MEAN,
    DERAINING_MEAN_EARLIER,
    EARLIER,
    EARLIER_SOURCE,
    PROTOCOLS,
    Earlier,
    Scores,
)
from mprnet_jax.evaluation.scoring import RestoreFn, SetScores
from mprnet_jax.imageio.sheets import make_sheet, write_png

NETWORK_STAGES = 3  # of the published networks


@dataclass
class Entry:
    """The scores of one benchmark, with all stages or the first few."""

    benchmark: str  # a key of BENCHMARKS and PROTOCOLS
    scores: SetScores
    stages: int | None = None  # how many were computed, where stages are compared
    parameters: int | None = None  # of these stages; None for pictures restored elsewhere
    multiply_adds: float | None = None  # of these stages, for an image of 256x256
    network_stages: int = NETWORK_STAGES  # how many the network has

    @property
    def published(self) -> Scores | None:
        """The published figures, if these scores are of all stages on the whole set."""
        return PROTOCOLS[self.benchmark].published if self.comparable else None

    @property
    def earlier(self) -> Earlier | None:
        """An earlier method and its scores, if one is known and these scores compare to it."""
        return EARLIER.get(self.benchmark) if self.comparable else None

    @property
    def comparable(self) -> bool:
        """Whether these scores are of all stages on the whole set."""
        return self.stages in (None, self.network_stages) and self.complete

    @property
    def complete(self) -> bool:
        """Whether all images of the benchmark are scored; true where a server scores them."""
        by_server = PROTOCOLS[self.benchmark].score is None
        return by_server or len(self.scores.images) >= BENCHMARKS[self.benchmark].num_examples

    @property
    def seconds(self) -> float | None:
        """Seconds that the network took per image."""
        return self.scores.seconds if self.parameters is not None else None


COLUMNS = (
    "set",
    "stages",
    "images",
    "PSNR",
    "SSIM",
    "published",
    "difference",
    "earlier method",
    "error reduction",
    "LPIPS",
    "s/image",
    "parameters",
    "multiply-adds",
    "scored on",
)


def table(entries: Sequence[Entry]) -> str:
    """Formats all scores as a Markdown table with aligned columns."""
    rows = [_row(entry) for entry in entries]
    if mean := _deraining_mean(entries):
        complete = all(entry.complete for entry in entries if entry.benchmark in DERAINING)
        others = (DERAINING_MEAN, DERAINING_MEAN_EARLIER) if complete else (None, None)
        rows.append({"set": "mean of the five", **_scores(mean, *others)})
    shown = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    cells = [[row.get(name, "") for name in shown] for row in rows]
    return tabulate(cells, shown, tablefmt="github", disable_numparse=True)


def notes(entries: Sequence[Entry]) -> str:
    """Explains the table's columns, and where the published figures come from."""
    keys = dict.fromkeys(entry.benchmark for entry in entries)
    sources: dict[str, list[str]] = {}
    for key in keys:
        if any(entry.published for entry in entries if entry.benchmark == key):
            sources.setdefault(PROTOCOLS[key].source, []).append(BENCHMARKS[key].title)
    lines = [
        "PSNR in dB; published: PSNR, SSIM of the authors' weights on the whole set; difference: "
        "ours minus published."
    ]
    if any(entry.multiply_adds for entry in entries):
        lines.append(
            "Multiply-adds: billions for 256x256 pixels, those of the first stages together."
        )
    if any(entry.earlier and entry.scores.mean for entry in entries):
        lines.append(
            f"Earlier methods (CVPR 2020): PSNR, SSIM from {EARLIER_SOURCE}; error reduction: by "
            "how much our RMSE, DSSIM are below theirs, in brackets the authors'."
        )
    lines += [f"Published figures of {', '.join(t)}: {source}." for source, t in sources.items()]
    return "\n".join(lines)


def left_out(entries: Sequence[Entry]) -> list[str]:
    """Returns a line for each image that was not scored."""
    return [line for entry in entries for line in entry.scores.left_out]


def write_scores(folder: Path, entries: Sequence[Entry], restored_by: str) -> None:
    """Writes scores.md and scores.json; `restored_by` says what was scored."""
    missing = left_out(entries)
    text = f"# Scores of {restored_by}\n\n{table(entries)}\n\n{notes(entries)}\n"
    if missing:
        text += "\nLeft out:\n\n" + "".join(f"- {line}\n" for line in missing)
    _write(folder / "scores.md", text)
    document = {"restored_by": restored_by, "sets": [_document(entry) for entry in entries]}
    _write(folder / "scores.json", json.dumps(_finite(document), indent=1, allow_nan=False) + "\n")


def write_sheet(path: Path, source: Source, restore: RestoreFn, scores: SetScores) -> None:
    """Writes a sheet with degraded, restored and target of the worst, median and best image."""
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
        "stages": _format(entry.stages, "d"),
        "images": f"{len(scores.images)} of {benchmark.num_examples}" if protocol.score else "",
        **_scores(scores.mean, entry.published, entry.earlier),
        "LPIPS": _format(scores.lpips, ".4f"),
        "s/image": _format(entry.seconds, ".3f"),
        "parameters": _format(entry.parameters, ",d"),
        "multiply-adds": _format(entry.multiply_adds and entry.multiply_adds / 1e9, ".1f"),
        "scored on": protocol.label,
    }


def _scores(
    ours: Scores | None, published: Scores | None, earlier: Earlier | None
) -> dict[str, str]:
    """Returns the columns of PSNR and SSIM."""
    row = {"PSNR": f"{ours.psnr:.2f}", "SSIM": f"{ours.ssim:.4f}"} if ours else {}
    if published:
        row["published"] = f"{published.psnr:.2f}, {published.ssim:.3f}"
    if ours and published:
        row["difference"] = f"{ours.psnr - published.psnr:+.2f}, {ours.ssim - published.ssim:+.4f}"
    if ours and published and earlier:
        row["earlier method"] = (
            f"{earlier.method} {earlier.scores.psnr:.2f}, {earlier.scores.ssim:.3f}"
        )
        reductions = [_error_reduction(scores, earlier.scores) for scores in (ours, published)]
        row["error reduction"] = "{} ({})".format(
            *(f"{each['rmse']:.1%}, {each['dssim']:.1%}" for each in reductions)
        )
    return row


def _format(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _error_reduction(scores: Scores, earlier: Scores) -> dict[str, float]:
    """Returns the share by which the errors of scores are below those of an earlier method."""
    return {
        "rmse": metrics.error_reduction(
            metrics.psnr_to_rmse(scores.psnr), metrics.psnr_to_rmse(earlier.psnr)
        ),
        "dssim": metrics.error_reduction(
            metrics.ssim_to_dssim(scores.ssim), metrics.ssim_to_dssim(earlier.ssim)
        ),
    }


def _deraining_mean(entries: Sequence[Entry]) -> Scores | None:
    """Returns the unweighted mean of the five deraining sets, if each was scored once."""
    derained = [entry.scores for entry in entries if entry.benchmark in DERAINING]
    means = [scores.mean for scores in derained if scores.mean is not None]
    # Either all entries compare stages, or none does.
    if not len(means) == len(derained) == len(DERAINING) or entries[0].stages:
        return None
    return Scores(*(float(np.mean(column)) for column in zip(*means)))


def _document(entry: Entry) -> dict:
    """Returns an entry as in scores.json."""
    protocol, scores = PROTOCOLS[entry.benchmark], entry.scores
    published: dict[str, Any] | None = None
    if entry.published:
        published = {**entry.published._asdict(), "source": protocol.source}
    earlier: dict[str, Any] | None = None
    if entry.earlier and scores.mean:
        earlier = {
            "method": entry.earlier.method,
            **entry.earlier.scores._asdict(),
            "source": EARLIER_SOURCE,
            "error_reduction": _error_reduction(scores.mean, entry.earlier.scores),
        }
    return {
        "set": BENCHMARKS[entry.benchmark].title,
        "scored_on": protocol.label,
        "stages": entry.stages,
        "parameters": entry.parameters,
        "multiply_adds_256x256": entry.multiply_adds,
        "seconds_per_image": entry.seconds,
        **(scores.mean or Scores(math.nan, math.nan))._asdict(),
        "lpips": scores.lpips,
        "published": published,
        "earlier": earlier,
        "images": [dataclasses.asdict(image) for image in scores.images],
        "left_out": scores.left_out,
    }


def _finite(value: Any) -> Any:
    """Replaces infinity (the PSNR of equal images) and NaN, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    with writing(path) as temporary:
        # Names of files may hold anything, bytes that are no text too.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
