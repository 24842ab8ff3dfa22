"""What is measured (`Work`) and by which contenders: plain data that processes can exchange."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from mprnet_jax.config import PUBLISHED, ModelConfig

# Environment variable: contenders must not fall back to the CPU.
NEEDS_GPU = "MPRNET_BENCHMARK_NEEDS_GPU"

TINY = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1)
SHORT = replace(TINY, stages="orsnet")  # compiles in a tenth of the time
PRESETS = {**PUBLISHED, "tiny": TINY, "short": SHORT}


@dataclass(frozen=True)
class Work:
    """A computation to time: "forward", "train" or "matmul" (of square matrices)."""

    kind: str
    preset: str = "derain"
    batch: int = 1
    height: int = 256
    width: int = 256

    def __str__(self) -> str:
        if self.kind == "matmul":
            return f"matrix product, {self.height}x{self.height}"
        name = {"forward": "forward", "train": "training step"}[self.kind]
        return f"{name}, {self.preset}, batch {self.batch}, {self.height}x{self.width}"

    def tiny(self) -> "Work":
        """Returns the same work on tiny sizes, for trying the suite itself."""
        return replace(self, preset="short", batch=min(self.batch, 2), height=16, width=16)


@dataclass(frozen=True)
class Contender:
    """An implementation that is measured, with its settings."""

    name: str
    framework: str  # "jax", "torch" or "onnx"
    dtype: str = "float32"  # "bfloat16" is autocast in PyTorch, the compute dtype in JAX
    remat: str = "none"  # of this package
    channels_last: bool = False  # in PyTorch
    compiled: str = ""  # mode of torch.compile; "" means eager
    runtime: str = ""  # that runs this package's ONNX model

    def takes_part(self, work: Work) -> bool:
        """Whether it can do this kind of work."""
        if work.kind == "matmul":
            network_only = self.compiled or self.framework == "onnx" or self.remat != "none"
            same = self.channels_last and self.dtype == "float32"  # the same as without it
            return not (network_only or same)
        if self.framework == "onnx" or self.compiled == "reduce-overhead":
            return work.kind == "forward" and (self.framework == "onnx" or work.batch == 1)
        return work.kind == "train" or self.remat == "none"


@dataclass(frozen=True)
class Program:
    """A contender's functions for one piece of work, in the process that runs it."""

    compile: Callable[[], object]  # all that can be done before the first call
    run: Callable[[int], None]  # runs this many times and waits for the results
    peak: Callable[[], int | None]  # bytes of an accelerator's memory; None on CPUs
    held: Callable[[], float]  # frees memory; returns the share that it keeps


OURS = Contender("ours", "jax")
EAGER = Contender("PyTorch eager", "torch")
CPU_CONTENDERS = (
    OURS,
    EAGER,
    Contender("PyTorch channels_last", "torch", channels_last=True),
    Contender("torch.compile", "torch", compiled="default"),
    Contender("PyTorch autocast bfloat16", "torch", dtype="bfloat16"),
    Contender("ONNX Runtime, our graph", "onnx", runtime="onnxruntime"),
    Contender("OpenVINO, our graph", "onnx", runtime="openvino"),
    Contender("OpenVINO, our graph, bfloat16", "onnx", "bfloat16", runtime="openvino"),
)
BFLOAT16 = {"dtype": "bfloat16"}
FAST = {"dtype": "bfloat16", "channels_last": True}
GPU_CONTENDERS = (
    OURS,
    Contender("ours, bfloat16", "jax", **BFLOAT16),
    Contender("ours, bfloat16, every CAB remat", "jax", remat="cab", **BFLOAT16),
    EAGER,
    Contender("PyTorch channels_last bfloat16", "torch", **FAST),
    Contender("torch.compile channels_last bfloat16", "torch", compiled="default", **FAST),
    Contender("torch.compile reduce-overhead", "torch", compiled="reduce-overhead", **FAST),
)

CPU_WORK = (
    Work("matmul", height=4096),
    Work("forward"),
    Work("forward", batch=8),
    Work("forward", height=720, width=1280),
    Work("forward", "denoise"),
    Work("forward", "deblur"),
    Work("train", batch=4, height=64, width=64),
    Work("train", batch=4, height=128, width=128),
    Work("train", batch=16, height=64, width=64),
    Work("train", batch=4),
)
# The most important work first, in case time is short.
GPU_FIRST = (
    Work("matmul", height=8192),
    Work("train", "derain", 16, 256, 256),
    Work("forward", "deblur", 1, 720, 1280),
    Work("forward", "derain", 1, 720, 1280),
    Work("train", "deblur", 16, 256, 256),
)
GPU_ALL = (
    *GPU_FIRST,
    *(
        Work("forward", preset, batch, height, width)
        for preset in ("derain", "denoise", "deblur")
        for height, width in ((256, 256), (720, 1280))
        for batch in (1, 8)
    ),
    *(
        Work("train", preset, batch, patch, patch)
        for preset in ("derain", "deblur")
        for patch in (64, 128, 256)
        for batch in (4, 16)
    ),
)
GPU_WORK = tuple(dict.fromkeys(GPU_ALL))
