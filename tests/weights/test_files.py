"""Weight files come in, go out unchanged, and are refused in one line when they are wrong."""

import builtins
import dataclasses
import json
import resource
import subprocess
import sys
from collections import OrderedDict

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax import nnx

import mprnet_jax
from mprnet_jax import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.weights import checkpoints, files, names, run_folder, torch_reference
from mprnet_jax.weights import safetensors as safetensors_format


@dataclasses.dataclass
class Run:
    """What a run folder's config must have."""

    model: ModelConfig


def tensors(weights) -> OrderedDict:
    return OrderedDict((name, torch.from_numpy(array)) for name, array in weights.items())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == np.float32
        assert found[name].shape == expected[name].shape
        assert found[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", ["bare", "state_dict", "module", "training"])
def test_every_form_of_pth_is_read(tmp_path, weights, form, legacy):
    state = tensors(weights)
    saved = {
        "bare": state,
        "state_dict": {"state_dict": state},
        "module": {"state_dict": {f"module.{name}": state[name] for name in state}},
        "training": {"epoch": 7, "state_dict": state, "optimizer": {"state": {0: state}}},
    }
    path = tmp_path / "model.pth"
    torch.save(saved[form], path, _use_new_zipfile_serialization=not legacy)
    assert_same(files.read_official(path), weights)


def test_parameters_saved_as_such_are_read(tmp_path, weights):
    state = {name: torch.nn.Parameter(tensor) for name, tensor in tensors(weights).items()}
    torch.save(state, tmp_path / "model.pth")
    assert_same(files.read_official(tmp_path / "model.pth"), weights)


def test_pth_to_safetensors_to_pth_keeps_every_bit(tmp_path):
    model = torch_reference.build(ModelConfig.derain())
    first, middle, last = (tmp_path / n for n in ("a.pth", "b.safetensors", "c.pth"))
    torch.save({"state_dict": model.state_dict()}, first)
    files.write(middle, *files.read(first))
    files.write(last, *files.read(middle))
    returned = torch.load(last, weights_only=True)["state_dict"]
    assert len(returned) == 316
    for name, tensor in model.state_dict().items():
        assert torch.equal(returned[name], tensor)
    # Weights alone: 3,637,249 numbers of 4 bytes, 54 more copies of the slope, and the names.
    assert 14_548_996 < middle.stat().st_size < 14_620_000


def test_safetensors_load_into_the_pytorch_model(tmp_path, config, weights):
    path = tmp_path / "model.safetensors"
    files.write(path, *names.from_official(weights), {"source": "model_deraining.pth"})
    state = safetensors.torch.load_file(path)
    torch_reference.build(config).load_state_dict(state, strict=True)
    assert_same({name: tensor.numpy() for name, tensor in state.items()}, weights)


def test_metadata_say_what_the_file_is(tmp_path, config, weights):
    official = tmp_path / "model_deraining.pth"
    torch.save({"state_dict": tensors(weights)}, official)
    source = official
    for name in ("once", "twice"):  # what is known passes on
        path = tmp_path / f"{name}.safetensors"
        files.write(path, *files.read(source))
        source = path
        _, metadata = safetensors_format.read_file(path)
        assert metadata["task"] == "derain"
        assert metadata["source"] == "model_deraining.pth"
        assert "Academic Public License" in metadata["licence"]
        assert ModelConfig(**json.loads(metadata["config"])) == config


@pytest.mark.parametrize("extension", ["pth", "safetensors"])
def test_the_same_weights_make_the_same_bytes(tmp_path, weights, extension):
    paths = [tmp_path / f"{name}.{extension}" for name in "ab"]
    for path in paths:
        files.write(path, *names.from_official(weights), {"task": "derain", "source": "here"})
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_run_folder_to_safetensors_keeps_every_bit(tmp_path, config, weights):
    _, params = names.from_official(weights)
    run = tmp_path / "run"
    run.mkdir()
    run_folder.write_config(run, Run(config))
    saved = checkpoints.Checkpoints(run)
    saved.save(
        checkpoints.Checkpoint(1, params, training_state={"step": jax.numpy.ones(())}, record={})
    )
    saved.close()
    path = tmp_path / "model.safetensors"
    files.write(path, *files.read(run))
    assert_same(files.read_official(path), weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load_gives_a_network_that_computes_in_the_dtype(tmp_path, config, weights, dtype):
    path = tmp_path / "model.safetensors"
    files.write(path, *names.from_official(weights))
    model = mprnet_jax.load(path, dtype=dtype)
    assert model.config.dtype == dtype
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert_same(names.to_official(config, params), weights)
    features = jax.eval_shape(model.concat12, jax.ShapeDtypeStruct((1, 8, 8, 16), np.float32))
    assert features.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("extension", ["pth", "safetensors"])
def test_other_floats_become_float32(tmp_path, weights, dtype, extension):
    path = tmp_path / f"model.{extension}"
    cast = {name: array.astype(dtype) for name, array in weights.items()}
    if extension == "pth":
        torch_dtype = getattr(torch, np.dtype(dtype).name)
        torch.save({name: t.to(torch_dtype) for name, t in tensors(weights).items()}, path)
    else:
        safetensors.numpy.save_file(cast, path)
    found = names.to_official(*files.read(path)[:2])
    assert_same(found, {name: array.astype(np.float32) for name, array in cast.items()})


def test_weights_that_are_not_finite_are_named_in_a_warning(tmp_path, weights, caplog):
    weights["tail.weight"][0, 0, 0, 0] = np.nan
    weights["sam12.conv1.weight"][0, 0] = -np.inf
    path = tmp_path / "model.safetensors"
    files.write(path, *names.from_official(weights))
    with caplog.at_level("WARNING", logger="absl"):
        files.read(path)
    assert "2 NaN or infinite: sam12.conv1.weight, tail.weight" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "no such file"),
        ("weights.npz", b"", "use .pth, .safetensors or a run folder"),
        ("a.pth", b"", "damaged, or not a PyTorch weight file"),
        (
            "a.pth",
            b"<html>Google Drive: quota exceeded</html>",
            "damaged, or not a PyTorch weight file",
        ),
        ("a.pth", b"PK\x03\x04", "damaged, or not a PyTorch weight file"),
        ("a.safetensors", b"", "damaged, or not a .safetensors file"),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0[1, 2, 3", "damaged, or not a .safetensors file"),
        ("a.safetensors", b"\xff" * 64, "its header claims"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        files.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "C64"])
def test_a_dtype_that_numpy_lacks_is_named_with_the_remedy(tmp_path, code):
    size = 16 if code == "C64" else 2
    header = b'{"a":{"dtype":"%s","shape":[2],"data_offsets":[0,%d]}}' % (code.encode(), size)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(UserError, match=rf"a: of a type .*{code}.*save_file.*float\(\)") as caught:
        files.read(path)
    assert "damaged" not in str(caught.value)


def test_float8_in_a_pytorch_file_is_named_with_the_remedy(tmp_path, weights):
    path = tmp_path / "model.pth"
    torch.save({n: t.to(torch.float8_e4m3fn) for n, t in tensors(weights).items()}, path)
    with pytest.raises(UserError, match=r"more: of a type .*float8_e4m3fn.*torch\.save") as caught:
        files.read(path)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid ", "git lfs pull"),
        ("a.safetensors", b"\n<!DOCTYPE html><title>Sign in", "is a web page"),
        ("a.ckpt", b"<html>", "is a web page"),
        ("a.pth", b"", "is empty"),
        ("a.pt", b"\x1f\x8b\x08" + bytes(20), "is a compressed file; unpack it"),
        ("a.pth.tar", bytes(257) + b"ustar" + bytes(250), "is an archive; unpack it"),
        ("a.safetensors", b"PK\x03\x04" + bytes(20), "seems to be a PyTorch file"),
        ("a.pth", b"\x02\0\0\0\0\0\0\0{}", r"seems to be a \.safetensors file; name it so"),
        ("a.bin", b"\x80\x02}q\x00.", "PyTorch did not write; save the tensors with"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        files.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_truncated_file_is_not_called_another(tmp_path, weights):
    for name in ("a.pth", "a.safetensors"):
        files.write(tmp_path / name, *names.from_official(weights))
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:10_000])
        with pytest.raises(UserError, match=r"damaged, or not a") as caught:
            files.read(tmp_path / name)
        assert "seems" not in str(caught.value)


def test_a_file_without_checksums_is_named_as_such(tmp_path, weights):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors(weights), tmp_path / "model.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(UserError, match=r"Bad CRC-32 .* unless .*set_crc32_options\(False\)"):
        files.read(tmp_path / "model.pth")


@pytest.mark.parametrize("path", [None, 3, b"model.pth", {"a": np.zeros(1)}, torch.nn.Linear(1, 1)])
def test_what_is_no_path_is_refused_with_what_to_pass(path):
    with pytest.raises(TypeError, match=r"from a path or by name, not from a .*torch\.save"):
        mprnet_jax.load(path)


@pytest.mark.parametrize("name", ["a.pt", "A.CKPT", "a.pth.tar", "a.tar", "pytorch_model.bin"])
def test_other_extensions_of_pytorch_files_are_read(tmp_path, weights, name):
    torch.save({"state_dict": tensors(weights)}, tmp_path / name)
    assert_same(files.read_official(tmp_path / name), weights)
    with pytest.raises(UserError, match=r"written as \.safetensors or \.pth"):
        files.write(tmp_path / name, *names.from_official(weights))


@pytest.mark.parametrize("name", ["model.PTH", "model.SafeTensors"])
def test_the_case_of_the_extension_does_not_matter(tmp_path, weights, name):
    files.write(tmp_path / name, *names.from_official(weights))
    assert_same(files.read_official(tmp_path / name), weights)
    assert_same(names.to_official(*files.read(tmp_path / name)[:2]), weights)


@pytest.mark.parametrize("extension", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), r"cannot be read \(.*Permission denied"),
        (OSError(5, "Input/output error"), r"cannot be read \(.*Input/output error"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_called_damaged(
    tmp_path, monkeypatch, weights, extension, error, message
):
    path = tmp_path / f"model.{extension}"
    files.write(path, *names.from_official(weights))

    def refuse(file, *arguments, **options):
        raise error

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(UserError, match=message) as caught:
        files.read(path)
    assert "damaged" not in str(caught.value)


def test_too_little_memory_is_reported(tmp_path, monkeypatch, weights):
    path = tmp_path / "model.pth"
    files.write(path, *names.from_official(weights))

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(torch, "frombuffer", fail)
    with pytest.raises(UserError, match=r"model\.pth: damaged, or too large for the memory"):
        files.read(path)


@pytest.mark.parametrize("extension", ["pth", "safetensors"])
def test_truncated_files_are_refused(tmp_path, weights, extension):
    path = tmp_path / f"model.{extension}"
    files.write(path, *names.from_official(weights))
    whole = path.read_bytes()
    for share in (0.01, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match="damaged, or not a "):
            files.read(path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is it a run folder"):
        files.read(tmp_path)


def test_problems_of_the_network_name_the_file(tmp_path, weights):
    del weights["tail.weight"]
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(weights, path)
    with pytest.raises(UserError, match=r"model.safetensors: 1 missing: tail.weight"):
        files.read(path)


def test_failed_writing_leaves_nothing_behind(tmp_path, monkeypatch, weights):
    network = names.from_official(weights)
    (tmp_path / "model.safetensors").write_text("precious")

    def full_disk(path, *_):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_format, "write_file", full_disk)
    with pytest.raises(UserError, match="No space left"):
        files.write(tmp_path / "model.safetensors", *network)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["precious"]
    with pytest.raises(UserError, match=r"written as .safetensors or .pth"):
        files.write(tmp_path / "model.onnx", *network)
    with pytest.raises(UserError, match="cannot be written"):
        files.write(tmp_path / "absent" / "model.pth", *network)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_disk_that_is_too_small_is_reported(tmp_path, weights, name):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=rf"{name}: cannot be written \(.*File too large"):
            files.write(tmp_path / name, *names.from_official(weights))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_importing_the_package_is_light():
    heavy = ("torch", "orbax", "safetensors", "grain", "cv2")
    code = f"import sys, mprnet_jax; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
