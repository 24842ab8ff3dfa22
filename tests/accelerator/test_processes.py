"""In processes of their own: a run that is killed and resumed, a photo where memory is short."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = 12
TRAIN = [sys.executable, "-m", "mprnet_jax.train", "--config=configs/derain.py:sample"]
FIELDS = {
    "model.width": 8,
    "model.unet_growth": 4,
    "model.orsnet_growth": 4,
    "model.cabs_per_orb": 1,
    "batch_size": 2,
    "patch_size": 16,
    "validation_crop": 32,
    "mesh.data": 1,
    "total_steps": STEPS,
    "optim.warmup_steps": 2,
    "checkpoint_every": 2,
    "validate_every": STEPS,
}
NEEDED = ("clu", "grain", "ml_collections", "tensorboardX", "tqdm")
# Restores a photo that does not fit into the limit as a whole; prints what it took.
RESTORE = r"""
import json, re, jax, numpy as np
from pathlib import Path
from mprnet_jax import ModelConfig, Restorer
from mprnet_jax.devices import memory
from mprnet_jax.model.mprnet import pure_functions, with_params

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
config = ModelConfig(width=16, unet_growth=8, orsnet_growth=8, cabs_per_orb=2)
model = with_params(config, pure_functions(config)[0](0))
device = jax.devices()[0]
limit = 400 * 2**20
if device.platform == "cpu":  # where the process and its compiler count
    limit += memory.this_process().memory_info().rss + 2**28
restorer = Restorer(model, memory_limit=limit)
photo = np.random.default_rng(0).integers(0, 256, (1000, 1500, 3), np.uint8)
restored = restorer(photo)
peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
peak = peak or 1024 * int(re.search("VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
tiles = len(restorer.grid_of(photo).places)
print(json.dumps({"limit": limit, "peak": peak, "tiles": tiles, "shape": restored.shape}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of processes that share a compile cache and can sum in the same order twice."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "XDG_CACHE_HOME": cache,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def start_training(workdir, environment):
    """The training command, which goes on where the workdir stands."""
    flags = [f"--config.{field}={value}" for field, value in FIELDS.items()]
    return subprocess.Popen(
        [*TRAIN, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def saved_steps(workdir):
    """Of the checkpoints that are there."""
    return [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]


def hash_at_the_end(workdir):
    """Of all arrays of the last checkpoint, by the record beside it."""
    record = workdir / f"checkpoints/{STEPS}/record/metadata"
    return json.loads(record.read_text())["sha256"]


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, environment):
    for package in NEEDED:
        pytest.importorskip(package)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start_training(whole, environment)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output

    process = start_training(killed, environment)
    deadline = time.monotonic() + 100
    while max(saved_steps(killed), default=-1) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert max(saved_steps(killed)) < STEPS

    process = start_training(killed, environment)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "Resuming from step" in output
    assert hash_at_the_end(killed) == hash_at_the_end(whole)


def test_a_photo_is_restored_within_the_memory_allowed(environment):
    pytest.importorskip("psutil")
    for _ in range(2):  # the second finds its program: trying kernels takes memory of its own
        result = subprocess.run(
            [sys.executable, "-c", RESTORE], env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["shape"] == [1000, 1500, 3]
    assert told["tiles"] > 1
    assert 0 < told["peak"] < told["limit"]
