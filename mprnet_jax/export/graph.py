"""Builds the network as a graph of ONNX operators.

The graph mirrors `model/mprnet.py` and `model/subnets.py`, in the layout of ONNX: feature maps are
[b, channels, h, w]. Patches follow each other on the batch axis: first the upper halves of all
images, then the lower ones.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mprnet_jax.config import SIZE_MULTIPLE, ModelConfig
from mprnet_jax.model.stages import stages_of
from mprnet_jax.weights.names import Params, by_path

BATCH, CHANNELS, ROWS, COLUMNS = range(4)  # axes
IMAGE, RESTORED = "image", "restored"  # names of the input and of the output
# Of ONNX 1.13 (2022), the first with all that is used here. Newer opsets would change nothing, and
# fewer runtimes take them: onnxruntime-web 1.30 takes opsets up to 26.
OPSET, IR_VERSION = 18, 8

Levels = tuple[str, ...]


def stage_output(number: int) -> str:
    """Returns the name of a stage's images, [N, 3, H, W], in the graph."""
    return f"stage_{number}"


def build(
    config: ModelConfig, params: Params, *, stages: int | None = None, pads: bool = True
) -> onnx.ModelProto:
    """Returns the network as an ONNX model, float32.

    Its input `image`, [N, 3, H, W] in [0, 1], may have any N, H and W, unless `pads` is False. Its
    output `restored`, of the same shape, is the image of the last computed stage, not clipped.

    Args:
        config: the network's sizes; `dtype` is ignored.
        params: its parameters.
        stages: number of stages to compute, from 1; None computes all.
        pads: whether the graph pads images to multiples of 8. If not, H and W must be such.

    Raises:
        ValueError: if all stages are computed and parameters are left that none of them uses.
    """
    graph = Graph(params)
    images = graph.pad(IMAGE) if pads else IMAGE
    computed = add_stages(graph, config, images, stages)
    if pads:
        computed = [graph.crop_as(stage, IMAGE) for stage in computed]
    for number, stage in enumerate(computed, 1):
        graph.add("Identity", stage, output=stage_output(number))
    graph.add("Identity", computed[-1], output=RESTORED)
    if len(computed) == len(config.subnets) and graph.unused:
        raise ValueError(f"{', '.join(sorted(graph.unused))}: not part of the exported graph")
    return graph.model()


def output_stages(model: onnx.ModelProto, numbers: Iterable[int]) -> None:
    """Replaces the output of a model from `build` by the images of these stages, in this order.

    Call it once, with stages that the model computes.
    """
    outputs = model.graph.output
    restored = outputs.pop()
    for number in numbers:
        restored.name = stage_output(number)
        outputs.append(restored)  # a copy


def add_stages(graph: "Graph", config: ModelConfig, images: str, stages: int | None) -> list[str]:
    """Adds the stages to a graph; returns their images, stage 1 first."""
    halves = graph.split(images, ROWS)
    patches = {1: images, 2: halves, 4: graph.split(halves, COLUMNS)}
    computed: list[str] = []
    attended = ""  # features of the stage before, for the next stage's input
    levels: tuple[Levels, ...] = ()  # features of the stage before, for CSFF
    for stage in stages_of(config)[:stages]:
        join = functools.partial(
            graph.join, num_patches=stage.num_patches, num_joined=stage.num_joined
        )
        x = shallow_features(graph, stage.shallow, patches[stage.num_patches])
        if attended:
            x = graph.conv(stage.concat, graph.add("Concat", x, attended, axis=CHANNELS))
        before = levels if stage.has_csff else ()
        if stage.subnet == "unet":
            encoded = tuple(map(join, encoder(graph, stage.encoder, x, before)))
            decoded = decoder(graph, stage.decoder, encoded)
            x, levels = decoded[0], (encoded, decoded)
        else:
            csff_from = stage.previous if stage.has_csff else ""
            refined = orsnet(graph, stage.orsnet, x, before, csff_from, config.cabs_per_orb)
            refined = tuple(map(join, refined))
            x, levels = refined[-1], (refined,)
        if stage.is_last:
            image = graph.add("Add", graph.conv(stage.head, x), images)
        else:
            degraded = patches[stage.num_joined]
            attended, image = sam(graph, stage.head, x, degraded, config.supervised_attention)
        computed.append(graph.join(image, stage.num_joined, 1))
    return computed


def shallow_features(graph: "Graph", path: str, images: str) -> str:
    """Adds a 3x3 convolution and a CAB."""
    return cab(graph, f"{path}.cab", graph.conv(f"{path}.conv", images))


def cab(graph: "Graph", path: str, x: str) -> str:
    """Adds a channel attention block."""
    # With one slope, PReLU is what ONNX calls LeakyRelu, which runtimes fuse into convolutions.
    y = graph.add("LeakyRelu", graph.conv(f"{path}.conv1", x), alpha=graph.slope)
    y = graph.conv(f"{path}.conv2", y)
    means = graph.add("GlobalAveragePool", y)
    squeezed = graph.add("Relu", graph.conv(f"{path}.attention.squeeze", means))
    factors = graph.add("Sigmoid", graph.conv(f"{path}.attention.excite", squeezed))
    return graph.add("Add", graph.add("Mul", y, factors), x)


def cabs(graph: "Graph", path: str, x: str, count: int = 2) -> str:
    """Adds a sequence of CABs."""
    for index in range(count):
        x = cab(graph, f"{path}.cabs.{index}", x)
    return x


def encoder(graph: "Graph", path: str, x: str, before: tuple[Levels, ...]) -> Levels:
    """Adds the contracting half of a U-Net, with CSFF if there are features to fuse."""
    levels = []
    for index in range(3):
        if index:
            halved = graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            x = graph.conv(f"{path}.down{index}{index + 1}.conv", halved)
        x = cabs(graph, f"{path}.level{index + 1}", x)
        if before:
            encoded, decoded = (part[index] for part in before)
            fused = graph.conv(f"{path}.csff.{index}.encoder", encoded)
            fused = graph.add("Add", fused, graph.conv(f"{path}.csff.{index}.decoder", decoded))
            x = graph.add("Add", x, fused)
        levels.append(x)
    return tuple(levels)


def decoder(graph: "Graph", path: str, encoded: Levels) -> Levels:
    """Adds the expanding half of a U-Net."""
    e1, e2, e3 = encoded
    d3 = cabs(graph, f"{path}.level3", e3)
    up = graph.upsample2x(graph.conv(f"{path}.up32.conv", d3))
    d2 = cabs(graph, f"{path}.level2", graph.add("Add", up, cab(graph, f"{path}.skip2", e2)))
    up = graph.upsample2x(graph.conv(f"{path}.up21.conv", d2))
    d1 = cabs(graph, f"{path}.level1", graph.add("Add", up, cab(graph, f"{path}.skip1", e1)))
    return d1, d2, d3


def orsnet(
    graph: "Graph", path: str, x: str, before: tuple[Levels, ...], csff_from: str, count: int
) -> Levels:
    """Adds an original-resolution subnetwork.

    Args:
        graph: the graph.
        path: of the subnetwork's parameters.
        x: its input.
        before: features of the stage before.
        csff_from: the subnetwork of that stage; "" without CSFF.
        count: CABs in each ORB.
    """

    def lift(index: int, encoded: str, decoded: str) -> str:
        """Projects the features of a level and resizes the sum, as 1x1 convolutions commute."""
        names = (*("ups.0", "ups.1")[:index], "conv")
        projected = []
        for part, level in (("encoder_lifts", encoded), ("decoder_lifts", decoded)):
            convs = (f"{path}.{part}.{index}.{name}" for name in names)
            projected.append(graph.fused_conv1x1(level, *convs))
        fused = graph.add("Add", *projected)
        for _ in range(index):
            fused = graph.upsample2x(fused)
        return fused

    features = []
    for index in range(3):
        orb = f"{path}.orbs.{index}"
        refined = graph.conv(f"{orb}.conv", cabs(graph, f"{orb}.body", x, count))
        x = graph.add("Add", refined, x)
        if csff_from == "unet":
            x = graph.add("Add", x, lift(index, *(levels[index] for levels in before)))
        if csff_from == "orsnet":
            x = graph.add("Add", x, graph.conv(f"{path}.csff.{index}", before[0][index]))
        features.append(x)
    return tuple(features)


def sam(graph: "Graph", path: str, x: str, degraded: str, attends: bool) -> tuple[str, str]:
    """Adds a supervised attention module; returns the attended features and the images."""
    restored = graph.add("Add", graph.conv(f"{path}.residual", x), degraded)
    if not attends:
        return x, restored
    gate = graph.add("Sigmoid", graph.conv(f"{path}.gate", restored))
    attended = graph.add("Mul", graph.conv(f"{path}.features", x), gate)
    return graph.add("Add", attended, x), restored


class Graph:
    """A graph to which operators are added; each method returns the name of its result."""

    def __init__(self, params: Params):
        """Begins an empty graph of a network with these parameters."""
        self._params = {path: np.asarray(array) for path, array in by_path(params).items()}
        self.unused = set(self._params)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self.slope = float(self.parameter("slope")[0])

    def model(self) -> onnx.ModelProto:
        """Returns the graph as an ONNX model."""
        shape: list[str | int | None] = ["N", 3, "H", "W"]
        values = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name in (IMAGE, RESTORED)
        ]
        graph = helper.make_graph(
            self._nodes, "MPRNet", values[:1], values[1:], list(self._constants.values())
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds an operator with one result."""
        output = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def parameter(self, path: str) -> np.ndarray:
        """Returns a parameter, and marks it as used."""
        self.unused.discard(path)
        return self._params[path]

    def constant(self, array: np.ndarray, name: str = "") -> str:
        """Adds a constant. Arrays that are added under the same name must be equal."""
        name = name or f"constant_{array.dtype}_{'_'.join(map(str, array.ravel()))}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def conv(self, path: str, x: str) -> str:
        """Adds a convolution with zero padding that keeps the size."""
        return self._conv(path, x, self.parameter(f"{path}.kernel"))

    def fused_conv1x1(self, x: str, *paths: str) -> str:
        """Adds 1x1 convolutions in sequence as a single one; only the last may have a bias."""
        kernels = [self.parameter(f"{path}.kernel").astype(np.float64) for path in paths]
        return self._conv(paths[-1], x, functools.reduce(np.matmul, kernels))

    def _conv(self, path: str, x: str, kernel: np.ndarray) -> str:
        """Adds a convolution with this kernel, [3, 3, C, D] or [C, D], and the bias of `path`."""
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        weights = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), np.float32)
        inputs = [x, self.constant(weights, f"{path}.weight")]
        if (bias := f"{path}.bias") in self._params:
            inputs.append(self.constant(self.parameter(bias), bias))
        size = len(kernel)
        return self.add("Conv", *inputs, kernel_shape=[size] * 2, pads=[size // 2] * 4)

    def upsample2x(self, x: str) -> str:
        """Adds bilinear resizing by 2 with half-pixel centres and replicated edges."""
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.add("Resize", x, "", scales, **options)

    def split(self, x: str, axis: int) -> str:
        """Splits images into halves along an axis; the second halves follow all first halves."""
        return self._move(x, axis, BATCH)

    def join(self, x: str, num_patches: int, num_joined: int) -> str:
        """Joins images of `num_patches` patches each into images of `num_joined` patches."""
        while num_patches > num_joined:
            x = self._move(x, BATCH, COLUMNS if num_patches == 4 else ROWS)
            num_patches //= 2
        return x

    def _move(self, x: str, source: int, target: int) -> str:
        """Splits maps in two along an axis, and joins the halves along another."""
        halves = [f"{x}_half{i}_of_{source}" for i in (1, 2)]
        self._nodes.append(
            helper.make_node("Split", [x], halves, halves[0], axis=source, num_outputs=2)
        )
        return self.add("Concat", *halves, axis=target)

    def pad(self, x: str) -> str:
        """Pads images on the right and at the bottom by reflection, to multiples of 8.

        As `restoration.restorer.pad`: a short side is reflected repeatedly. Pixel i of a side of s
        pixels is pixel p - |p - i % 2p|, where p = s - 1, of the side before.
        """
        for axis in (ROWS, COLUMNS):
            numbers = (0, 1, 2, SIZE_MULTIPLE)
            zero, one, two, multiple = (self.constant(np.array(n, np.int64)) for n in numbers)
            side = self.add("Squeeze", self.add("Shape", x, start=axis, end=axis + 1))
            last = self.add("Sub", side, one)
            padded = self.add("Mul", self.add("Div", last, multiple), multiple)
            padded = self.add("Add", padded, multiple)
            positions = self.add("Range", zero, padded, one)
            period = self.add("Max", self.add("Mul", last, two), one)
            from_last = self.add("Sub", last, self.add("Mod", positions, period))
            indices = self.add("Sub", last, self.add("Abs", from_last))
            x = self.add("Gather", x, indices, axis=axis)
        return x

    def crop_as(self, x: str, other: str) -> str:
        """Crops images to the height and width of others."""
        starts, axes = (self.constant(np.array(n, np.int64)) for n in ([0, 0], [ROWS, COLUMNS]))
        return self.add("Slice", x, starts, self.add("Shape", other, start=ROWS), axes)
