"""How many programs are compiled, counted by JAX's own events, and that they agree."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import memory
from mprnet_jax.devices.mesh import make_mesh
from mprnet_jax.imageio import photos
from mprnet_jax.imageio.photos import Photo
from mprnet_jax.restoration.costs import Costs, ProgramShape
from mprnet_jax.restoration.engine import Program
from mprnet_jax.restoration.folders import list_jobs
from mprnet_jax.restoration.jax_engine import max_program_pixels
from mprnet_jax.restoration.pipeline import Pipeline, Summary
from mprnet_jax.restoration.programs import Programs
from mprnet_jax.restoration.restorer import Restorer


def some_sizes(count: int, low: int, high: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return [tuple(map(int, rng.integers(low, high, 2))) for _ in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"local_pooling": True},
        {"stages": 1},
        {"tile": 128},
        {"ensemble": True},
        {"batch_size": 3},
    ],
    ids=str,
)
def test_a_folder_of_many_sizes_takes_few_programs(short, photo, tmp_path, compiles, options):
    sizes = some_sizes(12, 20, 180 if "tile" in options else 100)
    for number, size in enumerate(sizes):
        photos.write(tmp_path / f"in/{number}.png", Photo(photo(*size)))
    restorer = Restorer(short, **options)
    jobs = list_jobs([tmp_path / "in"], tmp_path / "out")
    assert Pipeline(restorer).run(jobs) == Summary(12, 0, 0)
    assert len(compiles) <= 4
    for job in jobs[::5] if not options.get("ensemble") else jobs[:1]:  # two programs each
        before, after = (photos.read(path).pixels for path in job)
        expected = Restorer(short, **options)(before)
        # Rounding may go either way.
        assert np.abs(after.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("options", [{}, {"local_pooling": True}, {"stages": 1}], ids=str)
def test_floats_agree_with_those_of_exact_programs(model, photo, options):
    sizes = some_sizes(3, 30, 100)
    restorer = Restorer(model, **options)
    assert all(program.canvas for program in restorer.plan(sizes).programs.values())
    for size in sizes:
        image = photo(*size, np.float32)
        expected = Restorer(model, **options)(image)
        # Rounding of float32 in sums of another order.
        np.testing.assert_allclose(restorer(image), expected, atol=1e-5)


def test_photos_of_several_sizes_spread_over_devices(short, photo):
    sizes = some_sizes(4, 30, 100)
    spread = Restorer(short, mesh=make_mesh(data=2, height=2))
    spread.plan(sizes)
    photos = [photo(*size, np.float32) for size in sizes]
    for image, found in zip(photos, spread.batch(photos)):
        np.testing.assert_allclose(found, Restorer(short)(image), atol=1e-5)  # as above


def test_sizes_that_nobody_announced(short, photo, compiles):
    restorer = Restorer(short)
    restorer._programs.costs.seconds_per_pixel = 1e-7  # pixels cost next to nothing
    # The first size gets a program of its own, the second one a canvas with some room.
    for size in ((64, 64), (50, 70), (40, 100), (60, 60), (30, 66)):
        restorer(photo(*size))
    assert len(compiles) == 2
    assert restorer.program_for((60, 60)) == ProgramShape(64, 64, False)
    assert restorer.program_for((30, 66)) == ProgramShape(64, 128, True)


def test_programs_of_an_earlier_command_are_chosen_again(short, photo, monkeypatch):
    # As if each took so long: what is chosen must not hang on how busy this machine is.
    compiled, ran = Costs.record_compile, Costs.record_run
    monkeypatch.setattr(Costs, "record_compile", lambda *a: compiled(*a[:2], 3.0, *a[3:]))
    monkeypatch.setattr(Costs, "record_run", lambda *a: ran(*a[:3], 1e-6 * a[1].pixels))
    sizes = some_sizes(6, 20, 100)
    restorer = Restorer(short)
    first = restorer.plan(sizes)
    for size in sizes:
        restorer(photo(*size))
    assert Restorer(short).plan(sizes).order == first.order
    # Also for photos that nobody announced.
    (canvas,) = first.order
    assert Restorer(short).program_for((20, 20)) == canvas


def test_a_large_photo_takes_at_most_two_compiles(short, compiles, monkeypatch):
    restorer = Restorer(short)
    # Of which the photo's copies take 720 MB.
    monkeypatch.setattr(memory, "available_host_bytes", lambda: 1_000_000_000)
    grid = restorer.grid_of(np.broadcast_to(np.uint8(0), (3000, 4000, 3)))
    assert len(grid.places) > 1
    assert len(compiles) <= 2


def test_gpus_get_no_maps_of_more_than_2_31_elements():
    """The largest maps of deblur have 192 channels: two of 96 that are joined."""
    assert max_program_pixels(ModelConfig.deblur(), 1) * 192 < 2**31
    assert (max_program_pixels(ModelConfig.deblur(), 1) + 1) * 192 >= 2**31
    assert max_program_pixels(ModelConfig.derain(), 4) * 80 * 4 < 2**31
    one_stage = ModelConfig(8, 0, 4, stages="orsnet")
    assert (
        max_program_pixels(one_stage, 1) * 12 < 2**31 <= (max_program_pixels(one_stage, 1) + 1) * 12
    )


def test_tiles_are_no_larger_than_allowed(short, monkeypatch):
    restorer = Restorer(short)
    monkeypatch.setattr(restorer._programs.chooser, "max_program_pixels", 128 * 128)
    assert max(restorer.grid_of(np.zeros((400, 400, 3), np.uint8)).tile) == 128


def test_a_size_that_comes_often_gets_its_own_program_in_the_end(short, photo):
    restorer = Restorer(short)
    restorer(photo(64, 64))
    restorer(photo(60, 120))
    costs = restorer._programs.costs
    costs.compile_seconds = {False: 3.0, True: 3.0}
    costs.seconds_per_pixel = 5e-4  # each photo wastes two seconds
    for _ in range(2):
        assert restorer.program_for((50, 70)) == ProgramShape(64, 128, True)
        restorer(photo(50, 70))
    assert restorer.program_for((50, 70)) == ProgramShape(56, 72, False)


def test_an_error_does_not_wait_for_what_is_planned(short, photo):
    """Python joins the compiling thread when it ends; it must not go on with the plan."""
    restorer = Restorer(short)
    restorer._programs.costs.seconds_per_pixel = 1.0  # so that each size gets a program
    restorer.plan([(64, 64), (72, 72), (80, 80), (88, 88)])
    with restorer._programs._lock:
        begun = len(restorer._programs._futures)
        restorer._programs._queue.clear()  # or other tests would count what still comes
    assert begun <= 2


def test_a_bug_keeps_its_type_and_the_program_is_tried_again(stub, photo):
    class Buggy:
        def lower(self, *arguments):
            raise TypeError("a bug")

    restorer = Restorer(stub)
    whole, restorer._programs.engine._restore = restorer._programs.engine._restore, Buggy()
    with pytest.raises(TypeError, match="a bug"):
        restorer(photo(8, 8))
    restorer._programs.engine._restore = whole
    assert restorer(photo(8, 8)).shape == (8, 8, 3)


def test_what_is_waited_for_is_compiled_before_the_rest_of_a_plan():
    begun, may_end = [], threading.Semaphore(0)

    class Engine:
        fixed_batch, max_program_pixels, cpu_devices = False, math.inf, 1
        costs = Costs("test", {False: 1.0, True: 1.0}, 1.0, 1.0)  # each size gets a program

        def compile(self, shape):
            begun.append(shape.height)
            may_end.acquire()
            return Program(None, bytes=shape.height)

    programs = Programs(Engine(), batch_size=1)
    programs.plan({(8 * side, 8 * side): 1 for side in range(9, 4, -1)}, math.inf)

    def wait_for_a_program_that_is_not_planned(side, busy_with):
        wait_until(lambda: begun[-1:] == [busy_with])
        shape = ProgramShape(side, side, False)
        waiting = pool.submit(programs.program_bytes, shape)
        wait_until(lambda: shape in programs._futures)
        may_end.release(2)
        assert waiting.result(timeout=60) == side

    with ThreadPoolExecutor(1) as pool:
        try:
            wait_for_a_program_that_is_not_planned(8, busy_with=72)
            wait_for_a_program_that_is_not_planned(16, busy_with=64)
        finally:
            may_end.release(99)
    wait_until(lambda: len(begun) == 7)
    assert begun == [72, 8, 64, 16, 56, 48, 40]


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
