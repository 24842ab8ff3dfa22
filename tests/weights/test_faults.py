"""Saves that are killed, and disks that fail, at each operation on files; damaged checkpoints."""

import errno
import itertools
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints

# Saves checkpoints 1 and 2, then 3 while the disk fails.
SCRIPT = """
import ctypes, os, sys
import numpy as np
from mprnet_jax.errors import UserError
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints

folder, at, error = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
faults = ctypes.CDLL(None)

def tree(step):
    values = np.random.default_rng(step).random(4096, np.float32)
    return Checkpoint(step, {"w": values}, {"count": np.int32(step)}, {"batches": step})

try:
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(tree(step))
            checkpoints.wait_until_finished()
        faults.faults_arm(folder.encode(), at, error)
        checkpoints.save(tree(3))
        checkpoints.set_score(3, 1.0)
        checkpoints.wait_until_finished()
    print(faults.faults_seen())
except UserError as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(2)  # as commands do
"""


def tree(step):
    values = np.random.default_rng(step).random(4096, np.float32)
    return Checkpoint(step, {"w": values}, {"count": np.int32(step)}, {"batches": step})


def load(folder):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=device),
        (tree(0).params, tree(0).training_state),
    )
    with Checkpoints(folder) as checkpoints:
        return checkpoints.load_newest(*like)


def assert_sound(loaded, step):
    assert loaded.step == step
    assert loaded.record == {"batches": step}
    expected = tree(step)
    assert np.asarray(loaded.params["w"]).tobytes() == expected.params["w"].tobytes()
    assert int(loaded.training_state["count"]) == step


@pytest.fixture(scope="module")
def save(faults, run_python, tmp_path_factory):
    """Runs the script in a new folder: (folder, finished process)."""

    def run(at, error):
        folder = tmp_path_factory.mktemp("run")
        return folder, run_python("-c", SCRIPT, folder, at, error, LD_PRELOAD=str(faults))

    return run


@pytest.fixture(scope="module")
def operations(save):
    """How many operations on files a save takes."""
    folder, process = save(0, 0)
    assert process.returncode == 0, process.stderr
    assert_sound(load(folder), 3)
    return int(process.stdout)


def some(operations, exhaustive, count):
    """The numbers of all operations, or of a few from the first to the last."""
    numbers = range(1, operations + 1)
    return numbers if exhaustive else np.linspace(1, operations, count, dtype=int).tolist()


def test_a_save_that_is_killed_leaves_whole_checkpoints(save, operations, exhaustive):
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda at: save(at, 0), some(operations, exhaustive, 6))
        newest = []
        for folder, process in runs:
            # Threads share the work, so the last operations may have fewer numbers in another run.
            assert process.returncode in (-signal.SIGKILL, 0), process.stderr
            loaded = load(folder)
            newest.append(loaded.step)
            assert_sound(loaded, newest[-1])
            assert not list(folder.glob("damaged-*"))  # what is not whole is not taken for a loss
    assert set(newest) <= {2, 3}
    assert newest[0] == 2


def test_a_disk_that_fails_is_reported_in_one_line(save, operations, exhaustive):
    errors = (errno.ENOSPC, errno.EIO, errno.EACCES)
    places = some(operations - 5, exhaustive, 3)
    cases = itertools.product(places, errors) if exhaustive else zip(places, errors, strict=True)
    with ThreadPoolExecutor(2) as pool:
        for folder, process in pool.map(lambda case: save(*case), cases):
            assert process.returncode == 2, process.stdout
            (line,) = process.stderr.strip().splitlines()
            assert "a checkpoint cannot be written" in line
            assert "the same command again" in line
            steps = {int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit()}
            assert steps > {2}  # 1 goes only when 3 is whole
            assert_sound(load(folder), max(steps))


def damage(path, kind, random):
    """Damages a file at a random offset."""
    data = bytearray(path.read_bytes())
    offset = int(random.integers(len(data))) if data else 0
    if kind == "missing" or not data:
        path.unlink()
    elif kind == "flipped":
        data[offset] ^= 1 << random.integers(8)
        path.write_bytes(data)
    elif kind == "truncated":
        path.write_bytes(data[:offset])
    else:  # zeroed from there on, as after a power cut
        path.write_bytes(data[:offset] + bytes(len(data) - offset))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_orbax_leaves_coroutines_behind")
def test_damaged_checkpoints_are_never_used_silently(tmp_path, exhaustive):
    with Checkpoints(tmp_path / "whole") as checkpoints:
        for step in (1, 2):
            checkpoints.save(tree(step))
    random = np.random.default_rng(0)
    kinds = ("flipped", "truncated", "zeroed", "missing")
    passed_over = 0
    for number in range(1000 if exhaustive else 52):
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        files = sorted(p for p in (folder / "checkpoints/2").rglob("*") if p.is_file())
        path = files[random.integers(len(files))]
        kind = kinds[number % len(kinds)]
        damage(path, kind, random)
        loaded = load(folder)
        # Files that say nothing of the arrays may be damaged without any harm.
        assert loaded.step in (1, 2), f"{kind} {path}"
        assert_sound(loaded, loaded.step)
        passed_over += loaded.step == 1
        shutil.rmtree(folder)
    assert passed_over > number // 4


def test_all_damaged_is_an_error_that_leaves_them_where_they_are(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(tree(1))
    for path in (tmp_path / "checkpoints/1").rglob("*"):
        if path.is_file() and "_METADATA" not in path.name:
            path.write_bytes(b"")
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        load(tmp_path)
    assert (tmp_path / "checkpoints/1").is_dir()
