"""Fixtures and settings that all tests share."""

import asyncio
import dataclasses
import gc
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from mprnet_jax.config import (
    DataConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from mprnet_jax.devices import records

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Chromium as it is for tests: no sandbox, for CI may be root, and no traffic of its own.
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
warm = runpy.run_path(str(ROOT / "tests/warm.py"))

# Workers keep to a core each: thread pools of several on the same cores spend most of their time
# waking each other up. What a test starts inherits it.
worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if worker and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# Programs are compiled in a third of the time; tests run them a few times only. On one core, parts
# of a program that are compiled side by side only cost more.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"

CACHED_FROM = 0.05  # seconds that compiling takes

# A suite that runs in the background ignores Ctrl-C, and so would the processes that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects that live on; looking for dead ones takes a tenth of its time.
gc.set_threshold(50_000)

# Eight devices on the CPU, for meshes; what names no mesh runs on the first.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_configure(config):
    """Keeps tests to the CPU, unless all that are asked for lie in tests/accelerator."""
    accelerator = Path(__file__).parent / "accelerator"
    asked = [Path(argument.split("::")[0]).absolute() for argument in config.args]
    if all(path.is_relative_to(accelerator) for path in asked):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share the device
        return
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    jax.config.update("jax_platforms", "cpu")


def pytest_addoption(parser):
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="hundreds of kills, damages and interruptions, and whole networks, where the suite "
        "takes samples and short ones",
    )


def pytest_collection_modifyitems(items):
    """The tests that take longest come first, so that workers end together."""
    slow = ("test_survival.py", "test_hosts.py")
    items.sort(key=lambda item: item.path.name not in slow)


@pytest.fixture(scope="session")
def exhaustive(request) -> bool:
    """Whether to try all cases of a kind, by hand, or a sample of them."""
    return request.config.getoption("--exhaustive")


@pytest.fixture(scope="session")
def launch():
    """Starts a Python: launch(arguments, environment, stdout=, stderr=, cwd=None).

    Where it can, as a fork of a process that has the imports behind it; see tests/warm.py.
    """
    servers = {}

    def begin(arguments, environment, **options):
        arguments = [*map(str, arguments)]
        if sys.platform != "linux":
            command = [sys.executable, *arguments]
            return subprocess.Popen(command, env=environment, **options)
        preload = environment.get("LD_PRELOAD", "")
        if preload not in servers:
            servers[preload] = warm["Server"](LD_PRELOAD=preload)
        return servers[preload].start(arguments, environment, **options)

    yield begin
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session")
def run_python(launch):
    """Runs a Python to its end: run_python(*arguments, cwd=None, **environment)."""

    def run(*arguments, cwd=None, **environment):
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
            process = launch(arguments, variables, stdout=output, stderr=errors, cwd=cwd)
            try:
                process.wait(timeout=300)
            finally:
                process.kill()
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(
                arguments, process.returncode, output.read(), errors.read()
            )

    return run


@pytest.fixture(scope="session")
def faults(tmp_path_factory) -> Path:
    """The library that makes file operations fail (tests/faults/faults.c)."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).parent / "faults/faults.c"
    if sys.platform != "linux" or not shutil.which("cc"):
        reason = "needs Linux and a C compiler"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    flags = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror")
    subprocess.run(["cc", *flags, "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="session")
def emulator():
    """The server of a bucket (tests/faults/emulator.py), which this and started processes use."""
    server = runpy.run_path(str(Path(__file__).parent / "faults/emulator.py"))["Emulator"]()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ |= server.environment
    yield server
    server.shutdown()
    server.server_close()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def bucket(emulator) -> Iterator[str]:
    """The address of a folder in that bucket."""
    emulator.clear()
    yield f"gs://bucket/{uuid.uuid4().hex}"
    emulator.clear()


@pytest.fixture
def _impatient(monkeypatch):
    """Attempts to reach a bucket follow each other at once, are fewer, and none takes long."""
    import aiohttp
    import fsspec

    from mprnet_jax.compat import gcsfs, orbax

    gcsfs.register()
    timeout = aiohttp.ClientTimeout(sock_read=10)
    for options in ({}, {"finalize_on_close": True}):  # ours, and etils's
        monkeypatch.setattr(fsspec.filesystem("gcs", **options), "requests_timeout", timeout)

    async def sleep(seconds, wait=asyncio.sleep):
        await wait(min(seconds, 0.01))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for name, value in {"max_retries": 2, "initial_delay": "10ms", "max_delay": "20ms"}.items():
        monkeypatch.setitem(orbax.RETRIES, name, value)


@pytest.fixture(scope="session", autouse=True)
def _compile_cache(tmp_path_factory):
    """What several tests compile is compiled once, and nothing is left in the user's cache.

    Programs that compile in less than JAX's second are most of what tests compile; started
    processes keep them too.
    """
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compile_cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_FROM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(CACHED_FROM))
        yield


@pytest.fixture(autouse=True)
def _measured_anew(monkeypatch):
    """What programs cost in one test does not change what another one plans."""
    monkeypatch.setattr(records, "FILE", f"{uuid.uuid4().hex}.json")


@pytest.fixture
def compiles():
    """Programs of restorers that were compiled since the test began: how long each took."""
    seen = []

    def listen(event: str, seconds: float, **details) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and details.get("fun_name") in (
            "restore",
            "jit(restore)",
        ):
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[[], ModelConfig]:
    """Makes the smallest network with all parts and different widths at all levels."""
    return lambda: ModelConfig(width=4, unet_growth=2, orsnet_growth=3, cabs_per_orb=1)


@pytest.fixture
def tiny_model(make_tiny_model) -> ModelConfig:
    """Such a network, which a test may change."""
    return make_tiny_model()


@pytest.fixture(scope="session")
def make_short_model(make_tiny_model) -> Callable[[], ModelConfig]:
    """Makes a network of one short stage: a tenth of the layers, for tests that need just any.

    Most of what a process that trains takes here is tracing its network, layer by layer.
    """
    return lambda: dataclasses.replace(make_tiny_model(), stages="orsnet")


@pytest.fixture
def tiny_run(tiny_model) -> TrainConfig:
    """A run of a few seconds on the embedded sample."""
    return TrainConfig(
        name="tiny",
        model=tiny_model,
        data=DataConfig(source="sample_rain"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2, decay_steps=4),
        mesh=MeshConfig(data=1),
        total_steps=6,
        batch_size=2,
        patch_size=16,
        validation_crop=32,
        checkpoint_every=2,
        validate_every=3,
        log_every=1,
    )


@pytest.fixture
def short_run(tiny_run, make_short_model) -> TrainConfig:
    """Such a run with a network of one stage."""
    return dataclasses.replace(tiny_run, model=make_short_model())


@pytest.fixture
def make_step() -> Callable[[ModelConfig], tuple]:
    """Makes a training step: make_step(config) -> the jitted step and the state at its start."""
    from mprnet_jax.devices.compiling import jit
    from mprnet_jax.model.mprnet import pure_functions
    from mprnet_jax.training.optimizer import make_optimizer
    from mprnet_jax.training.state import create_state
    from mprnet_jax.training.step import train_step

    def make(config):
        init, apply = pure_functions(config)
        optim = OptimConfig()
        optimizer = make_optimizer(optim, total_steps=10)
        step = jit(
            partial(train_step, apply=apply, optimizer=optimizer, loss=LossConfig(), optim=optim)
        )
        return step, create_state(init(0), optimizer, optim)

    return make


@pytest.fixture
def photo() -> Callable[..., np.ndarray]:
    """Makes noise [H, W, C] of a size and dtype."""

    def make(height: int, width: int, dtype=np.uint8, channels: int = 3) -> np.ndarray:
        floats = np.random.default_rng(0).random((height, width, channels))
        if np.issubdtype(dtype, np.integer):
            return (floats * np.iinfo(dtype).max).astype(dtype)
        return floats.astype(dtype)

    return make


@pytest.fixture
def tab():
    """A tab of Chromium; all addresses that it asks for are in `tab.asked`."""
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        reason = f"none of {', '.join(BROWSERS)} is here: apt-get install chromium"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        tab = browser.new_page()
        tab.set_default_timeout(120_000)  # ms; CI's machines may be busy
        tab.asked = []
        tab.on("request", lambda request: tab.asked.append(request.url))
        yield tab
        browser.close()


@pytest.fixture
def hub(tmp_path_factory, monkeypatch) -> Iterator:
    """A Hub of its own (tests/hub_server.py) with an empty cache, here and in started processes."""
    import huggingface_hub
    from huggingface_hub import constants

    serve = runpy.run_path(str(Path(__file__).parent / "hub_server.py"))["serve"]
    home = tmp_path_factory.mktemp("hub")
    running = serve()
    server = next(running)
    for name, value in {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # The library reads its variables when it is imported.
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    yield server
    huggingface_hub.close_session()
    running.close()
