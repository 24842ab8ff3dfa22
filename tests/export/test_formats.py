"""The content of .onnx and .stablehlo files, as other programs read it."""

import json
import subprocess
import sys

import jax
import numpy as np
import onnx
import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.export import formats
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.restoration.restorer import Restorer
from mprnet_jax.weights import files
from mprnet_jax.weights.files import WeightFile


@pytest.fixture
def weights(make_short_model):
    config = make_short_model()
    origin = {"source": "model.pth", "licence": "non-commercial"}
    return WeightFile(config, pure_functions(config)[0](0), origin)


def expected_metadata(weights):
    return {
        "config": weights.config,
        "computed_stages": "1",
        "source": "model.pth",
        "licence": "non-commercial",
    }


def parse(weights, metadata):
    return metadata | {"config": type(weights.config)(**json.loads(metadata["config"]))}


def test_onnx_files_are_valid_and_say_what_they_are(weights):
    content = formats.encode(".onnx", weights)
    assert content == formats.encode(".onnx", weights)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "mprnet_jax"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert parse(weights, metadata) == expected_metadata(weights)
    assert [node.name for node in model.graph.input] == ["image"]
    assert [node.name for node in model.graph.output] == ["restored"]
    assert [opset.version for opset in model.opset_import] == [18]


def test_a_stablehlo_file_runs_without_this_package_at_any_size(weights, tmp_path):
    path = tmp_path / "network.stablehlo"
    path.write_bytes(formats.encode(".stablehlo", weights))
    photos = [np.random.default_rng(0).random((*s, 3), np.float32) for s in ((24, 16), (5, 33))]
    np.savez(tmp_path / "photos.npz", *photos)
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "sys.modules['mprnet_jax'] = sys.modules['flax'] = None\n"
        "from jax import export\n"
        "network = export.deserialize(bytearray(Path('network.stablehlo').read_bytes()))\n"
        "photos = np.load('photos.npz')\n"
        "np.savez('restored.npz', *(network.call(photos[p][None])[0] for p in photos))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with np.load(tmp_path / "restored.npz") as file:
        restored = dict(file)
    restorer = Restorer(with_params(weights.config, weights.params))
    for name, photo in zip(restored, photos, strict=True):
        # Float32 rounding of two programs; 1e-7 was measured.
        np.testing.assert_allclose(restored[name], restorer(photo), rtol=0, atol=1e-6)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert parse(weights, json.loads(exported.fun_name)) == expected_metadata(weights)


@pytest.mark.parametrize("extension", files.EXPORTED)
def test_stages_that_there_are_not_are_refused(weights, extension):
    for stages in (0, 2):
        with pytest.raises(UserError, match=f"stages={stages}: must be 1 to 1"):
            formats.encode(extension, weights, stages)


def test_without_onnx_the_extra_is_named(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"need ONNX: pip install 'mprnet-jax\[onnx\]'"):
        formats.encode(".onnx", weights)
