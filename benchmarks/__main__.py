"""Measures speed and memory, ours beside its peers, and writes one report.

    python -m benchmarks --suite cpu --output cpu.md
    python -m benchmarks --suite gpu --output gpu.md
    python -m benchmarks --suite compile --output compile.md [--h100 DESCRIPTION]

Contenders take turns (A B A B), each in a process of its own; medians count. Peers that are not
installed are told in the tables. `--smoke` tries the suite on tiny sizes: its figures mean nothing.
`compile` needs no accelerator: it compiles for TPUs (pip install '.[compile]', Python 3.12 or
newer) and, with XLA's description of the device in a file (h100_sxm.txtpb), for an H100. All its
cases take a day on two cores; --only 'H100, training step, derain' takes some.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

SUITES = ("cpu", "gpu", "compile")


def refuse(message: str) -> None:
    """Ends with status 2, as the package's commands do for a mistake."""
    print(f"benchmarks: {message}", file=sys.stderr)
    sys.exit(2)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the report, in Markdown")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="do what has one of these in its name"
    )
    parser.add_argument("--skip", default="no one", help="leave out who has this in the name")
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each; an even number on GPUs"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--h100", type=Path, help="XLA's description of an H100, for compile")
    arguments = parser.parse_args()
    if arguments.output.exists():
        refuse(f"--output={arguments.output}: exists; choose another name, or remove it")
    if not arguments.output.absolute().parent.is_dir():
        refuse(f"--output={arguments.output}: there is no such folder; make it first")
    if arguments.h100 and not arguments.h100.is_file():
        refuse(f"--h100={arguments.h100}: there is no such file")
    return arguments


def command(arguments: list[str]) -> str:
    """The command in one line; of paths, which mean nothing on another machine, the last part."""
    return shlex.join(["python", "-m", "benchmarks", *(a.split("/")[-1] for a in arguments)])


def main() -> None:
    """Runs a suite; the report grows while it runs."""
    arguments = parse()
    if arguments.suite == "gpu":
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process only looks
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask about
    import jax

    from benchmarks import ahead, speed, startup
    from benchmarks.tables import heading

    suite, smoke = arguments.suite, arguments.smoke

    def wanted(name: object) -> bool:
        return any(part in str(name) for part in arguments.only)

    rounds = 1 if smoke else arguments.rounds
    if suite == "gpu" and not smoke and jax.default_backend() == "cpu":
        refuse("--suite gpu: jax finds no GPU here; --smoke tries the suite on CPUs")
    cases = ahead.cases() if suite == "compile" else [*speed.WORK[suite], "startup"]
    for part in arguments.only:
        if not any(part in str(case) for case in cases):
            refuse(f"--only {part!r}: is in none of the names {'; '.join(map(str, cases))}")

    with arguments.output.open("w") as report:

        def write(text: str) -> None:
            print(text, flush=True)
            print(text, file=report, flush=True)

        write(heading(f"Suite {suite}", command(sys.argv[1:])))
        if smoke:
            write("A trial on tiny sizes: these figures mean nothing.\n")
            if suite == "gpu" and jax.default_backend() == "cpu":
                write("There was no GPU: its figures are missing.\n")
        if suite == "compile":
            sections = ahead.run(wanted, arguments.h100, smoke)
        else:
            sections = speed.run(suite, wanted, arguments.skip, rounds, smoke)
        for section in sections:
            write(section)
        if suite != "compile" and not smoke and wanted("startup"):
            write(startup.section(rounds))


if __name__ == "__main__":
    main()
