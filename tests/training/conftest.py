"""Runs in processes of their own, to be killed."""

import copy
import dataclasses
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from mprnet_jax.config import (
    DataConfig,
    MeshConfig,
    OptimConfig,
    TrainConfig,
    cosine_steps,
    flatten,
)
from mprnet_jax.training import build, setup, validation
from mprnet_jax.training.interrupts import Interrupts
from mprnet_jax.training.loop import train_run

TIMEOUT = 300  # seconds for a process that is about to end, or to reach a step

# Trains the run whose config comes as JSON; `setup` is Python that runs before.
SCRIPT = """
import ctypes, gc, json, os, sys
gc.set_threshold(50_000)  # as in tests/conftest.py
import jax
from mprnet_jax.config import *
from mprnet_jax.errors import UserError
settings = json.loads(sys.argv[1])
workdir = sys.argv[2]
if __name__ == "__main__":  # not in loader workers
    exec(settings["setup"])
from mprnet_jax.training.loop import train
fields = settings["config"]
for name, kind in dict(model=ModelConfig, data=DataConfig, loss=LossConfig, optim=OptimConfig,
                       mesh=MeshConfig).items():
    fields[name] = kind(**fields[name])
def refuse(event, arguments):
    # Threads of XLA and TensorStore read the environment, and a process may crash if it grows then.
    if event == "os.putenv":
        raise RuntimeError(f"{arguments} is set while other threads run")
if __name__ == "__main__":
    sys.addaudithook(refuse)
    try:
        train(TrainConfig(**fields), workdir)
    except UserError as error:
        print("UserError:", error, flush=True)
        os._exit(2)  # as commands do
"""


class RunProcess:
    """A process that trains, and the folder it trains in."""

    def __init__(self, process, output: Path, workdir: Path):
        self._process, self._output = process, output
        self.workdir = workdir
        self.pid, self.kill = process.pid, process.kill

    @property
    def returncode(self) -> int | None:
        """Of the process if it has ended."""
        return self._process.poll()

    def saved_steps(self) -> list[int]:
        """Of the checkpoints that are there."""
        folder = self.workdir / "checkpoints"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return [int(name) for name in names if name.isdigit()]

    def last_step(self) -> int:
        """Of the newest checkpoint; -1 where there is none."""
        return max(self.saved_steps(), default=-1)

    def finish(self) -> str:
        """Waits for the end and returns all that was printed."""
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {TIMEOUT} s: {self._output.read_text()}") from None
        return self._output.read_text()

    def wait_for_step(self, step: int) -> None:
        """Waits until a checkpoint of this step or a later one is there."""
        deadline = time.monotonic() + TIMEOUT
        while self.last_step() < step:
            assert self.returncode is None, self.finish()
            if time.monotonic() > deadline:
                printed = self._output.read_text()
                raise AssertionError(f"no step {step} after {TIMEOUT} s: {printed}")
            time.sleep(0.01)


@pytest.fixture(autouse=True, scope="session")
def _steps_of_equal_configs_are_one():
    """Else each test would trace the same step anew, which takes most of its time."""
    steps = {}

    def kept(step, kind, config, mesh):
        fields = flatten(config, fixed_only=True)
        length = cosine_steps(config.optim.decay_steps, fields.pop("total_steps"), 0)
        key = (
            kind,
            str(fields),
            length,
            config.accumulate,
            config.model.remat,
            mesh,
            build.uses_flat_params(mesh),
        )
        return steps.setdefault(key, step)

    def train_step(config, mesh, params):
        init_state, step = build.build_train_step(copy.deepcopy(config), mesh, params)
        return init_state, kept(step, "train", config, mesh)

    def validation_step(config, mesh):
        step = build.build_validation_step(copy.deepcopy(config), mesh)
        return kept(step, "validate", config, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "build_train_step", train_step)
        patch.setattr(validation, "build_validation_step", validation_step)
        yield


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
        process.finish()
    started.clear()


@pytest.fixture(scope="session")
def start(launch, run_cache, started, tmp_path_factory):
    """Starts a process: start(config, workdir, setup="", **environment) -> RunProcess."""
    script = tmp_path_factory.mktemp("script") / "run.py"
    script.write_text(SCRIPT)

    def begin(config, workdir, setup="", **environment):
        settings = {"config": dataclasses.asdict(config), "setup": setup}
        settled = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(run_cache)}
        arguments = [script, json.dumps(settings), workdir]
        output = tmp_path_factory.mktemp("output") / "printed.txt"
        with output.open("w") as file:
            process = launch(arguments, settled | environment, stdout=file, stderr=file)
        process = RunProcess(process, output, workdir)
        started.append(process)
        return process

    return begin


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start_two(start, faults, tmp_path):
    """start_two(config, workdir, devices=2, main="", everywhere="", **environment) starts two
    processes with so many devices each, which take themselves for ones on two machines.

    Both run the Python of `everywhere` before, the first one that of `main` too.
    """
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another machine's")

    def begin(config, workdir, devices=2, main="", everywhere="", **environment):
        port = free_port()
        join = everywhere + f"jax.config.update('jax_num_cpu_devices', {devices})\n"
        join += "from mprnet_jax.devices import hosts\n"
        join += "hosts.HEARTBEAT_SECONDS = 5\n"  # waiting for lost ones is most of these tests
        join += f"hosts.join('127.0.0.1:{port}', 2, {{}})\n"
        join += "assert {{device.slice_index for device in jax.devices()}} == {{0, 1}}"
        elsewhere = environment | {"LD_PRELOAD": str(faults), "BOOT_ID_FILE": str(boot_id)}
        return [
            start(config, workdir, setup=main + join.format(0), **environment),
            start(config, workdir, setup=join.format(1), **elsewhere),
        ]

    return begin


@pytest.fixture(scope="session")
def go_on():
    """Trains a `Run` in this process to its end, or until a signal comes."""

    def train(run):
        with Interrupts() as interrupts:
            return train_run(run, interrupts)

    return train


@pytest.fixture(scope="session")
def final_hash():
    """Of all arrays of a run's last checkpoint, by the record that was saved with it."""

    def read(workdir, config):
        record = workdir / f"checkpoints/{config.total_steps}/record/metadata"
        return json.loads(record.read_text())["sha256"]

    return read


@pytest.fixture(scope="session")
def long_config(make_short_model):
    """Makes runs that save after every other step, and draw random numbers on the device too."""

    def make(total_steps=12):
        # The cosine's length is given, so that all of these runs are one program.
        optim = OptimConfig(learning_rate=1e-3, decay_steps=500, ema_decay=0.99, spike_factor=100.0)
        return TrainConfig(
            name="long",
            model=make_short_model(),
            data=DataConfig(source="sample_rain", mixup_from_step=2),
            optim=optim,
            mesh=MeshConfig(data=1),
            total_steps=total_steps,
            batch_size=2,
            patch_size=16,
            validation_crop=32,
            checkpoint_every=2,
            validate_every=total_steps,
            log_every=1,
        )

    return make


@pytest.fixture
def long_run(long_config):
    """Such a run, which a test may change."""
    return long_config()
