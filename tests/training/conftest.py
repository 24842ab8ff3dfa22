"""Runs in processes of their own, to be killed."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

# Trains the run whose config comes as JSON; `setup` is Python that runs before.
SCRIPT = """
import ctypes, json, os, sys
import jax
from mprnet_jax.config import *
from mprnet_jax.errors import UserError
settings = json.loads(sys.argv[1])
workdir = sys.argv[2]
exec(settings["setup"])
from mprnet_jax.training.loop import train
fields = settings["config"]
for name, kind in dict(model=ModelConfig, data=DataConfig, loss=LossConfig, optim=OptimConfig,
                       mesh=MeshConfig).items():
    fields[name] = kind(**fields[name])
if __name__ == "__main__":
    try:
        train(TrainConfig(**fields), workdir)
    except UserError as error:
        print("UserError:", error, flush=True)
        os._exit(2)  # as commands do
"""


@pytest.fixture(scope="session")
def run_cache(tmp_path_factory):
    """A compile cache that all of these processes share, those of other workers too."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "run_cache"


@pytest.fixture(scope="session")
def started():
    """The processes of the test that runs."""
    return []


@pytest.fixture(autouse=True)
def _nothing_is_left_running(started):
    """Also where a test fails: what it started would take cores and files from the next ones."""
    yield
    for process in started:
        process.kill()
        process.communicate()
    started.clear()


@pytest.fixture(scope="session")
def start(run_cache, started, tmp_path_factory):
    """Starts a process: start(config, workdir, setup="", **environment) -> Popen."""
    script = tmp_path_factory.mktemp("script") / "run.py"
    script.write_text(SCRIPT)

    def begin(config, workdir, setup="", **environment):
        settings = {"config": dataclasses.asdict(config), "setup": setup}
        settled = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(run_cache)}
        process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(settings), str(workdir)],
            env=os.environ | settled | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    return begin


@pytest.fixture(scope="session")
def final_hash():
    """Of all arrays of a run's last checkpoint, by the record that was saved with it."""

    def read(workdir, config):
        record = workdir / f"checkpoints/{config.total_steps}/record/metadata"
        return json.loads(record.read_text())["sha256"]

    return read
