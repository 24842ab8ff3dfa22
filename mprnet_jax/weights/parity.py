"""Compares our network with MPRNet in PyTorch: the same weights on the same images.

Both run in float32, ours with the highest matmul precision. Images are [B, H, W, 3] in [0, 1]. The
comparison covers each stage's image and, to locate a difference, each block's features, in the
order of the computation and by official name.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import records
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import with_params
from mprnet_jax.model.stages import stages_of
from mprnet_jax.weights import files, torch_reference
from mprnet_jax.weights.names import Params

__all__ = ["Difference", "Report", "compare"]

TINY = float(np.finfo(np.float32).tiny)  # avoids division by 0 for features that are all 0
SIZES = ((2, 64, 96), (1, 136, 200))  # batch, height, width of the images to compare on

# Largest difference of a stage's image, whose range is 1: a 40th of a grey level of 255. Float32
# rounding gives 1e-6 to 1e-5, growing with the features; most wrong tensors give 1e-2.
STAGE_TOLERANCE = 1e-4
# Largest difference of a block's features, as a share of their largest value. Rounding gives 1e-6.
# It also shows wrong tensors that hardly change the stages' images.
BLOCK_TOLERANCE = 1e-5


class Difference(NamedTuple):
    """How far our output of one stage or block is from PyTorch's."""

    name: str
    max_abs: float
    mean_abs: float
    psnr: float  # dB, for a peak of 1
    largest: float  # magnitude in PyTorch's output

    @classmethod
    def between(cls, name: str, ours: np.ndarray, theirs: np.ndarray) -> "Difference":
        """Returns the difference of two arrays of the same shape, computed in float64."""
        distance = np.abs(ours.astype(np.float64) - theirs)
        squared = float(np.mean(distance**2))
        psnr = -10 * math.log10(squared) if squared else math.inf
        largest = float(np.abs(theirs).max())
        return cls(name, float(distance.max()), float(distance.mean()), psnr, largest)

    @property
    def relative(self) -> float:
        """The largest difference as a share of the largest value."""
        return self.max_abs / max(self.largest, TINY)


class Block(NamedTuple):
    """Our module and the official module that computes the same."""

    ours: str
    theirs: str
    output: int | None = None  # index of the output, None if it has one

    @property
    def name(self) -> str:
        """The official module, with the index of the output if it has several."""
        return self.theirs if self.output is None else f"{self.theirs}[{self.output}]"


class Report(NamedTuple):
    """How far a network's stages and blocks are from PyTorch's; `str` returns a table."""

    stages: list[Difference]
    blocks: list[Difference]
    reference: str | None

    def __str__(self) -> str:
        import torch

        worst = max(self.blocks, key=lambda block: block.relative)
        return "\n".join(
            [
                f"jax {jax.__version__}, {jax.default_backend()}; torch {torch.__version__}, cpu",
                f"Stages, against {self.reference or 'the PyTorch network in this package'}",
                table(self.stages),
                f"{len(self.blocks)} blocks, against the PyTorch network in this package: at most "
                f"{worst.relative:.1e} of the largest value ({worst.name}), "
                f"tolerance {BLOCK_TOLERANCE:.1e}",
            ]
        )

    def check_agreement(self) -> None:
        """Raises UserError, naming the block or stage, if any differs by more than rounding."""
        block = first_mismatch(self.blocks)
        if block:
            raise UserError(
                f"{block.name}: is the first block that differs from PyTorch's, by "
                f"{block.relative:.1e} of its largest value"
            )
        for stage in self.stages:
            if not stage.max_abs <= STAGE_TOLERANCE:
                raise UserError(
                    f"{stage.name}: differs from PyTorch's by {stage.max_abs:.1e}, though all "
                    "blocks agree with the PyTorch network in this package"
                )


def table(stages: list[Difference]) -> str:
    """Returns a table of the differences of stages, with their tolerance."""
    names = max(len(stage.name) for stage in stages) + 2
    rows = [f"{d.name:{names}}{d.max_abs:10.1e}{d.mean_abs:10.1e}{d.psnr:7.1f} dB" for d in stages]
    header = f"{'':{names}}{'max abs':>10}{'mean abs':>10}{'PSNR':>10}"
    return "\n".join([header, *rows, f"{'tolerance':{names}}{STAGE_TOLERANCE:10.1e}"])


def compare(
    weights: files.WeightFile, official: Mapping[str, np.ndarray], reference: str | None = None
) -> Report:
    """Compares the network of a weight file with PyTorch's on noise.

    Stages are compared for images of all `SIZES`, blocks for the first of them.

    Args:
        weights: our network.
        official: the weights in the file by official name, for PyTorch.
        reference: path of a Python file with another network to compare the stages with; see
            `torch_reference.with_weights`. Blocks are compared with the PyTorch network in this
            package in any case.

    Raises:
        UserError: if PyTorch is missing, the reference fails, or its images are not as many and
            of the same size as ours.
    """
    names = [block.ours for block in blocks(weights.config)]
    model = torch_reference.with_weights(weights.config, official)
    # One program for both sizes and for stages and blocks: compiling takes most of the time.
    batch, height, width = map(max, zip(*SIZES))
    canvas = (batch, height, width)
    with records.announced(f"the network of {weights.config.width} channels, for validation"):
        ours = [
            run_ours(weights.config, weights.params, noise(size), names, canvas) for size in SIZES
        ]
    block_differences = compare_blocks(weights.config, ours[0][1], model, noise(SIZES[0]))
    if reference is not None:
        model = torch_reference.with_weights(weights.config, official, reference)
    stage_differences = [
        stage._replace(name=f"noise {'x'.join(map(str, size))}, {stage.name}")
        for size, (stages, _) in zip(SIZES, ours)
        for stage in compare_stages(stages, model, noise(size))
    ]
    return Report(stage_differences, block_differences, reference)


def noise(size: tuple[int, int, int]) -> np.ndarray:
    """Returns images of uniform noise, the same at every call."""
    return np.random.default_rng(0).random((*size, 3), np.float32)


def compare_stages(ours: list[np.ndarray], model: Any, images: np.ndarray) -> list[Difference]:
    """Compares stages' images of `run_ours` with those of PyTorch's `model`, stage 1 first."""
    theirs, _ = run_theirs(model, images, [])
    expected, found = ([stage.shape for stage in stages] for stages in (ours, theirs))
    if found != expected:
        raise UserError(
            f"the reference network returns images of shapes {found} in place of {expected}: use "
            "one that returns one image for each stage, the last stage first"
        )
    return [
        Difference.between(f"stage {number}", *pair)
        for number, pair in enumerate(zip(ours[::-1], theirs[::-1], strict=True), 1)
    ]


def compare_blocks(
    config: ModelConfig, ours: dict[str, Any], model: Any, images: np.ndarray
) -> list[Difference]:
    """Compares all blocks of `run_ours` with PyTorch's, in the order of the computation.

    `model` must be the PyTorch network in this package, since the order of its patches matters.
    Sums of outputs of blocks are compared as part of the block that takes them as its input.
    """
    compared = list(blocks(config))
    _, theirs = run_theirs(model, images, [block.theirs for block in compared])

    def of(block: Block, output: Any) -> np.ndarray:
        return output if block.output is None else output[block.output]

    return [
        Difference.between(block.name, of(block, ours[block.ours]), of(block, theirs[block.theirs]))
        for block in compared
    ]


def first_mismatch(differences: list[Difference]) -> Difference | None:
    """Returns the first block that differs by more than rounding; None if none does."""
    return next((d for d in differences if not d.relative <= BLOCK_TOLERANCE), None)


def run_ours(
    config: ModelConfig,
    params: Params,
    images: np.ndarray,
    wanted: list[str],
    canvas: tuple[int, int, int] | None = None,
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Runs our network.

    Args:
        config: the network's sizes; `dtype` is ignored, float32 is used.
        params: its parameters.
        images: [B, H, W, 3].
        wanted: paths of modules.
        canvas: batch, height and width of the arrays that the images are padded to with zeros, so
            that all images that fit use one program. None: no padding.

    Returns:
        The stages' images, the last first, and the outputs of the wanted modules by path.
    """
    count, height, width = images.shape[:3]
    batch, *whole = canvas or (count, height, width)
    arrays = np.zeros((batch, *whole, 3), np.float32)
    arrays[:count, :height, :width] = images
    sizes = np.array([(height, width)] * batch, np.int32) if canvas else None

    def crop(maps: jax.Array) -> np.ndarray:
        # The images take the same share of all maps: of patches, which follow each other on the
        # batch axis, and of rows and columns at any resolution.
        shares = zip(maps.shape, (count, height, width), (batch, *whole))
        return np.asarray(maps)[tuple(slice(n * part // total) for n, part, total in shares)]

    fields = dataclasses.astuple(dataclasses.replace(config, dtype="float32"))
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(crop, jit_with_outputs(fields, tuple(wanted))(params, arrays, sizes))


@functools.lru_cache(maxsize=4)
def jit_with_outputs(fields: tuple, wanted: tuple[str, ...]) -> Callable:
    """Returns a jitted function from parameters, images and sizes to what `run_ours` returns."""
    config = ModelConfig(*fields)

    @jax.jit
    def run(
        params: Params, images: jax.Array, sizes: jax.Array | None
    ) -> tuple[list[jax.Array], dict[str, Any]]:
        model = with_params(config, params)
        capture = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)
        stages, captured = capture(images, sizes=sizes)
        outputs = {
            ".".join(map(str, path[:-1])): calls.get_value()[0]
            for path, calls in nnx.to_flat_state(captured)
        }
        return stages, {name: outputs[name] for name in wanted}

    return run


def run_theirs(
    model: Any, images: np.ndarray, wanted: list[str]
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Runs PyTorch's network; returns the same as `run_ours`.

    The outputs of a module that runs once per patch are stacked on the batch axis in our order.
    """
    import torch

    calls: dict[str, list[Any]] = {name: [] for name in wanted}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, to=to: to.append(out))
        for name, to in calls.items()
    ]

    def channels_last(*patches) -> np.ndarray:
        stacked = torch.stack(patches, dim=1).flatten(0, 1)  # the patches of an image stay together
        return stacked.permute(0, 2, 3, 1).numpy()

    with torch.inference_mode():
        stages = model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    for hook in hooks:
        hook.remove()
    outputs = {name: jax.tree.map(channels_last, *patches) for name, patches in calls.items()}
    return [channels_last(stage) for stage in stages], outputs


def blocks(config: ModelConfig) -> Iterator[Block]:
    """Yields the blocks to compare, in the order of the computation."""

    def cabs(ours: str, theirs: str, count: int = 2):
        for i in range(count):
            yield Block(f"{ours}.cabs.{i}", f"{theirs}.{i}")

    def encoder(ours: str, theirs: str):
        for level in (1, 2, 3):
            if level > 1:
                yield Block(f"{ours}.down{level - 1}{level}", f"{theirs}.down{level - 1}{level}")
            yield from cabs(f"{ours}.level{level}", f"{theirs}.encoder_level{level}")
            yield Block(ours, theirs, level - 1)

    def decoder(ours: str, theirs: str):
        for level in (3, 2, 1):
            if level < 3:
                yield Block(f"{ours}.up{level + 1}{level}", f"{theirs}.up{level + 1}{level}")
                yield Block(f"{ours}.skip{level}", f"{theirs}.skip_attn{level}")
            yield from cabs(f"{ours}.level{level}", f"{theirs}.decoder_level{level}")
            yield Block(ours, theirs, level - 1)

    def orsnet(ours: str, theirs: str):
        for i in range(3):
            ours_orb, theirs_orb = f"{ours}.orbs.{i}", f"{theirs}.orb{i + 1}"
            yield from cabs(f"{ours_orb}.body", f"{theirs_orb}.body", config.cabs_per_orb)
            yield Block(ours_orb, theirs_orb)
        yield Block(ours, theirs, 2)

    for stage in stages_of(config):
        i = stage.number
        yield Block(f"{stage.shallow}.conv", f"shallow_feat{i}.0")
        yield Block(f"{stage.shallow}.cab", f"shallow_feat{i}.1")
        if stage.concat:
            yield Block(stage.concat, stage.concat)
        if stage.subnet == "unet":
            yield from encoder(stage.encoder, f"stage{i}_encoder")
            yield from decoder(stage.decoder, f"stage{i}_decoder")
        else:
            yield from orsnet(stage.orsnet, f"stage{i}_orsnet")
        if stage.is_last:
            yield Block(stage.head, stage.head)
        else:
            yield from (Block(stage.head, stage.head, 1), Block(stage.head, stage.head, 0))
