"""An evaluation from opened sets to written scores."""

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
    Lpips,
    Restore,
    SetScores,
    restore_all,
    score_set,
)

# Takes the number of pictures of each (height, width); what it returns is printed.
PrepareForSizes = Callable[[Mapping[tuple[int, int], int]], object]


@dataclass
class Candidate:
    """What is scored: a way to restore pictures."""

    restore: Restore
    stages: int | None = None  # of the network, where stages are compared
    parameters: int | None = None  # of the network, if it is one
    plan: PrepareForSizes | None = None  # called before any picture is restored


def evaluate(
    sets: Mapping[str, Source],
    candidates: Sequence[Candidate],
    output: Path,
    restored_by: str,
    lpips: Lpips | None = None,
) -> list[report.Entry]:
    """Scores candidates on sets and writes scores.md, scores.json and sheets to a folder.

    DND has no public targets: of the last candidate its submission is written instead.

    Args:
        sets: examples by key of BENCHMARKS.
        candidates: the last one is the full network, whose pictures go on the sheets.
        output: the folder; it is made if need be.
        restored_by: says in the report what was scored.
        lpips: adds this distance to the scores.
    """
    make_folder(output)  # before hours of work
    entries, planned = [], set()
    for key, source in sets.items():
        title, protocol = BENCHMARKS[key].title, PROTOCOLS[key]
        for candidate in candidates if protocol.score else candidates[-1:]:
            if candidate.plan and id(candidate) not in planned:
                planned.add(id(candidate))
                restores_all = candidate is candidates[-1]
                prepare_for(
                    candidate.plan,
                    [s for k, s in sets.items() if PROTOCOLS[k].score or restores_all],
                )
            if protocol.score:
                scores = score_set(source, protocol, candidate.restore, title=title, lpips=lpips)
            else:
                scores = submit(source, candidate.restore, output / f"{title}_submission", title)
            entries.append(report.Entry(key, scores, candidate.stages, candidate.parameters))
            report.write_scores(output, entries, restored_by)
        if scores.images:
            path = output / f"{title}.png"
            report.write_sheet(path, source, candidates[-1].restore, scores)
    return entries


def prepare_for(plan: PrepareForSizes, sources: Sequence[Source]) -> None:
    """Passes the number of pictures of each size in the sources to a candidate's `plan`."""
    counts = collections.Counter(size for source in sources for size in sizes_of(source))
    planned = plan(counts)
    if len(counts) > 1:
        print(planned)


def sizes_of(source: Source) -> Iterator[tuple[int, int]]:
    """Yields height and width of the examples, where they are known without decoding."""
    if isinstance(source, SizedSource):
        for index in range(len(source)):
            with contextlib.suppress(UserError):  # reported when the example is read
                yield source.size_of(index)


def submit(source: Source, restore: Restore, folder: Path, title: str) -> SetScores:
    """Writes DND's submission, a file a photo; a photo of which a box fails is left out."""
    make_folder(folder)
    scores = SetScores()
    # In a prepared set a photo's boxes are apart, and a damaged one does not tell whose it is.
    source = Sorted(source)
    all_boxes = max(collections.Counter(map(photo_of, source.names)).values())
    boxes = restore_all(source, restore, title, scores)
    for photo, group in itertools.groupby(boxes, lambda box: photo_of(box[0])):
        images = [image for _, _, image in group if image is not None]
        path = folder / f"{photo}.mat"
        if len(images) < all_boxes:
            path.unlink(missing_ok=True)  # of another network
        else:
            write_dnd_submission(path, [np.clip(image, 0, 1) for image in images])
    return scores


def photo_of(name: str) -> str:
    """The photo of a box of DND.

    >>> photo_of("0001_20")
    '0001'
    """
    return name.rsplit("_", 1)[0]
