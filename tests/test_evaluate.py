"""The command that scores networks and restored images: what users type, and what it prints."""

import functools
import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mprnet_jax.config import ModelConfig
from mprnet_jax.data.opening import open_benchmark
from mprnet_jax.evaluation.protocols import PROTOCOLS
from mprnet_jax.model.cost import forward_flops
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.restoration.restorer import Restorer
from mprnet_jax.weights import files

mini = runpy.run_path(str(Path(__file__).parent / "data" / "miniatures.py"))


def floats(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.float32 else np.float32(image / 255)


@pytest.fixture
def run(run_python, tmp_path):
    """Runs the command in the temporary folder."""
    cache = jax.config.jax_compilation_cache_dir
    environment = {"COLUMNS": "80", "JAX_COMPILATION_CACHE_DIR": cache}
    return functools.partial(run_python, "-m", "mprnet_jax.evaluate", cwd=tmp_path, **environment)


def test_the_command_scores_restored_pictures(run, tmp_path):
    mini["write_pairs"](tmp_path / "data/test/Rain100L")
    mini["write_pairs"](tmp_path / "data/GoPro/test")
    for name in ("Rain100L", "gopro"):
        mini["write_pairs"](tmp_path / "made" / name)
        (tmp_path / "made" / name / "input").rename(tmp_path / "made" / name / "x")
        for path in (tmp_path / "made" / name / "x").iterdir():
            path.rename(tmp_path / "made" / name / path.name)
    data, made = f"--data_root={tmp_path / 'data'}", tmp_path / "made"
    result = run(
        "--benchmarks=rain100l,GoPro", data, f"--restored={made}", f"--output={tmp_path / 'out'}"
    )
    assert result.returncode == 0, result.stderr
    assert "3 of 100 " in result.stdout
    assert "RGB, 8 bits, volume SSIM" in result.stdout
    source = open_benchmark("gopro", tmp_path / "data")
    expected = PROTOCOLS["gopro"].score(floats(source[0]["degraded"]), source[0]["target"])
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert written["sets"][1]["images"][0]["psnr"] == expected.psnr

    again = run("--benchmarks=gopro", data, f"--restored={made}", f"--output={tmp_path / 'out'}")
    assert again.returncode == 2
    assert "scores.json: exists; choose another --output, or add --overwrite" in again.stderr
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == written

    # A set alone may lie in the folder itself; two mistakes, the rest is scored.
    (made / "gopro" / "1.png").unlink()
    Image.new("RGB", (5, 6)).save(made / "gopro" / "2.png")
    alone = run(
        "--benchmarks=gopro", data, f"--restored={made / 'gopro'}", f"--output={tmp_path / 'two'}"
    )
    assert alone.returncode == 2
    assert "Traceback" not in alone.stderr
    assert "left out 2 images" in alone.stderr.splitlines()[-1]
    (entry,) = json.loads((tmp_path / "two" / "scores.json").read_text())["sets"]
    assert [image["name"] for image in entry["images"]] == ["3"]
    assert "1: is missing" in entry["left_out"][0]
    assert "is 5x6" in entry["left_out"][1]


def test_the_command_restores_with_a_network_and_compares_its_stages(run, tmp_path):
    config = ModelConfig(8, orsnet_growth=4, cabs_per_orb=1, stages="orsnet+orsnet+orsnet")
    params = pure_functions(config)[0](seed=0)
    files.write(tmp_path / "weights.safetensors", config, params)
    mini["write_pairs"](tmp_path / "test/Rain100L", size=(18, 27))
    mini["write_dnd"](tmp_path / "DND")
    result = run(
        f"--weights={tmp_path / 'weights.safetensors'}",
        "--benchmarks=Rain100L,DND",
        f"--data_root={tmp_path}",
        f"--output={tmp_path / 'out'}",
        "--stages",
        "--ensemble",
    )
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "out/scores.json").read_text())
    assert document["restored_by"].endswith("weights.safetensors --ensemble")
    *stages, dnd = document["sets"]
    assert [entry["stages"] for entry in stages] == [1, 2, 3]
    costs = [entry["multiply_adds_256x256"] for entry in stages]
    assert costs == sorted(set(costs))
    assert costs[2] == forward_flops(config, 256, 256) / 2
    assert stages[2]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert len(list((tmp_path / "out/DND_submission").iterdir())) == 2
    assert dnd["images"] == []
    source = open_benchmark("Rain100L", tmp_path)
    model = files.load(tmp_path / "weights.safetensors")
    restored = Restorer(model, stages=2, ensemble=True)(floats(source[0]["degraded"]))
    expected = PROTOCOLS["rain100l"].score(restored, source[0]["target"])
    # The same network compiled in two processes: equal up to the rounding of a pixel or two.
    assert stages[1]["images"][0]["psnr"] == pytest.approx(expected.psnr, abs=0.01)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--benchmarks=gopro", "--output=o", "--restored=r"], "--data_root"),
        (["--benchmarks=gopro", "--output=o", "--data_root=."], "--weights, --restored"),
        (["--benchmarks=dogs", "--output=o", "--data_root=.", "--restored=r"], "'dogs'"),
        (["--benchmarks=gopro", "--output=o", "--data_root=.", "--restored=r"], "GoPro/test"),
        (
            ["--benchmarks=hide", "--output=o", "--data_root=.", "--restored=r", "--ensemble"],
            "--ensemble: needs --weights",
        ),
    ],
)
def test_a_mistake_is_one_line(run, flags, message, tmp_path):
    result = run(*flags)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())
