"""The suites `cpu` and `gpu`: time and memory of this package and of its peers."""

import math
import os
from collections.abc import Callable, Generator, Iterable

from benchmarks.limit import Limit
from benchmarks.schedule import Schedule
from benchmarks.tables import table
from benchmarks.work import (
    CPU_CONTENDERS,
    CPU_WORK,
    GPU_CONTENDERS,
    GPU_WORK,
    NEEDS_GPU,
    PRESETS,
    Work,
)
from benchmarks.workers import Outcome, measure
from mprnet_jax.model.cost import forward_flops

WORK = {"cpu": CPU_WORK, "gpu": GPU_WORK}
ENVIRONMENT = {
    "cpu": {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    # Without preallocation the memory in use is the memory needed. JAX's default limit is 75 %.
    "gpu": {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_CLIENT_MEM_FRACTION": ".95",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "",  # the old name, which JAX refuses beside the new one
        "TORCHINDUCTOR_COMPILE_THREADS": "4",  # per process; several compile at a time
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
    """Yields the sections of the report; returns the work that is missing.

    Args:
        suite: "cpu" or "gpu".
        works: to measure, the most important first.
        skip: leaves out contenders with this in their name.
        rounds: measurements of each contender.
        smoke: measures tiny sizes on any device.
        limit: of time, for suite "gpu".
        peaks: FLOP/s of the fastest matrix product by dtype; updated here.
    """
    contenders = CPU_CONTENDERS if suite == "cpu" else GPU_CONTENDERS
    contenders = [contender for contender in contenders if skip not in contender.name]
    environment = ENVIRONMENT[suite]
    if smoke:
        works = dict.fromkeys(work.tiny() for work in works)
    elif suite == "gpu":
        environment = environment | {NEEDS_GPU: "1"}
    if suite == "gpu":
        # Autotuning is most reliable alone on a device; side by side only if time is limited.
        at_once = 1 if math.isinf(limit.left()) else os.cpu_count()
        measured = Schedule(works, contenders, rounds, environment, limit, at_once).run()
    else:
        measured = ((work, measure(work, contenders, rounds, environment)) for work in works)
    dtypes = {contender.name: contender.dtype for contender in contenders}
    missing = []
    for work, outcomes in measured:
        if all(outcome.failure == limit.message for outcome in outcomes):
            missing.append(work)
        elif work.kind == "matmul":
            peaks |= matmul_peaks(work, dtypes, outcomes)
            yield section(work, outcomes, dtypes, matmul_rate(work))
        else:
            yield section(work, outcomes, dtypes, share_of_peak(work, dtypes, peaks))
    return missing


def matmul_rate(work: Work) -> Callable[[Outcome], str]:
    """Returns a function that formats a contender's GFLOP/s."""
    return lambda outcome: f"{2 * work.height**3 / outcome.median / 1e9:.0f}"


def matmul_peaks(
    work: Work, dtypes: dict[str, str], outcomes: Iterable[Outcome]
) -> dict[str, float]:
    """Returns the FLOP/s of the fastest matrix product by dtype."""
    peaks = {}
    for outcome in outcomes:
        if not outcome.failure:
            dtype = dtypes[outcome.contender]
            peaks[dtype] = max(peaks.get(dtype, 0), 2 * work.height**3 / outcome.median)
    return peaks


def share_of_peak(
    work: Work, dtypes: dict[str, str], peaks: dict[str, float]
) -> Callable[[Outcome], str]:
    """Returns a function that formats the share of the peak that a contender reaches.

    The arithmetic is that of `forward_flops`; a training step counts as three forward passes.
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
    """Returns a heading and a table. Ratios are to this package at the same dtype."""
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
