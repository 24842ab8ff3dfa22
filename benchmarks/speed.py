"""The suites `cpu` and `gpu`: time and memory of ours and of peers, in turn."""

import math
import os
from collections.abc import Callable, Generator, Iterable

from benchmarks.limit import Limit
from benchmarks.schedule import Schedule
from benchmarks.tables import table
from benchmarks.turns import Outcome, measure
from benchmarks.work import (
    CPU_CONTENDERS,
    CPU_WORK,
    GPU_CONTENDERS,
    GPU_WORK,
    NEEDS_GPU,
    PRESETS,
    Work,
)
from mprnet_jax.model.cost import forward_flops

WORK = {"cpu": CPU_WORK, "gpu": GPU_WORK}
ENVIRONMENT = {
    "cpu": {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    # What is used is what was needed; by default JAX would stop at three quarters of the memory.
    "gpu": {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_CLIENT_MEM_FRACTION": ".95",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "",  # its old name, which JAX refuses beside it
        "TORCHINDUCTOR_COMPILE_THREADS": "4",  # of each process: several compile at a time
    },
}


def run(
    suite: str,
    works: Iterable[Work],
    skip: str,
    rounds: int,
    smoke: bool,
    limit: Limit,
    peaks: dict[str, float],
) -> Generator[str, None, list[Work]]:
    """The sections of the report, each as soon as it is measured; returns what is missing.

    Args:
        suite: "cpu" or "gpu".
        works: what to do, in the order of importance.
        skip: part of the names of contenders to leave out.
        rounds: turns of each contender.
        smoke: tiny sizes instead, on whatever device there is.
        limit: when to end; of suite "gpu".
        peaks: FLOP/s of the fastest product of matrices by type of number; completed here.
    """
    contenders = CPU_CONTENDERS if suite == "cpu" else GPU_CONTENDERS
    contenders = [contender for contender in contenders if skip not in contender.name]
    environment = ENVIRONMENT[suite]
    if smoke:
        works = dict.fromkeys(work.tiny() for work in works)
    elif suite == "gpu":
        environment = environment | {NEEDS_GPU: "1"}
    if suite == "gpu":
        # Kernels are tried best on a device of one's own; side by side where time is short.
        at_once = 1 if math.isinf(limit.left()) else os.cpu_count()
        measured = Schedule(works, contenders, rounds, environment, limit, at_once).run()
    else:
        measured = ((work, measure(work, contenders, rounds, environment)) for work in works)
    dtypes = {contender.name: contender.dtype for contender in contenders}
    missing = []
    for work, outcomes in measured:
        if all(outcome.failure == limit.told for outcome in outcomes):
            missing.append(work)
        elif work.kind == "matmul":
            peaks |= matmul_peaks(work, dtypes, outcomes)
            yield section(work, outcomes, dtypes, matmul_rate(work))
        else:
            yield section(work, outcomes, dtypes, share_of_peak(work, dtypes, peaks))
    return missing


def matmul_rate(work: Work) -> Callable[[Outcome], str]:
    """GFLOP/s of a contender."""
    return lambda outcome: f"{2 * work.height**3 / outcome.median / 1e9:.0f}"


def matmul_peaks(
    work: Work, dtypes: dict[str, str], outcomes: Iterable[Outcome]
) -> dict[str, float]:
    """FLOP/s of the fastest product of matrices, by type of number."""
    peaks = {}
    for outcome in outcomes:
        if not outcome.failure:
            dtype = dtypes[outcome.contender]
            peaks[dtype] = max(peaks.get(dtype, 0), 2 * work.height**3 / outcome.median)
    return peaks


def share_of_peak(
    work: Work, dtypes: dict[str, str], peaks: dict[str, float]
) -> Callable[[Outcome], str]:
    """What part of the peak a contender reaches, by the arithmetic of the published network.

    A training step counts as three forward passes.
    """
    flops = work.batch * forward_flops(PRESETS[work.preset], work.height, work.width)
    flops *= 3 if work.kind == "train" else 1

    def share(outcome: Outcome) -> str:
        peak = peaks.get(dtypes[outcome.contender])
        return f"{flops / outcome.median / peak:.2f}" if peak else ""

    return share


def section(
    work: Work, outcomes: list[Outcome], dtypes: dict[str, str], last: Callable[[Outcome], str]
) -> str:
    """A heading and a table. Ratios are to ours of the same type of number, where we take part."""
    ours = {}
    for outcome in outcomes:
        if outcome.contender.startswith("ours"):
            median = math.nan if outcome.failure else outcome.median
            ours.setdefault(dtypes[outcome.contender], median)

    def ratio(outcome: Outcome) -> str:
        dtype = dtypes[outcome.contender]
        median = ours.get(dtype, ours.get("float32", math.nan))
        return "" if math.isnan(median) else f"{median / outcome.median:.2f}"

    rows = []
    for outcome in outcomes:
        if outcome.failure:
            rows.append([outcome.contender, outcome.failure, "", "", "", "", ""])
            continue
        rows.append(
            [
                outcome.contender,
                f"{outcome.median:.4g}",
                f"{min(outcome.seconds):.4g} to {max(outcome.seconds):.4g}",
                ratio(outcome),
                last(outcome),
                f"{outcome.peak / 1e9:.2f}" if outcome.peak else "",
                f"{outcome.first:.1f}",
            ]
        )
    rate = "GFLOP/s" if work.kind == "matmul" else "share of matmul peak"
    head = ["", "median s", "range", "ours / this", rate, "peak GB", "first call s"]
    return f"## {work}\n\n{table(head, rows)}\n"
