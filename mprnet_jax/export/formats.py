"""Exports networks: the content of .onnx and .stablehlo files, which hold the computation too.

They are made for other programs and are not read again.
"""

import dataclasses
import json

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
    count = config.computed_stages(stages)
    if extension == ".stablehlo":
        from mprnet_jax.export import stablehlo

        return stablehlo.encode(config, params, stages, metadata_of(weights, count))
    check_installed(extension)
    import onnx

    from mprnet_jax.export import graph

    model = graph.build(config, params, stages=stages)
    model.producer_name, model.producer_version = "mprnet_jax", __version__
    onnx.helper.set_model_props(model, metadata_of(weights, count))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def metadata_of(weights: WeightFile, stages: int) -> dict[str, str]:
    """Returns what a file says of its network: config, stages, source, task, licence."""
    return {
        "config": json.dumps(dataclasses.asdict(weights.config)),
        "computed_stages": str(stages),
        "licence": safetensors.LICENCE,
        **weights.origin,
    }


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
