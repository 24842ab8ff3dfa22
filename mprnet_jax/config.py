"""The settings of a training run as typed dataclasses, and the presets of the network.

A config file returns a `TrainConfig`; the command line changes single fields of it
(`--config.optim.learning_rate=1e-4`). A resumed run may change the fields marked
`changeable()`. All others decide what is computed, so changing one needs a new workdir.
The default of a new field must be what earlier versions did: their runs are resumed with it.
`total_steps` may grow where that leaves the learning rates as they were.
"""

import itertools
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from mprnet_jax.errors import UserError

__all__ = ["DataConfig", "LossConfig", "MeshConfig", "ModelConfig", "OptimConfig", "TrainConfig"]

SIZE_MULTIPLE = 8  # of an image's sides: the network downsamples halves of the image twice
MAX_PATCH = 1024  # pixels a side; a training step on larger patches fits on no device
REMATS = ("none", "elementwise", "cab", "orb")
SOURCES = ("folders", "prepared", "photos", "sample_rain", "sample_blur", "sample_noise")
SUBNETS = ("unet", "orsnet")
STAGES = "unet+unet+orsnet"  # of the published networks
DEGRADATIONS = ("rain", "blur", "noise", "blind_noise", "rain_and_haze")

AT_LEAST_ONE = (
    "total_steps",
    "batch_size",
    "accumulate",
    "checkpoint_every",
    "validate_every",
    "log_every",
    "optim.max_skipped",
)
NOT_NEGATIVE = (
    "data.mixup_from_step",
    "data.max_unreadable",
    "data.num_workers",
    "loss.edge_weight",
    "optim.final_learning_rate",
    "optim.weight_decay",
    "optim.clip_norm",
    "optim.ema_decay",
    "optim.spike_factor",
    "optim.decay_steps",
    "seed",
    "profile_steps",
)


def changeable(default: Any) -> Any:
    """Returns a field that does not decide what is computed: a resumed run may change it."""
    return field(default=default, metadata={"changeable": True})


@dataclass(slots=True)
class ModelConfig:
    """The network; the defaults are the deraining preset of the paper."""

    width: int = 40  # channels at full resolution (the paper's n_feat)
    unet_growth: int = 20  # channels added by each level of the U-Nets (scale_unetfeats)
    orsnet_growth: int = 16  # channels of ORSNets besides `width` (scale_orsnetfeats)
    reduction: int = 4  # channel attention squeezes c channels to c // reduction
    cabs_per_orb: int = 8  # channel attention blocks in an original-resolution block
    bias: bool = False  # of convolutions, but for those beside a resize or last in an ORB
    dtype: str = "float32"  # of the computation, or "bfloat16"; parameters stay float32
    # What backpropagation computes again instead of keeping it in memory: "none"; "elementwise",
    # everything between convolutions; "cab", the inside of each CAB; "orb", the inside of each
    # sequence of CABs, in U-Nets and ORBs.
    remat: str = changeable("none")
    # The subnetwork of each stage, the first one first. All but the published ones are variants
    # such as those of the paper's ablation (table 6).
    stages: str = STAGES
    supervised_attention: bool = True  # between stages (SAM); without, features pass unchanged
    cross_stage_fusion: bool = True  # adds features of each stage inside of the next one (CSFF)

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raises UserError if a field has a value that no network can have."""
        for name in ("width", "reduction", "cabs_per_orb"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}: must be 1 or more")
        for name in ("unet_growth", "orsnet_growth"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name}={getattr(self, name)}: must not be negative")
        if self.width < self.reduction:
            raise UserError(
                f"model.width={self.width} is below model.reduction={self.reduction}: "
                "channel attention would squeeze to nothing; use a larger width"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"model.dtype={self.dtype!r}: use float32 or bfloat16")
        if self.remat not in REMATS:
            raise UserError(f"model.remat={self.remat!r}: use {' or '.join(REMATS)}")
        for number, (before, subnet) in enumerate(itertools.pairwise(["", *self.subnets]), 1):
            if subnet not in SUBNETS:
                raise UserError(
                    f"model.stages={self.stages!r}: stage {number} is {subnet!r}; use unet or "
                    "orsnet for each stage, with + between them"
                )
            if (before, subnet) == ("orsnet", "unet") and self.cross_stage_fusion:
                raise UserError(
                    f"model.stages={self.stages!r}: stage {number} is a U-Net after an ORSNet, "
                    "which has no lower levels to fuse; choose other stages, or "
                    "model.cross_stage_fusion=False"
                )

    @property
    def subnets(self) -> list[str]:
        """The subnetwork of each stage, "unet" or "orsnet"."""
        return self.stages.split("+")

    @property
    def variant(self) -> str:
        """Describes what differs from the published stages, "" if nothing does.

        >>> ModelConfig(stages="unet+orsnet", cross_stage_fusion=False).variant
        'stages unet+orsnet, without cross-stage fusion'
        """
        differences = [] if self.stages == STAGES else [f"stages {self.stages}"]
        if not self.supervised_attention:
            differences.append("without supervised attention")
        if not self.cross_stage_fusion:
            differences.append("without cross-stage fusion")
        return ", ".join(differences)

    def computed_stages(self, stages: int | None) -> int:
        """Returns the number of stages to compute: `stages`, or all of them if it is None.

        Raises:
            UserError: if the network has fewer.
        """
        count = len(self.subnets)
        if stages is None:
            return count
        if stages not in range(1, count + 1):
            raise UserError(f"stages={stages}: must be 1 to {count}, the stages of this network")
        return stages

    def stage_width(self, subnet: str) -> int:
        """Returns the number of channels of the features of a stage with this subnetwork."""
        return self.width + (self.orsnet_growth if subnet == "orsnet" else 0)

    @property
    def level_widths(self) -> tuple[int, int, int]:
        """Channels of the three U-Net levels, full resolution first."""
        width, growth = self.width, self.unet_growth
        return width, width + growth, width + 2 * growth

    @classmethod
    def derain(cls) -> "ModelConfig":
        """The deraining network: 3,637,249 parameters."""
        return cls(width=40, unet_growth=20, orsnet_growth=16)

    @classmethod
    def denoise(cls) -> "ModelConfig":
        """The denoising network: 15,741,025 parameters."""
        return cls(width=80, unet_growth=48, orsnet_growth=32)

    @classmethod
    def deblur(cls) -> "ModelConfig":
        """The deblurring network: 20,127,073 parameters."""
        return cls(width=96, unet_growth=48, orsnet_growth=32)

    @classmethod
    def deblur_light(cls) -> "ModelConfig":
        """The authors' light deblurring network: 6,376,449 parameters."""
        return cls(width=40, unet_growth=40, orsnet_growth=32)

    @property
    def published_name(self) -> str:
        """Name of the published network that has these sizes, such as "derain", or ""."""
        ours = replace(self, dtype="float32", remat="none")
        return next((name for name, published in PUBLISHED.items() if ours == published), "")


PUBLISHED = {
    "derain": ModelConfig.derain(),
    "denoise": ModelConfig.denoise(),
    "deblur": ModelConfig.deblur(),
    "deblur_light": ModelConfig.deblur_light(),
}


@dataclass(slots=True)
class DataConfig:
    """Where image pairs come from, and how training varies them."""

    # "folders" of pairs; "prepared": sets that mprnet_jax.prepare wrote; "photos": folders of clean
    # photos, each of which is degraded again at each use; or embedded photos that are:
    # "sample_rain", "sample_blur", "sample_noise".
    source: str = "folders"
    root: str = changeable("")  # folder of `train` and `validation`; --data_dir of prepare
    # Folder of training pairs, `input` and `target` in it; or prepared set. Several, each with its
    # share of the examples: "GoPro/train:2,BSD_B/train:1" (data/mixes.py).
    train: str = "train"
    validation: str = "test"  # folder of held-out pairs; or prepared set
    published: str = changeable("")  # name of the data set, for messages
    num_workers: int = changeable(0)  # reading processes; 0: threads, enough for small pictures
    saturation: bool = False  # changes the saturation of a third of the pairs by up to 20 %
    mixup_from_step: int = 0  # mixes the pairs of each batch after so many steps; 0: never
    # A picture that cannot be read is replaced by the next one; the run stops if more than this
    # share of the pictures cannot be read.
    max_unreadable: float = changeable(0.01)
    degradation: str = ""  # of "photos": one of `DEGRADATIONS`, see data/degradations.py


@dataclass(slots=True)
class LossConfig:
    """The loss, summed over the stages (paper, section 3, equations 1 to 3)."""

    edge_weight: float = 0.05  # of the edge loss beside the Charbonnier loss; 0 leaves it out
    # Of the edge loss: "pyramid" as in the authors' code, "operator" as in the paper's equation.
    laplacian: str = "pyramid"
    clip: bool = False  # clips predictions to [0, 1] first, as for denoising


@dataclass(slots=True)
class OptimConfig:
    """Adam under a linear warm-up and a cosine decay (paper, section 4.2, but for the warm-up)."""

    learning_rate: float = 2e-4
    final_learning_rate: float = 1e-6
    warmup_steps: int = 0
    decay_steps: int = 0  # length of the cosine after the warm-up; 0: the rest of the run
    weight_decay: float = 0.0  # Adam's L2 term: this times the parameters joins the gradient
    clip_norm: float = 0.0  # clips the gradient's global norm; 0: never
    # Decay of the moving average of the parameters that is validated, kept and exported; 0: none.
    ema_decay: float = 0.0
    # Skips steps whose gradient norm exceeds so many times its running median; 0: none. Steps whose
    # loss or gradient is not finite are always skipped.
    spike_factor: float = 0.0
    max_skipped: int = changeable(10)  # the run stops after so many skipped steps in a row


@dataclass(slots=True)
class MeshConfig:
    """How devices share the work: images over `data`, rows of images over `height`."""

    data: int = changeable(-1)  # -1: all devices that `height` leaves
    height: int = changeable(1)


@dataclass(slots=True)
class TrainConfig:
    """A training run."""

    name: str = field(metadata={"changeable": True})  # for messages and the default workdir
    model: ModelConfig
    data: DataConfig
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    total_steps: int = 0
    batch_size: int = 16
    accumulate: int = changeable(1)  # gradient accumulation: number of microbatches of a batch
    patch_size: int = 256  # side of the training patches, in pixels
    validation_crop: int = 256  # side of the centre crops that validation restores, in pixels
    seed: int = 0
    # Weights to start from: .pth, .safetensors, a run folder, a pretrained network or an address
    # hf://OWNER/NAME; "": random.
    init_from: str = ""
    checkpoint_every: int = changeable(1000)  # steps
    validate_every: int = changeable(1000)  # steps
    log_every: int = changeable(50)  # steps
    profile_steps: int = changeable(0)  # steps in a trace for TensorBoard's profiler; 0: no trace
    note: str = changeable("")  # printed with the result

    def validate(self) -> None:
        """Raises UserError if a field has a value that it cannot have."""
        self.model.validate()
        values = flatten(self)
        for name in AT_LEAST_ONE:
            if values[name] < 1:
                raise UserError(f"{name}={values[name]}: must be 1 or more")
        for name in NOT_NEGATIVE:
            if values[name] < 0:
                raise UserError(f"{name}={values[name]}: must not be negative")
        if self.optim.learning_rate <= 0:
            raise UserError(f"optim.learning_rate={self.optim.learning_rate}: must be above 0")
        if self.data.max_unreadable > 1:
            raise UserError(f"data.max_unreadable={self.data.max_unreadable}: must be at most 1")
        if self.optim.ema_decay >= 1:
            raise UserError(f"optim.ema_decay={self.optim.ema_decay}: must be below 1")
        if 0 < self.optim.spike_factor <= 1:
            raise UserError(f"optim.spike_factor={self.optim.spike_factor}: must be above 1, or 0")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"accumulate={self.accumulate}: must divide batch_size={self.batch_size}"
            )
        for name in ("patch_size", "validation_crop"):
            size = getattr(self, name)
            if size % SIZE_MULTIPLE or not 0 < size <= MAX_PATCH:
                raise UserError(
                    f"{name}={size}: must be a multiple of {SIZE_MULTIPLE} up to {MAX_PATCH}"
                )
        if self.loss.laplacian not in ("pyramid", "operator"):
            raise UserError(f"loss.laplacian={self.loss.laplacian!r}: use pyramid or operator")
        if self.data.source not in SOURCES:
            raise UserError(f"data.source={self.data.source!r}: use {' or '.join(SOURCES)}")
        if self.data.source == "photos" and self.data.degradation not in DEGRADATIONS:
            raise UserError(
                f"data.degradation={self.data.degradation!r}: for data.source=photos, use "
                f"{' or '.join(DEGRADATIONS)}"
            )
        if not 0 <= self.optim.warmup_steps < self.total_steps:
            raise UserError(
                f"optim.warmup_steps={self.optim.warmup_steps}: must be below "
                f"total_steps={self.total_steps}; pass a smaller --config.optim.warmup_steps"
            )


def sample_config(name: str, source: str, total_steps: int, **fields: Any) -> TrainConfig:
    """Returns a run that takes a few minutes on two CPU cores: a narrow network, embedded photos.

    Args:
        name: of the run.
        source: of the data, one of the samples in `SOURCES`.
        total_steps: a few hundred; validated twice.
        **fields: other fields of the config.
    """
    config = TrainConfig(
        name=name,
        model=ModelConfig(width=16, unet_growth=8, orsnet_growth=8, cabs_per_orb=2),
        data=DataConfig(source=source),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=20),
        total_steps=total_steps,
        batch_size=8,
        patch_size=64,
        validation_crop=296,
        validate_every=total_steps // 2,
        checkpoint_every=50,
        log_every=10,
    )
    return replace(config, **fields)


def corpus_config(name: str, degradation: str, total_steps: int, **fields: Any) -> TrainConfig:
    """Returns a run on the corpus that takes about an hour on two CPU cores: a narrow network.

    Args:
        name: of the run.
        degradation: of the photos, one of `DEGRADATIONS`.
        total_steps: some thousands.
        **fields: other fields of the config.
    """
    config = TrainConfig(
        name=name,
        model=ModelConfig(width=16, unet_growth=16, orsnet_growth=8, cabs_per_orb=2),
        data=DataConfig(
            source="photos",
            root="corpus",
            train="train",
            validation="validation",
            degradation=degradation,
            published="the corpus that mprnet_jax.corpus makes",
        ),
        optim=OptimConfig(
            learning_rate=1.5e-3, final_learning_rate=1e-5, warmup_steps=200, ema_decay=0.999
        ),
        total_steps=total_steps,
        batch_size=4,
        patch_size=64,
        validation_crop=512,
        validate_every=1000,
        checkpoint_every=200,
    )
    return replace(config, **fields)


def cosine_steps(decay_steps: int, total_steps: int, warmup_steps: int) -> int:
    """Returns the steps over which the learning rate falls, given these fields of a config."""
    return decay_steps or total_steps - warmup_steps


def flatten(config: Any, *, fixed_only: bool = False, prefix: str = "") -> dict[str, Any]:
    """Returns the fields by dotted name; with `fixed_only`, without the `changeable` ones."""
    flat: dict[str, Any] = {}
    for f in fields(config):
        value, name = getattr(config, f.name), prefix + f.name
        if is_dataclass(value):
            flat |= flatten(value, fixed_only=fixed_only, prefix=f"{name}.")
        elif not (fixed_only and f.metadata.get("changeable")):
            flat[name] = value
    return flat
