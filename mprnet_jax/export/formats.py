"""Exports networks: the content of .onnx and .stablehlo files, which hold the computation too.

They are made for other programs and are not read again.
"""

import dataclasses
import json

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.version import __version__
from mprnet_jax.weights import safetensors
from mprnet_jax.weights.files import WeightFile


def encode(extension: str, weights: WeightFile, stages: int | None = None) -> bytes:
    """Returns the content of a file with the network, float32.

    Args:
        extension: one of `files.EXPORTED`.
        weights: the network.
        stages: number of stages to compute; None computes all.

    Raises:
        UserError: if the network has fewer stages, or ONNX is not installed.
    """
    config, params, _ = weights
    check_stages(config, stages)
    if extension == ".stablehlo":
        from mprnet_jax.export import stablehlo

        return stablehlo.encode(config, params, stages, metadata_of(weights, stages))
    check_installed(extension)
    import onnx

    from mprnet_jax.export import graph

    model = graph.build(config, params, stages=stages)
    model.producer_name, model.producer_version = "mprnet_jax", __version__
    onnx.helper.set_model_props(model, metadata_of(weights, stages))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def metadata_of(weights: WeightFile, stages: int | None) -> dict[str, str]:
    """Returns what a file says of its network: config, stages, source, task, licence."""
    return {
        "config": json.dumps(dataclasses.asdict(weights.config)),
        "computed_stages": str(stages or len(weights.config.subnets)),
        "licence": safetensors.LICENCE,
        **weights.origin,
    }


def check_stages(config: ModelConfig, stages: int | None) -> None:
    """Raises UserError unless the network has so many stages."""
    count = len(config.subnets)
    if stages is not None and stages not in range(1, count + 1):
        raise UserError(f"stages={stages}: must be 1 to {count}, the stages of this network")


def check_installed(extension: str) -> None:
    """Raises UserError if a package is missing that files of this kind need."""
    if extension != ".onnx":
        return
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError(
            ".onnx files need ONNX: pip install 'mprnet-jax[onnx]', or 'mprnet-jax[onnxruntime]', "
            "with which they can be run too"
        ) from error
