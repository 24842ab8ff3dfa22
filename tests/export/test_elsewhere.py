"""By hand: what other programs make of our files. It is compared with ours, and printed."""

import importlib.metadata
import json
import shutil
import subprocess

import numpy as np
import pytest

from mprnet_jax.data import sample
from mprnet_jax.export import formats
from mprnet_jax.model.mprnet import with_params
from mprnet_jax.restoration.restorer import Restorer
from mprnet_jax.weights import files

# Float32 rounding differs with the order of sums. A wrong tensor gives 1e-3.
TOLERANCE = 1e-5
SIZES = ((64, 96), (136, 200), (33, 50))  # height, width; the network pads the last
NODE = """
import fs from "fs";
import * as ort from "onnxruntime-web/wasm";
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(fs.readFileSync("denoise.onnx"));
for (const [height, width] of JSON.parse(process.argv[2])) {
  const name = `${height}x${width}`;
  const pixels = new Float32Array(new Uint8Array(fs.readFileSync(`${name}.in`)).buffer);
  const image = new ort.Tensor("float32", pixels, [1, 3, height, width]);
  const { restored } = await session.run({ image });
  fs.writeFileSync(`${name}.out`, new Uint8Array(restored.data.buffer));
}
"""


@pytest.fixture(scope="module")
def weights(exhaustive):
    if not exhaustive:
        pytest.skip("runs another program by hand")
    return files.read("denoise")


@pytest.fixture(scope="module")
def pairs(weights):
    """Parts of a noisy photo, and what we make of them."""
    photo = sample.photo("chelsea.png").astype(np.float32) / 255
    noise = np.random.default_rng(0).normal(scale=0.1, size=photo.shape)
    noisy = (photo + noise).clip(0, 1).astype(np.float32)
    restorer = Restorer(with_params(weights.config, weights.params))
    parts = [noisy[:height, :width] for height, width in SIZES]
    found = [(part, restorer(part)) for part in parts]
    assert all(np.abs(part - restored).max() > 0.1 for part, restored in found)
    return found


def check(name, restored, expected, capsys):
    differences = [float(np.abs(r - e).max()) for r, e in zip(restored, expected, strict=True)]
    with capsys.disabled():
        print(f"\n{name}, {SIZES}: differs from ours by {differences}")
    assert max(differences) < TOLERANCE


def test_onnxruntime_web_agrees_in_node(onnxruntime_web, weights, pairs, capsys):
    folder = onnxruntime_web.parents[1]
    (folder / "denoise.onnx").write_bytes(formats.encode(".onnx", weights))
    (folder / "run.mjs").write_text(NODE)
    names = [f"{height}x{width}" for height, width in SIZES]
    for name, (part, _) in zip(names, pairs, strict=True):
        (folder / f"{name}.in").write_bytes(part.transpose(2, 0, 1).tobytes())
    command = [shutil.which("node"), "run.mjs", json.dumps(SIZES)]
    subprocess.run(command, cwd=folder, check=True)
    restored = [
        np.frombuffer((folder / f"{name}.out").read_bytes(), np.float32).reshape(3, height, width)
        for name, (height, width) in zip(names, SIZES, strict=True)
    ]
    version = json.loads((onnxruntime_web / "package.json").read_text())["version"]
    ours = [expected for _, expected in pairs]
    images = [image.transpose(1, 2, 0) for image in restored]
    check(f"onnxruntime-web {version}, wasm", images, ours, capsys)


def test_spandrel_agrees(weights, pairs, tmp_path, capsys):
    spandrel = pytest.importorskip("spandrel")
    pytest.importorskip("spandrel_extra_arches").install()
    import torch

    path = tmp_path / "denoise.pth"
    files.write(path, weights.config, weights.params, weights.origin)
    model = spandrel.ModelLoader("cpu").load_from_file(path)
    assert (model.architecture.name, model.scale) == ("MPRNet", 1)
    with torch.inference_mode():
        images = [
            model(torch.from_numpy(part).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
            for part, _ in pairs
        ]
    # It clips what it returns.
    ours = [expected.clip(0, 1) for _, expected in pairs]
    version = importlib.metadata.version("spandrel")
    check(f"spandrel {version}", images, ours, capsys)
