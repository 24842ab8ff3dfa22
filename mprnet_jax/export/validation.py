"""Compares exported networks with ours: the same weights on the same images."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from mprnet_jax.config import SIZE_MULTIPLE
from mprnet_jax.devices import records
from mprnet_jax.errors import UserError
from mprnet_jax.export import runtimes
from mprnet_jax.weights import parity
from mprnet_jax.weights.files import WeightFile
from mprnet_jax.weights.parity import Difference

# Batch, height, width of the images to compare on; the last ones are padded by the network.
SIZES = ((2, 64, 96), (1, 136, 200), (1, 256, 256), (1, 33, 50))
CANVAS = (2, 256, 256)  # the largest of them; ours needs one program only

Run = Callable[[np.ndarray], list[np.ndarray]]  # as in `runtimes.Runtime`


class Report(NamedTuple):
    """How far an exported network's stages are from ours; `str` returns a table."""

    stages: list[Difference]
    programs: list[str]  # that ran it

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{', '.join(self.programs)}; against jax {jax.__version__}, "
                f"{jax.default_backend()}",
                parity.table(self.stages),
            ]
        )

    def check_agreement(self) -> None:
        """Raises UserError if anything differs by more than rounding."""
        for stage in self.stages:
            if not stage.max_abs <= parity.STAGE_TOLERANCE:
                raise UserError(f"{stage.name}: differs from ours by {stage.max_abs:.1e}")


def compare(extension: str, content: bytes, weights: WeightFile, stages: int | None) -> Report:
    """Compares an exported network with ours, on noise of several sizes.

    An .onnx file is run by all runtimes that are installed, and its stages are compared one by one;
    a .stablehlo file is run by JAX, and has the last computed stage only.

    Args:
        extension: of the file.
        content: of the file.
        weights: the network that it was made from.
        stages: number of stages that it computes; None: all.

    Raises:
        UserError: if there is no runtime that could run it, or the network has fewer stages.
    """
    count = weights.config.computed_stages(stages)
    programs = dict(load(extension, content, count))
    found = []
    for size in SIZES:
        images = parity.noise(size)
        ours = run_ours(weights, images)[:count]
        for program, run in programs.items():
            results = run(images)
            numbers = range(count - len(results) + 1, count + 1)
            for number, theirs in zip(numbers, results, strict=True):
                name = f"{program} {'x'.join(map(str, size))}, stage {number}"
                found.append(Difference.between(name, theirs, ours[number - 1]))
    return Report(found, list(programs))


def load(extension: str, content: bytes, count: int) -> Iterator[tuple[str, Run]]:
    """Yields the programs that can run a file, each by name; they return the stages in order."""
    if extension == ".stablehlo":
        function = jax.export.deserialize(bytearray(content))
        yield "jax.export", lambda images: [np.asarray(function.call(images))]
        return
    if not (found := runtimes.installed()):
        raise UserError(
            "--validate: neither ONNX Runtime nor OpenVINO is installed: "
            "pip install 'mprnet-jax[onnxruntime]'"
        )
    model = with_stage_outputs(content, count)
    for runtime in found:
        yield runtimes.describe(runtime), runtimes.load(runtime, model)


def with_stage_outputs(content: bytes, count: int) -> bytes:
    """Returns the content of an .onnx file whose outputs are the images of all its stages."""
    import onnx

    from mprnet_jax.export import graph

    model = onnx.load_from_string(content)
    graph.output_stages(model, range(1, count + 1))
    return model.SerializeToString()


def run_ours(weights: WeightFile, images: np.ndarray) -> list[np.ndarray]:
    """Returns the images of all our stages, stage 1 first, of images [N, H, W, 3] of any size."""
    height, width = images.shape[1:3]
    sides = [(0, -side % SIZE_MULTIPLE) for side in (height, width)]
    padded = np.pad(images, [(0, 0), *sides, (0, 0)], "reflect")
    with records.announced("the network to validate it"):
        computed, _ = parity.run_ours(weights.config, weights.params, padded, [], CANVAS)
    return [stage[:, :height, :width] for stage in computed[::-1]]
