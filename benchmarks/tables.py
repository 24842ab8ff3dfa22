"""Tables in Markdown, and the description of the machine in a report.

Not by a library: GPU machines often have none, and rows are written while they are measured.
"""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
EXTRAS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "triton", "onnxruntime", "openvino")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    return "\n".join(line(cells) for cells in (head, ["---"] * len(head), *rows))


def line(cells: Sequence[str]) -> str:
    """Returns a line of a table."""
    return f"| {' | '.join(cells)} |"


def heading(title: str, command: str) -> str:
    """Returns title, command, date, machine and versions."""
    day = datetime.datetime.now(datetime.UTC).date()
    return f"# {title}\n\n`{command}`, {day}, on {device()}.\n\n{versions()}.\n"


def device() -> str:
    """Describes the processor or accelerator that JAX uses."""
    import jax

    first = jax.devices()[0]
    if first.platform != "cpu":
        return f"{jax.device_count()} x {first.device_kind}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {models[0] if models else platform.machine()}"


def versions() -> str:
    """Returns the versions of Python and of each package, and XLA's flags."""
    found = [f"Python {platform.python_version()}"]
    for package in (*PACKAGES, *EXTRAS):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            if package in PACKAGES:
                found.append(f"no {package}")
    if options := os.environ.get("XLA_FLAGS"):
        found.append(f"XLA_FLAGS={options}")
    return ", ".join(found)
