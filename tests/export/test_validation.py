"""`convert --validate` of exported networks."""

import re
import sys

import numpy as np
import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.export import formats, validation
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import files
from mprnet_jax.weights.files import WeightFile


@pytest.fixture(scope="module")
def weights(make_short_model):
    config = make_short_model()
    return WeightFile(config, pure_functions(config)[0](0), {"source": "model.pth"})


@pytest.mark.parametrize("extension", files.EXPORTED)
def test_a_report_has_each_program_size_and_stage(weights, extension):
    report = validation.compare(extension, formats.encode(extension, weights), weights, None)
    report.check_agreement()
    programs = ["jax.export"] if extension == ".stablehlo" else ["ONNX Runtime", "OpenVINO"]
    table = str(report)
    for program in programs:
        for size in ("2x64x96", "1x136x200", "1x256x256", "1x33x50"):
            assert re.search(rf"{program} ?[\d.]* {size}, stage 1 .* dB", table)
    assert len(report.stages) == 4 * len(programs)


def test_a_network_that_differs_is_named(weights):
    params = weights.params | {"slope": np.array([0.5], np.float32)}
    content = formats.encode(".onnx", weights._replace(params=params))
    report = validation.compare(".onnx", content, weights, None)
    with pytest.raises(UserError, match=r"ONNX Runtime .* 2x64x96, stage 1: differs from ours by"):
        report.check_agreement()


def test_without_runtimes_there_is_one_line(weights, monkeypatch):
    content = formats.encode(".onnx", weights)
    for runtime in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(UserError, match="--validate: neither ONNX Runtime nor OpenVINO"):
        validation.compare(".onnx", content, weights, None)
