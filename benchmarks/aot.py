"""The suite `compile`: compiles training and validation steps and the forward for other devices.

XLA compiles ahead of time for a described device, on any machine. Memory, collectives and, on TPUs,
estimated cycles are those of the real program. Cycles compare variants; they are not a time.
Seconds are CPU time, which other programs on the machine affect least.
"""

import collections
import dataclasses
import functools
import re
import resource
import runpy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks.tables import line, table
from benchmarks.work import TINY
from mprnet_jax.config import REMATS, TrainConfig
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.devices.compiling import compiler_options, options_for
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.build import (
    build_apply,
    build_train_step,
    build_validation_step,
    replicated_abstract,
)

CONFIGS = Path(__file__).parents[1] / "configs"

# There is no GPU for autotuning.
H100_OPTIONS = {"xla_gpu_autotune_level": "0"}

# Fusions that overlap computation and collectives have meaningless estimates, so they are off. All
# other options are those of a run.
TPU_OPTIONS = {"xla_tpu_enable_async_collective_fusion_fuse_all_gather": "false"}

FIGURES = ("GB a chip", "M cycles", "collectives")
FIGURES += ("lowered lines", "tracing CPU s", "HLO lines", "compile CPU s")
HEAD = ("preset", "mesh", "batch", "size", "dtype", "remat", "parts", *FIGURES)
SECTIONS = {"train": "training step", "validate": "validation step", "forward": "forward"}
NO_ESTIMATE = 2**62  # cycles
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


@dataclass(frozen=True)
class Case:
    """A program to compile."""

    target: str  # a TPU topology, "H100" or "CPU"
    preset: str
    kind: str = "train"  # or "validate", "forward"
    mesh: tuple[int, int] = (1, 1)  # data x height
    batch: int = 16
    size: tuple[int, int] = (256, 256)
    remat: str = "none"
    dtype: str = "bfloat16"
    accumulate: int = 1

    @property
    def section(self) -> str:
        """Heading of its table."""
        return f"{self.target}, {SECTIONS[self.kind]}"

    def __str__(self) -> str:
        mesh, size = ("x".join(map(str, pair)) for pair in (self.mesh, self.size))
        sizes = f"{self.preset}, {mesh}, batch {self.batch}, {size}"
        return f"{self.section}, {sizes}, {self.dtype}, {self.remat}, parts {self.accumulate}"


def sample_cases(target: str) -> list[Case]:
    """Returns the programs of the sample config on one device."""
    return [
        Case(target, "sample", batch=8, size=(64, 64), dtype="float32"),
        Case(target, "sample", "validate", batch=2, size=(296, 296), dtype="float32"),
    ]


def tpu_cases(generation: str) -> list[Case]:
    """Returns the cases for one generation of TPUs."""
    slice4, slice16 = f"{generation}:2x2", f"{generation}:4x4"
    four, sixteen, bands = {"mesh": (4, 1)}, {"mesh": (16, 1)}, {"mesh": (8, 2)}
    photo = {"kind": "forward", "size": (720, 1280)}
    return [
        *sample_cases(slice4),
        Case(slice4, "derain", **four),
        Case(slice4, "derain", **four, remat="elementwise"),
        Case(slice4, "derain", **four, remat="cab"),
        Case(slice4, "denoise", **four, size=(128, 128)),
        Case(slice4, "denoise", **four),
        Case(slice4, "denoise", **four, remat="cab"),
        Case(slice4, "deblur", **four),
        Case(slice4, "deblur", **four, remat="cab"),
        Case(slice4, "deblur", **four, remat="orb"),
        Case(slice4, "derain", **four, remat="cab", batch=64),
        Case(slice4, "derain", **photo, **four, batch=4),
        Case(slice4, "deblur", **photo, **four, batch=4),
        Case(slice4, "derain", **photo, mesh=(1, 4), batch=1),
        Case(slice16, "derain", **sixteen),
        Case(slice16, "derain", **bands),
        Case(slice16, "derain", **bands, batch=8),
        Case(slice16, "denoise", **sixteen),
        Case(slice16, "deblur", **sixteen),
        Case(slice16, "deblur", **sixteen, remat="cab", batch=64),
    ]


def cases() -> list[Case]:
    """Returns all cases."""
    presets = ("derain", "denoise", "deblur")
    photo = {"kind": "forward", "size": (720, 1280), "batch": 1}
    return [
        *sample_cases("CPU"),
        *sample_cases("H100"),
        Case("CPU", "derain", dtype="float32"),  # XLA's CPU compiler undoes rematerialisation
        *(Case("H100", preset, remat=remat) for preset in presets for remat in REMATS),
        Case("H100", "denoise", size=(128, 128)),
        *(Case("H100", "derain", accumulate=parts) for parts in (2, 4, 16)),
        *(Case("H100", preset, dtype="float32") for preset in presets),
        *(Case("H100", preset, batch=64, remat="cab") for preset in presets),
        *(Case("H100", preset, **photo) for preset in presets),
        *tpu_cases("v5e"),
        *tpu_cases("v6e"),
    ]


def run(wanted: Callable[[Case], bool], h100: Path | None, smoke: bool) -> Iterable[str]:
    """Yields the report line by line: a table for each kind of device and program."""
    chosen = [case for case in cases() if wanted(case)]
    if smoke:
        chosen = [Case("CPU", "tiny", kind, size=(32, 32)) for kind in ("train", "forward")]
    section = ""
    for case in chosen:
        if case.section != section:
            section = case.section
            yield f"\n## {section}\n\n{table(HEAD, [])}"
        yield line(row(case, h100))


def row(case: Case, h100: Path | None) -> list[str]:
    """Returns the case's row of the table."""
    return [
        case.preset,
        "x".join(map(str, case.mesh)),
        str(case.batch),
        "x".join(map(str, case.size)),
        case.dtype,
        case.remat,
        str(case.accumulate),
        *compiled_figures(case, h100),
    ]


def cpu_seconds() -> float:
    """Returns the CPU time of this process and its children, such as a GPU's assembler."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def compiled_figures(case: Case, h100: Path | None) -> list[str]:
    """Returns the case's `FIGURES`, or why there are none."""
    nothing = [""] * (len(FIGURES) - 1)
    try:
        mesh = described_mesh(case, h100)
    except Exception as error:  # each missing plugin raises something else
        return [short(error), *nothing]
    start = cpu_seconds()
    try:
        traced = lowered(case, mesh)
        tracing, start = cpu_seconds() - start, cpu_seconds()
        program = traced.compile(options(mesh.devices.flat[0].device_kind))
        compiling = cpu_seconds() - start
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"([\d.]+)G\)? (?:of|exceeds available HBM) \(?([\d.]+)G", str(error))
        return [f"{used[1]} GiB of {used[2]}: too much" if used else short(error), *nothing]
    stats = program.memory_analysis()
    memory = stats.temp_size_in_bytes + stats.argument_size_in_bytes
    memory += stats.output_size_in_bytes - stats.alias_size_in_bytes
    text = program.as_text()
    return [
        f"{memory / 1e9:.2f}",
        cycles(text),
        exchanges(text),
        str(traced.as_text().count("\n")),
        f"{tracing:.1f}",
        str(text.count("\n")),
        f"{compiling:.1f}",
    ]


def options(kind: str) -> dict[str, str]:
    """Returns the compiler options of a run for a kind of device that is only described."""
    if kind == "cpu":
        return compiler_options()
    return options_for(kind) | (TPU_OPTIONS if kind.startswith("TPU") else H100_OPTIONS)


def short(error: Exception) -> str:
    """Returns an error as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:100]


def cycles(text: str) -> str:
    """Returns the estimated cycles of a compiled program, in millions.

    Only a TPU's compiler estimates them. Operations without an estimate have the largest integer.
    """
    estimates = [int(each) for each in re.findall(r'"estimated_cycles":"(\d+)"', text)]
    known = [each for each in estimates if each < NO_ESTIMATE]
    lacking = len(estimates) - len(known)
    parts = [f"{sum(known) / 1e6:.0f}"] if known else []
    return ", ".join(parts + [f"{lacking} without"] * bool(lacking))


def exchanges(text: str) -> str:
    """Counts each kind of collective in a compiled program."""
    counts = collections.Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", text))
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


@functools.cache
def described_devices(target: str, h100: Path | None) -> list:
    """Returns the devices to compile for."""
    if target == "CPU":
        return jax.devices("cpu")
    if target == "H100":
        if h100 is None:
            raise FileNotFoundError("--h100 gives no description of the device")
        description = topologies.get_topology_desc(
            "h100", platform="cuda", target_config=h100.read_text(), topology="1x1x1"
        )
    else:
        description = topologies.get_topology_desc(target, platform="tpu")
    return description.devices


def described_mesh(case: Case, h100: Path | None) -> Mesh:
    """Returns a mesh of described devices."""
    devices = described_devices(case.target, h100)
    data, height = case.mesh
    return Mesh(
        np.array(devices[: data * height]).reshape(data, height),
        ("data", "height"),
        axis_types=(AxisType.Auto,) * 2,
    )


def recipe_of(preset: str) -> TrainConfig:
    """Returns the config that trains the preset."""
    name, variant = ("derain", "sample") if preset in ("sample", "tiny") else (preset, "")
    recipe = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variant)
    return dataclasses.replace(recipe, model=TINY) if preset == "tiny" else recipe


def lowered(case: Case, mesh: Mesh) -> jax.stages.Lowered:
    """Lowers the case's program for the mesh's devices."""
    recipe = recipe_of(case.preset)
    model = dataclasses.replace(recipe.model, dtype=case.dtype, remat=case.remat)
    recipe = dataclasses.replace(recipe, model=model, accumulate=case.accumulate)
    init, _ = pure_functions(model)
    params = init(0)
    shapes = replicated_abstract(params, mesh)

    def images(dtype: Any) -> jax.ShapeDtypeStruct:
        shape = (case.batch, *case.size, 3)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=meshes.image_sharding(mesh))

    if case.kind == "forward":
        apply = build_apply(model, mesh)
        forward = jax.jit(apply, out_shardings=meshes.image_sharding(mesh))
        return forward.lower(shapes, images(jnp.float32))
    batch = {"degraded": images(jnp.uint8), "target": images(jnp.uint8)}
    if case.kind == "validate":
        return build_validation_step(recipe, mesh, jax.jit).lower(shapes, batch)
    init_state, step = build_train_step(recipe, mesh, params, jax.jit)
    batch["unreadable"] = jax.ShapeDtypeStruct(
        (case.batch,), bool, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    state = replicated_abstract(jax.eval_shape(init_state), mesh)
    return step.lower(state, batch)
