"""Runtimes for ONNX models restore what JAX restores, and compile nothing."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mprnet_jax.devices import memory
from mprnet_jax.devices.mesh import make_mesh
from mprnet_jax.errors import UserError
from mprnet_jax.export import runtimes
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.restoration.costs import ProgramShape
from mprnet_jax.restoration.restorer import ENGINES, Restorer, fastest_engine

RUNTIMES = ENGINES[2:]
SIZES = ((24, 32), (33, 50), (7, 90))
# Rounding of float32 in sums of another order; ten times what was measured.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def restored(model):
    """What JAX makes of photos: restored(photos, **options) -> [array]; kept for both runtimes."""
    kept = {}

    def restore(photos, **options):
        key = str([photo.shape for photo in photos]), str(options)
        if key not in kept:
            restorer = Restorer(model, **options)
            restorer.plan([photo.shape[:2] for photo in photos])
            kept[key] = restorer.batch(photos)
        return kept[key]

    return restore


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"stages": 1}], ids=str)
def test_photos_of_all_sizes_as_by_jax(model, photo, restored, runtime, options):
    photos = [photo(*size, np.float32) for size in (*SIZES, SIZES[0])]
    found = Restorer(model, engine=runtime, **options).batch(photos)
    for one, other in zip(found, restored(photos, **options), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=ROUNDING)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("size", "options"), [((136, 72), {"tile": 72}), ((24, 24), {"ensemble": True})], ids=str
)
def test_tiles_and_ensembles_as_by_jax(model, photo, restored, runtime, size, options):
    image = photo(*size, np.float32)
    restorer = Restorer(model, engine=runtime, **options)
    np.testing.assert_allclose(restorer(image), restored([image], **options)[0], atol=ROUNDING)
    assert len(restorer.grid_of(image).places) == (3 if "tile" in options else 1)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_stages_and_photos_of_integers_as_by_jax(model, photo, restored, runtime):
    image = photo(33, 50)
    jax, restorer = Restorer(model), Restorer(model, engine=runtime)
    stages = zip(restorer.stages_of(image), jax.stages_of(image), strict=True)
    for one, other in [*stages, (restorer(image), jax(image))]:
        assert one.dtype == np.uint8
        assert np.abs(one.astype(int) - other).max() <= 1  # rounding may go either way
    first, last = (restorer.stages_of(image)[i].astype(int) for i in (1, 0))
    assert np.abs(first - last).max() > 1


def test_sizes_have_their_own_programs_and_nothing_is_compiled(short, photo, compiles, capsys):
    restorer = Restorer(short, engine="onnxruntime", batch_size=3)
    sizes = [(8 * (i % 25 + 1), 8 * (i // 25 + 1)) for i in range(500)]
    planned = restorer.plan(sizes).programs
    assert planned == {size: ProgramShape(*size, False) for size in sizes}
    for height in (64, 61, 128, 8):  # that nobody announced
        assert restorer.program_for((height, 701)) == ProgramShape(-(-height // 8) * 8, 704, False)
        restorer(photo(height, 701))
    assert not compiles
    assert "ompiling" not in "".join(capsys.readouterr())


def test_an_engine_computes_no_more_photos_than_it_is_given(short, photo, monkeypatch):
    restorer = Restorer(short, engine="onnxruntime", batch_size=4)
    seen = []
    replace_runs(monkeypatch, restorer, lambda run, images: seen.append(len(images)) or run(images))
    restorer.batch([photo(8, 8)] * 6)
    assert seen == [4, 2]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_memory_is_kept_for_photos_of_the_same_size_only(short, photo, runtime, monkeypatch):
    restorer = Restorer(short, engine=runtime)
    runs = restorer._programs.engine._runtime
    release, released = runs.release, []
    monkeypatch.setattr(runs, "release", lambda: released.append(seen[-1]) or release())
    seen = []
    for width in (16, 16, 24, 16):  # whose grids are chosen when they are first seen
        seen.append(width)
        restorer(photo(16, width))
    assert released == [24, 16]
    restorer.grid_of(photo(32, 32))
    assert released == [24, 16, 16]


def replace_runs(monkeypatch, restorer, function):
    """Makes a restorer's runtime do `function(run, images)` instead of `run(images)`."""
    kind = type(restorer._programs.engine._runtime)

    class Replaced(kind):
        def __call__(self, images):
            return function(super().__call__, images)

    monkeypatch.setattr(restorer._programs.engine._runtime, "__class__", Replaced)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_tiles_shrink_where_a_runtime_lacks_memory(short, photo, runtime, monkeypatch):
    kind = {"onnxruntime": "Fail", "openvino": "RuntimeError"}[runtime]
    package = runtimes.import_runtime(runtime)
    error = RuntimeError
    if runtime == "onnxruntime":
        error = getattr(package.capi.onnxruntime_pybind11_state, kind)
    image, restorer = photo(300, 400), Restorer(short, engine=runtime)

    def refuse(run, images):
        if images.shape[1] * images.shape[2] > 50_000:
            with runtimes.as_memory_error(error):
                raise error("while running Conv\nFailed to allocate 33554432 bytes of memory\n")
        return run(images)

    replace_runs(monkeypatch, restorer, refuse)
    assert restorer(image).shape == image.shape
    assert len(restorer.grid_of(image).places) > 1
    whole = Restorer(short, engine=runtime, tile="off")
    replace_runs(monkeypatch, whole, refuse)
    expected = r"small \(Failed to allocate 33554432 bytes of memory\): restore 1 x 400x304"
    with pytest.raises(memory.OutOfMemory, match=expected):
        whole(image)
    with pytest.raises(error, match="another"), runtimes.as_memory_error(error):
        raise error("another")


ADDRESS_SPACE = """
import resource, sys
import numpy as np
from mprnet_jax import ModelConfig
from mprnet_jax.devices import memory
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.restoration.restorer import Restorer
config = ModelConfig(4, 2, 3, cabs_per_orb=1, stages="orsnet+orsnet")
model = with_params(config, pure_functions(config)[0](0))
restorer = Restorer(model, engine=sys.argv[1], tile="off")
before = restorer(np.zeros((64, 64, 3), np.uint8))
limit = memory.this_process().memory_info().vms + 100_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
try:
    restorer(np.zeros((1024, 1024, 3), np.uint8))
except memory.OutOfMemory as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert (restorer(np.zeros((64, 64, 3), np.uint8)) == before).all()
"""


def test_a_runtime_goes_on_after_it_had_too_little_memory(run_python):
    """Not OpenVINO, which under a limit on address space may end the process."""
    done = run_python("-c", ADDRESS_SPACE, "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "the memory is too small (" in done.stdout


LIMITED = """
import resource, sys
import numpy as np
from mprnet_jax import ModelConfig
from mprnet_jax.devices import memory
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.restoration.restorer import Restorer
config = ModelConfig(16, 8, 8, cabs_per_orb=1, stages="unet+orsnet")
model = with_params(config, pure_functions(config)[0](0))
limit = memory.this_process().memory_info().rss + int(sys.argv[2])
restorer = Restorer(model, engine=sys.argv[1], memory_limit=limit)
for width in (1000, 700, 1000):
    photo = np.zeros((1000, width, 3), np.uint8)
    restorer(photo)
    assert len(restorer.grid_of(photo).places) > 1
    print(limit - 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("megabytes", [400, 600])
def test_a_limit_of_memory_is_obeyed(runtime, megabytes, exhaustive, run_python):
    if not exhaustive:
        pytest.skip("takes half a minute; --exhaustive runs it")
    done = run_python("-c", LIMITED, runtime, megabytes * 1_000_000)
    assert done.returncode == 0, done.stderr
    left = [int(line) for line in done.stdout.split()]
    # Most of it is used, and no more.
    assert len(left) == 3
    assert 0 <= left[-1] < 300_000_000, left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_pooling": True}, "local_pooling=True: is not for engine={}; use engine=jax"),
        ({"precision": "highest"}, "precision=highest: is not for engine={}; use engine=jax"),
        ({"mesh": {"data": 2}}, "mesh of 2 devices: is not for engine={}; use engine=jax"),
    ],
    ids=str,
)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_a_runtime_cannot_do_is_named(short, runtime, options, message):
    if "mesh" in options:
        options = {"mesh": make_mesh(**options["mesh"])}
    with pytest.raises(UserError, match=message.format(runtime)):
        Restorer(short, engine=runtime, **options)


def test_an_unknown_engine_is_refused(short):
    with pytest.raises(
        UserError, match="engine=tvm: must be one of auto, jax, onnxruntime, openvino"
    ):
        Restorer(short, engine="tvm")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_not_installed_is_named_with_its_extra(short, runtime, monkeypatch):
    for package, name in {runtime: runtimes.NAMES[runtime], "onnx": "ONNX"}.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            patch.delitem(sys.modules, "mprnet_jax.export.graph", raising=False)
            patch.delattr("mprnet_jax.export.graph", raising=False)
            expected = rf"^{name} is not installed: pip install 'mprnet-jax\[{runtime}\]'$"
            with pytest.raises(UserError, match=expected):
                Restorer(short, engine=runtime)


def test_the_fastest_engine_is_openvino_where_it_can_restore(short, photo, monkeypatch):
    one = make_mesh(data=1)

    def engine(mesh=one, local_pooling=False, precision=None):
        return fastest_engine(mesh, local_pooling=local_pooling, precision=precision)

    assert engine() == "openvino"
    assert engine(local_pooling=True) == engine(precision="highest") == "jax"
    assert engine(mesh=make_mesh(data=2)) == "jax"
    gpu = SimpleNamespace(devices=np.array([[SimpleNamespace(platform="gpu")]]))
    assert engine(mesh=gpu) == "jax"
    for package in ("openvino", "onnx"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            assert engine() == "jax"
    with monkeypatch.context() as patch:
        patch.setattr(memory, "address_space_limit", lambda: 2**40)
        assert engine() == "jax"
    image = photo(16, 24)
    fastest, openvino = (Restorer(short, engine=engine) for engine in ("auto", "openvino"))
    np.testing.assert_array_equal(fastest(image), openvino(image))
    assert type(fastest._programs.engine) is type(openvino._programs.engine)


def test_bfloat16_is_openvinos_alone(tiny_model, photo):
    tiny_model.stages, tiny_model.dtype = "orsnet", "bfloat16"
    network = with_params(tiny_model, pure_functions(tiny_model)[0](0))
    with pytest.raises(UserError, match="in float32, not in bfloat16; use openvino or jax"):
        Restorer(network, engine="onnxruntime")
    image = photo(16, 24, np.float32)
    # bfloat16 has 8 bits. A processor without it computes in float32.
    found, expected = (Restorer(network, engine=engine)(image) for engine in ("openvino", "jax"))
    np.testing.assert_allclose(found, expected, atol=0.05)
