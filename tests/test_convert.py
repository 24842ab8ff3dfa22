"""The convert command, run as users run it."""

import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from absl import flags
from absl.testing import flagsaver

from mprnet_jax import convert as convert_command
from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.weights import files, safetensors, torch_reference


@pytest.fixture
def official_file(tmp_path) -> Path:
    """A small network saved as the authors' files are."""
    config = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1)
    path = tmp_path / "model_denoising.pth"
    torch.save({"state_dict": torch_reference.build(config).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def convert(run_python, tmp_path_factory) -> Callable:
    """Runs the command; one run of it uses what another compiled. PyTorch's threads wait busily."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    environment = {"JAX_COMPILATION_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}

    def run(source: Path, output: Path, *flags: str) -> subprocess.CompletedProcess:
        command = ("-m", "mprnet_jax.convert", "--input", source, "--output", output, *flags)
        return run_python(*command, **environment)

    return run


def test_validated_conversion(tmp_path, official_file, convert):
    output = tmp_path / "denoise.safetensors"
    done = convert(official_file, output, "--validate")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for row in ("noise 2x64x96, stage 1", "noise 1x136x200, stage 3", "jax", "torch", "68 blocks"):
        assert row in done.stdout
    state = torch.load(official_file, weights_only=True)["state_dict"]
    weights = files.read(output)
    licence = "Weights converted from the published MPRNet files stay under"
    assert weights.origin.pop("licence").startswith(licence)
    assert weights.origin == {"source": "model_denoising.pth", "task": "denoise"}
    official = files.read_official(output)
    assert official.keys() == state.keys()
    assert all(np.array_equal(official[name], state[name]) for name in state)
    assert f"{len(state)} tensors" in done.stdout


def test_failed_validation_writes_nothing(tmp_path, official_file, convert):
    clone = tmp_path / "MPRNet.py"
    clone.write_text(
        textwrap.dedent("""
            import torch
            from mprnet_jax.config import ModelConfig
            from mprnet_jax.weights import torch_reference

            def MPRNet(n_feat, scale_unetfeats, scale_orsnetfeats, num_cab):
                config = ModelConfig(n_feat, scale_unetfeats, scale_orsnetfeats, 4, num_cab)
                model = torch_reference.build(config)
                model.stage1_encoder.down12.down[0] = torch.nn.MaxPool2d(2)
                return model
            """)
    )
    done = convert(official_file, tmp_path / "a.safetensors", "--reference", str(clone))
    assert done.returncode == 2
    assert "stage 1: differs from PyTorch's by" in done.stderr
    assert done.stderr.strip().endswith("; nothing was written")
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"MPRNet.py", "model_denoising.pth"}


def test_validated_export(tmp_path, official_file, convert):
    output = tmp_path / "denoise.onnx"
    done = convert(official_file, output, "--validate", "--stages", "2")
    assert done.returncode == 0, done.stderr
    for text in ("ONNX Runtime", "OpenVINO", "2x64x96, stage 1", "1x33x50, stage 2", "non-comm"):
        assert text in done.stdout
    assert "stage 3" not in done.stdout
    model = onnx.load(output)
    assert {entry.key for entry in model.metadata_props} == {
        *("config", "computed_stages", "licence", "source", "task")
    }
    done = convert(output, tmp_path / "again.safetensors")
    assert "denoise.onnx: is made for other programs and not read again" in done.stderr


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("x.onnx", {"reference": "MPRNet.py"}, "--reference is for .safetensors and .pth files"),
        ("x.pth", {"stages": 1}, "--stages is for .onnx and .stablehlo files"),
        ("x.stablehlo", {"stages": 4}, "stages=4: must be 1 to 3, the stages of this network"),
    ],
)
def test_options_of_other_formats_are_refused(tmp_path, official_file, output, options, message):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["convert"])
    output = tmp_path / output
    with (
        flagsaver.flagsaver(input=str(official_file), output=str(output), **options),
        pytest.raises(UserError, match=message),
    ):
        convert_command.main()
    assert not output.exists()


def test_an_output_that_exists_is_replaced_only_on_demand(tmp_path, official_file, convert):
    output = tmp_path / "model.safetensors"
    output.write_text("precious")
    done = convert(official_file, output)
    assert (done.returncode, output.read_text()) == (2, "precious")
    assert "--overwrite" in done.stderr
    done = convert(official_file, output, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert files.read(output).config.width == 8


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("absent.pth", "out.safetensors", "absent.pth: there is no such file"),
        ("broken.safetensors", "out.pth", "broken.safetensors: 1 missing: tail.weight"),
        ("broken.safetensors", "out.npz", "out.npz: weights are written as"),
        ("broken.safetensors", "no/such/out.pth", "there is no folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path, official_file, convert, source, output, message
):
    weights = files.read_official(official_file)
    del weights["tail.weight"]
    safetensors.write_file(tmp_path / "broken.safetensors", weights, {})
    before = set(tmp_path.iterdir())
    done = convert(tmp_path / source, tmp_path / output)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == before
