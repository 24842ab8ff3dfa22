"""Measures speed and memory of this package beside its peers, and writes one report.

    python -m benchmarks --suite cpu --output cpu.md
    python -m benchmarks --suite gpu --minutes 9 --output gpu.md
    python -m benchmarks --suite compile --output compile.md [--h100 DESCRIPTION]

Contenders are measured in alternation (A B A B), each in a process of its own; the tables show
medians and say which peers are not installed. `--smoke` tries the suite on tiny sizes: its figures
mean nothing.
`gpu` begins with the most important work. With `--minutes` it ends in time and says what is
missing; programs are then compiled side by side, but measured alone.
`compile` needs no accelerator: it compiles for TPUs (pip install '.[compile]', Python 3.12 or
newer) and, given XLA's description of the device in a file (h100_sxm.txtpb), for an H100. All of
its cases take a day on two cores; choose some with --only, as in
--only 'H100, training step, derain'.
"""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from benchmarks.limit import Limit

SUITES = ("cpu", "gpu", "compile")
EARLY = 0.6  # share of the time for the most important work, before commands are timed
SIDE_BY_SIDE = (
    "Programs were compiled side by side, which makes first calls longer and may mislead the "
    "autotuning of kernels; rounds were timed alone.\n"
)


def refuse(message: str) -> None:
    """Prints an error and exits with status 2, as the package's commands do."""
    print(f"benchmarks: {message}", file=sys.stderr)
    sys.exit(2)


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the report, in Markdown")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="only what has one of these in its name"
    )
    parser.add_argument("--skip", default="no one", help="leave out contenders named so")
    parser.add_argument(
        "--rounds", type=int, default=5, help="measurements of each; an even number on GPUs"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="when gpu ends; by default when all is done"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--h100", type=Path, help="XLA's description of an H100, for compile")
    arguments = parser.parse_args()
    if arguments.suite != "gpu" and arguments.minutes < math.inf:
        refuse("--minutes: only for --suite gpu; for other suites choose some work with --only")
    if arguments.output.exists():
        refuse(f"--output={arguments.output}: exists; choose another name, or remove it")
    if not arguments.output.absolute().parent.is_dir():
        refuse(f"--output={arguments.output}: there is no such folder; make it first")
    if arguments.h100 and not arguments.h100.is_file():
        refuse(f"--h100={arguments.h100}: there is no such file")
    return arguments


def command(arguments: list[str]) -> str:
    """Returns the command in one line, with the last part of each path."""
    return shlex.join(["python", "-m", "benchmarks", *(a.split("/")[-1] for a in arguments)])


def works_of(suite: str) -> list:
    """Returns all that a suite measures and --only chooses from."""
    from benchmarks import aot, first, speed

    if suite == "compile":
        return aot.cases()
    starts = first.STARTS if suite == "gpu" else [first.TRAINING]
    return [*speed.WORK[suite], *starts]


def sections(
    arguments: argparse.Namespace, wanted: Callable, environment: dict[str, str], limit: Limit
) -> Iterator[str]:
    """Yields the sections of the report, each as soon as it is measured."""
    from benchmarks import aot, first, speed
    from benchmarks.work import GPU_FIRST, NEEDS_GPU

    suite, smoke, rounds = arguments.suite, arguments.smoke, arguments.rounds
    if suite == "compile":
        yield from aot.run(wanted, arguments.h100, smoke)
        return
    # Everything else is compared with the matrix product.
    works = [work for work in speed.WORK[suite] if work.kind == "matmul" or wanted(work)]
    starts = [start for start in works_of(suite) if start in first.STARTS and wanted(start)]
    early = [work for work in works if suite == "cpu" or work in GPU_FIRST]
    late = [work for work in works if work not in early]
    if not smoke and suite == "gpu":
        environment = environment | {NEEDS_GPU: "1"}

    peaks: dict[str, float] = {}

    def speeds(works: list, limit: Limit) -> Generator[str, None, list]:
        return speed.run(suite, works, arguments.skip, rounds, smoke, limit, peaks)

    missing = []
    if any(wanted(work) for work in works):
        missing = yield from speeds(early, limit.part(EARLY) if starts else limit)
    if starts:
        warm = rounds if suite == "cpu" else 1
        yield from first.section(starts, warm, smoke, environment, limit)
    if late or missing:
        missing = yield from speeds([*missing, *late], limit)
    if missing:
        yield f"{limit.message.capitalize()}: {'; '.join(map(str, missing))}.\n"


def main() -> None:
    """Runs a suite and writes its report while it runs."""
    arguments = parse()
    limit = Limit(arguments.minutes)
    environment = dict(os.environ)  # of the user's commands
    if arguments.suite == "gpu":
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process computes nothing
    else:
        os.environ["JAX_PLATFORMS"] = environment["JAX_PLATFORMS"] = "cpu"
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU
    import jax

    from benchmarks.tables import heading

    suite, smoke = arguments.suite, arguments.smoke

    def wanted(name: object) -> bool:
        return any(part in str(name) for part in arguments.only)

    if smoke:
        arguments.rounds = 1
    if suite == "gpu" and not smoke and jax.default_backend() == "cpu":
        refuse("--suite gpu: jax finds no GPU here; --smoke tries the suite on CPUs")
    works = works_of(suite)
    for part in arguments.only:
        if not any(part in str(work) for work in works):
            refuse(f"--only {part!r}: is in none of the names {'; '.join(map(str, works))}")

    with arguments.output.open("w") as report:

        def write(text: str) -> None:
            print(text, flush=True)
            print(text, file=report, flush=True)

        write(heading(f"Suite {suite}", command(sys.argv[1:])))
        if smoke:
            write("A trial on tiny sizes: these figures mean nothing.\n")
            if suite == "gpu" and jax.default_backend() == "cpu":
                write("There was no GPU: its figures are missing.\n")
        if arguments.minutes < math.inf:
            write(SIDE_BY_SIDE)
        for section in sections(arguments, wanted, environment, limit):
            write(section)


if __name__ == "__main__":
    main()
