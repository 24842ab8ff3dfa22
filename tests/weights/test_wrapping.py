"""A network is found in whatever a trainer has saved around it, or what to do is said."""

import argparse
import collections
import copy
import datetime
import enum
import functools
import pathlib
import types
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from mprnet_jax.errors import UserError
from mprnet_jax.weights import files, torch_reference, wrapping


@pytest.fixture
def state(weights) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in weights.items()}


def other(state):
    """Weights of another network of the same sizes."""
    return {name: tensor + 1 for name, tensor in state.items()}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged(state):
    return {"n_averaged": torch.tensor(3), **prefixed("module.", state)}


def assert_read(path, weights):
    found = files.read_official(path)
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


WRAPPED = {  # name -> what is saved around a state dict, and what is said of it
    "params": (lambda s: {"params": s}, "under params"),
    "ema": (lambda s: {"params": other(s), "params_ema": s}, "params_ema; left out: params"),
    "ema, the same": (lambda s: {"params": s, "params_ema": s}, "under params_ema;"),
    "ema, alike": (lambda s: {"params": s, "params_ema": dict(s)}, "under params_ema;"),
    "model": (lambda s: {"model": s, "epoch": 3}, "under model; left out: epoch"),
    "net": (lambda s: {"net": s}, "under net"),
    "generator": (
        lambda s: {"generator": s, "discriminator": {"conv.weight": s["tail.weight"]}},
        0,
    ),
    "model_state_dict": (lambda s: {"model_state_dict": s}, "under model_state_dict"),
    "nested": (lambda s: {"models": {"net_g": prefixed("module.", s)}}, "under models.net_g with"),
    "lightning": (
        lambda s: {
            "state_dict": prefixed("model.", s) | {"loss.vgg.weight": torch.ones(1)},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_score": torch.tensor(1.0)}},
        },
        "under state_dict with prefix model.; left out: callbacks, loss.vgg.weight",
    ),
    "lightning, ema": (
        lambda s: {"state_dict": prefixed("net.", other(s)) | prefixed("ema_net.module.", s)},
        "with prefix ema_net.module.",
    ),
    "prefixes": (lambda s: prefixed("module._orig_mod.net_g.", s), "module._orig_mod.net_g."),
    "generator.": (lambda s: prefixed("generator.", s), "with prefix generator."),
    "compiled": (lambda s: prefixed("_orig_mod.", s), "with prefix _orig_mod."),
    "averaged": (averaged, "with prefix module.; left out: n_averaged"),
    "averaged, beside": (lambda s: {"model": other(s), "swa": averaged(s)}, "under swa with"),
    "wrappers inside": (
        lambda s: {n.replace("encoder.", "encoder._orig_mod.module."): t for n, t in s.items()},
        None,
    ),
    "moments": (lambda s: {"state_dict": s, "optimizer": {"exp_avg": other(s)}}, None),
    "twice": (lambda s: {"state_dict": s, "model": dict(s)}, None),
    "beside": (lambda s: {**s, "epoch": 3, "loss": 0.5}, None),
    "object": (lambda s: types.SimpleNamespace(model=s), "under model"),
    "dict of another class": (lambda s: collections.defaultdict(dict, net=s), "under net"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_network_is_found_and_what_was_taken_is_said(tmp_path, weights, state, kind, caplog):
    wrap, said = WRAPPED[kind]
    path = tmp_path / "model.pth"
    torch.save(wrap(state), path)
    assert_read(path, weights)
    with caplog.at_level("WARNING", logger="absl"):
        files.read(path)
    lines = [record.message for record in caplog.records]
    assert len(lines) == (said is not None)
    if said:
        assert f"{path}: took the {len(weights)} tensors " in lines[0]
        assert said in lines[0]


@pytest.mark.parametrize("prefix", ["module.", "params_ema.", "model._orig_mod.", "net_g."])
def test_prefixes_in_safetensors(tmp_path, weights, state, prefix, caplog):
    path = tmp_path / "model.safetensors"
    beside = {"n_averaged": torch.tensor(3)} | prefixed("params.", other(state))
    saved = prefixed(prefix, state) | (beside if "ema" in prefix else {})
    safetensors.torch.save_file(saved, path)
    assert_read(path, weights)
    with caplog.at_level("WARNING", logger="absl"):
        files.read(path)
    assert f"with prefix {prefix}" in caplog.text


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda s: {"a": s, "b": other(s)},
            r"2 networks, .*: under a, under b; .*torch\.load\('FILE\.pth'\)\['a'\]",
        ),
        (
            lambda s: {"ema": s, "params_ema": other(s), "params": other(other(s))},
            "2 networks, .*: under ema, under params_ema",
        ),
        (
            lambda s: prefixed("student.", s) | prefixed("teacher.", other(s)),
            "2 networks, .*: at the top with prefix student., at the top with prefix teacher.",
        ),
        (lambda s: {str(i): prefixed(f"{i}.", s) for i in range(17)}, "17 networks; save one"),
        (lambda s: s | prefixed("module.", other(s)), "two of its tensors are shallow_feat1"),
        (
            lambda s: s | {n.replace("_encoder.", "_encoder.module."): t for n, t in s.items()},
            "two of its tensors are stage1_encoder",
        ),
    ],
)
def test_several_networks_are_named(tmp_path, state, wrap, message):
    torch.save(wrap(state), tmp_path / "model.pth")
    with pytest.raises(UserError, match=message) as caught:
        files.read(tmp_path / "model.pth")
    assert "damaged" not in str(caught.value)
    assert len(str(caught.value)) < 600


class Colour(enum.Enum):
    RED = 1


class Meter:
    def __init__(self):
        self.values = collections.deque([1.0, 2.0], maxlen=3)
        self.seen = {1, 2}


class Config(dict):
    """As EasyDict, AttributeDict and others are."""


EXTRAS = {
    "NumPy": [np.float64(31.2), np.arange(3.0), np.dtype("f4"), np.float32, np.str_("x"), np.True_],
    "random states": [np.random.default_rng(0), np.random.RandomState(0).get_state()],
    "namespaces": [argparse.Namespace(lr=1e-4), types.SimpleNamespace(a=1)],
    "paths": [pathlib.Path("runs/x"), pathlib.PureWindowsPath("C:/x")],
    "containers": [{1, 2}, frozenset({1}), collections.deque([1]), collections.Counter("ab")],
    "dicts": [Config(a=Config(b=1)), collections.defaultdict(list, a=[1]), {1: 2, None: 3}],
    "objects": [Colour.RED, Meter(), torch.optim.Adam, functools.partial(torch.optim.Adam, lr=1)],
    "times": [datetime.datetime(2026, 1, 1), datetime.timedelta(1), datetime.UTC],
    "PyTorch": [torch.float16, torch.Size([1]), torch.device("cpu"), torch.int64],
    "odd tensors": [torch.zeros(1, device="meta"), torch.ones(2).to(torch.float8_e5m2)],
    "constants": [b"bytes", 10**50, 1j, slice(1, 2), bytearray(b"x"), float("nan")],
}


@pytest.mark.parametrize("kind", EXTRAS)
def test_harmless_extras_do_not_hide_the_tensors(tmp_path, weights, state, kind):
    content = {"extra": EXTRAS[kind], "state_dict": state}
    torch.save(content, tmp_path / "model.pth")
    assert_read(tmp_path / "model.pth", weights)
    for protocol in (4, 5):
        options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": protocol == 4}
        torch.save(content, tmp_path / "model.pth", **options)
        assert_read(tmp_path / "model.pth", weights)


def a_function():
    """That a checkpoint refers to."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"f": a_function}, r"imports '\S+ a_function'.*if it is yours, save .*torch\.save\("),
        ({"model": torch.nn.Linear(1, 1)}, r"objects of torch\.nn\.modules\.linear\.Linear; save"),
        (torch.nn.Linear(1, 1), r"objects of torch\.nn\.modules\.linear\.Linear; save"),
        ({"a": np.zeros(3)}, r"no tensors by name, but objects of numpy\S*; save .*torch\.save\("),
        ([1], "it holds a list in place of a state_dict"),
    ],
)
def test_what_to_save_instead_is_said(tmp_path, content, message):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match=message):
        files.read(tmp_path / "model.pth")


def test_torchscript_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"c__torch__\nNet\n)\x81.")
        archive.writestr("model/constants.pkl", b")." + bytes(1000))
    with pytest.raises(UserError, match=r"is a TorchScript program; save .*torch\.jit\.load"):
        files.read(tmp_path / "model.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_views_and_shared_storages_give_their_own_numbers(tmp_path, weights, state, legacy):
    joined = torch.cat([tensor.ravel() for tensor in state.values()])
    parts = joined.split([tensor.numel() for tensor in state.values()])
    views = {name: part.view(state[name].shape) for name, part in zip(state, parts)}
    views["tail.weight"] = torch.stack([state["tail.weight"]] * 2, dim=-1)[..., 0]
    for name, tensor in views.items():
        if tensor.ndim == 4 and "encoder" in name:
            views[name] = state[name].to(memory_format=torch.channels_last)
    assert not all(tensor.is_contiguous() for tensor in views.values())
    path = tmp_path / "model.pth"
    torch.save(views, path, _use_new_zipfile_serialization=not legacy)
    assert_read(path, weights)


def test_parameters_with_attributes_are_read(tmp_path, weights, state):
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    for parameter in parameters.values():
        parameter.no_weight_decay = True
    torch.save(parameters, tmp_path / "model.pth")
    assert_read(tmp_path / "model.pth", weights)


def test_a_slope_that_safetensors_saves_once_is_everywhere(tmp_path, config):
    network = torch_reference.build(config)
    expected = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_model(copy.deepcopy(network), path)
    with safetensors.safe_open(path, "np") as opened:
        assert len(opened.keys()) < len(expected)
    assert_read(path, expected)


def test_slopes_are_not_made_up(weights):
    slopes = [name for name in weights if weights[name].shape == (1,)]
    assert len(slopes) > 2
    some = {name: array for name, array in weights.items() if name not in slopes[:-2]}
    assert wrapping.fill_in_slopes(some) == some
    assert wrapping.fill_in_slopes({"a": np.zeros(1)}).keys() == {"a"}


def test_big_endian_files_are_read(tmp_path, weights, state):
    torch.save(state, tmp_path / "little.pth")
    paths = tmp_path / "little.pth", tmp_path / "big.pth"
    with zipfile.ZipFile(paths[0]) as little, zipfile.ZipFile(paths[1], "w") as big:
        for name in little.namelist():
            content = little.read(name)
            if "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            big.writestr(name, b"big" if name.endswith("byteorder") else content)
    assert_read(tmp_path / "big.pth", weights)
