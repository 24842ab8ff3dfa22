"""Evaluates candidates on sets of examples: restores, scores and writes the scores."""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mprnet_jax.atomic import make_folder
from mprnet_jax.data.datasets import BENCHMARKS
from mprnet_jax.data.matlab import write_dnd_submission
from mprnet_jax.data.pairs import SizedSource, Sorted, Source
from mprnet_jax.errors import UserError
from mprnet_jax.evaluation import report
from mprnet_jax.evaluation.protocols import PROTOCOLS
from mprnet_jax.evaluation.scoring import (
    LpipsFn,
    RestoreFn,
    SetScores,
    restore_all,
    score_set,
)

# Takes the number of images of each (height, width); what it returns is printed.
PlanSizes = Callable[[Mapping[tuple[int, int], int]], object]


@dataclass(eq=False)  # compared by identity
class Candidate:
    """A way to restore images, which is scored."""

    restore: RestoreFn
    stages: int | None = None  # how many stages it computes, where that is compared
    parameters: int | None = None  # of these stages, if it is a network
    plan: PlanSizes | None = None  # called before the first image
    multiply_adds: float | None = None  # of these stages, for an image of 256x256


def evaluate(
    sets: Mapping[str, Source],
    candidates: Sequence[Candidate],
    output: Path,
    restored_by: str,
    lpips: LpipsFn | None = None,
) -> list[report.Entry]:
    """Scores candidates on sets and writes scores.md, scores.json and sheets to a folder.

    DND's targets are not public: instead of scores, the last candidate's submission is written.

    Args:
        sets: examples by key of BENCHMARKS.
        candidates: the last one is the full network, whose images go on the sheets.
        output: the folder; it is made if need be.
        restored_by: names in the report what was scored.
        lpips: adds this distance to the scores.
    """
    make_folder(output)  # before hours of work
    entries: list[report.Entry] = []
    planned: set[Candidate] = set()
    for key, source in sets.items():
        title, protocol = BENCHMARKS[key].title, PROTOCOLS[key]
        for candidate in candidates_for(key, candidates):
            if candidate not in planned:  # one at a time, as each plan starts to compile programs
                planned.add(candidate)
                restored = [sets[k] for k in sets if candidate in candidates_for(k, candidates)]
                run_plan(candidate, restored)
            if protocol.score:
                scores = score_set(source, protocol, candidate.restore, title=title, lpips_fn=lpips)
            else:
                scores = submit(source, candidate.restore, output / f"{title}_submission", title)
            entries.append(
                report.Entry(
                    key,
                    scores,
                    candidate.stages,
                    candidate.parameters,
                    candidate.multiply_adds,
                    network_stages=candidates[-1].stages or report.NETWORK_STAGES,
                )
            )
            report.write_scores(output, entries, restored_by)
        if scores.images:
            path = output / f"{title}.png"
            report.write_sheet(path, source, candidates[-1].restore, scores)
    return entries


def candidates_for(key: str, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Returns the candidates that restore a set: all where scores are computed, else the last."""
    return candidates if PROTOCOLS[key].score else candidates[-1:]


def run_plan(candidate: Candidate, sources: Sequence[Source]) -> None:
    """Calls a candidate's `plan`, if it has one, with the sizes of all images of some sets."""
    if candidate.plan is None:
        return
    counts = collections.Counter(size for source in sources for size in sizes_of(source))
    plan = candidate.plan(counts)
    if len(counts) > 1:
        print(plan)


def sizes_of(source: Source) -> Iterator[tuple[int, int]]:
    """Yields the height and width of the examples that have them in a readable header."""
    if isinstance(source, SizedSource):
        for index in range(len(source)):
            with contextlib.suppress(UserError):  # reported when the example itself is read
                yield source.size_of(index)


def submit(source: Source, restore: RestoreFn, folder: Path, title: str) -> SetScores:
    """Writes a DND submission, one file per photo.

    A photo is left out, and named in `left_out`, if one of its boxes cannot be restored.
    """
    make_folder(folder)
    scores = SetScores()
    # A prepared set is shuffled, and the name of a damaged box is unknown. So boxes are sorted by
    # name, and photos with too few boxes are left out.
    source = Sorted(source)
    all_boxes = max(collections.Counter(map(photo_of, source.names)).values())
    boxes = restore_all(source, restore, title, scores)
    for photo, group in itertools.groupby(boxes, lambda box: photo_of(box[0])):
        images = [image for _, _, image in group if image is not None]
        path = folder / f"{photo}.mat"
        if len(images) < all_boxes:
            path.unlink(missing_ok=True)  # an earlier network may have written it
            if images:  # else each box is reported
                scores.left_out.append(
                    f"{title} {photo}: is not in the submission, for lack of "
                    f"{all_boxes - len(images)} of its {all_boxes} boxes"
                )
        else:
            write_dnd_submission(path, [np.clip(image, 0, 1) for image in images])
    return scores


def photo_of(name: str) -> str:
    """Returns the name of the photo that a box of DND belongs to.

    >>> photo_of("0001_20")
    '0001'
    """
    return name.rsplit("_", 1)[0]
