"""Hostile files run nothing, take no memory to speak of, and end in our own error."""

import codecs
import functools
import io
import json
import operator
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import timeit
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mprnet_jax.errors import UserError
from mprnet_jax.weights import files, names, pth


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        """A function, to pickle, may be the result of a call."""


def payloads(marker: str, script: str) -> dict[str, object]:
    """Objects whose unpickling creates the file `marker`."""
    code, shell = f"open({marker!r}, 'w').close()", f"touch {marker}"
    return {
        "os.system": Call(os.system, shell),
        "os.mkdir": Call(os.mkdir, marker),
        "os.symlink": Call(os.symlink, script, marker),
        "subprocess.check_output": Call(subprocess.check_output, ["touch", marker]),
        "subprocess.getoutput": Call(subprocess.getoutput, shell),
        "exec": Call(exec, code),
        "eval": Call(eval, code),
        "codecs.open": Call(codecs.open, marker, "w"),
        "runpy.run_path": Call(runpy.run_path, script),
        "shutil.copy": Call(shutil.copy, script, marker),
        "timeit.timeit": Call(timeit.timeit, code, "pass", timeit.default_timer, 1),
        "Path.touch": Call(Path.touch, Path(marker)),
        "partial": Call(functools.partial(os.mkdir, marker)),
        "operator.call": Call(operator.call, exec, code),
        "methodcaller": Call(operator.methodcaller("touch"), Path(marker)),
        "getattr": Call(Call(getattr, Call(__import__, "os"), "mkdir"), marker),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(exec, code))),
        "numpy.savetxt": Call(np.savetxt, marker, [0]),
        "torch.save": Call(torch.save, 0, marker),
        "torch.load": Call(functools.partial(torch.load, weights_only=False), script + ".pth"),
    }


DEEP = b"\x80\x02}" + b")" + b"\x85" * 10**5 + b"Ns."  # a dict whose key is a tuple in tuples
LOOP = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."  # a dict that holds itself
LAUGHS = b"\x80\x02}q\x00" + b"}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00uq\x00" * 1000 + b"."


NAMELESS = LAUGHS[:-1] + b"h\x00h\x00\x93."  # a class whose name is all of that
PAIRS = b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02l\x85R."  # not made of pairs
NESTED = b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00" + b"h\x00N" * 10**4 + b")" * 1
NESTED += b"\x87" * 10**4 + b"R."


@pytest.mark.parametrize("pickled", [DEEP, LOOP, LAUGHS, NAMELESS, PAIRS, NESTED])
def test_what_overflows_other_readers_is_refused(tmp_path, pickled):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(UserError, match="damaged, or not a PyTorch weight file"):
        files.read(path)


def test_nothing_that_a_file_names_is_imported_or_called(tmp_path, weights, monkeypatch):
    """Classes are data by their names; the file is read, and they stay names."""
    path = tmp_path / "plain.pth"
    (tmp_path / "trap.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\nclass Trap: pass"
    )
    monkeypatch.syspath_prepend(tmp_path)
    trap = b"ctrap\nTrap\n)R}X\x01\x00\x00\x00xctrap\nTrap\n)\x81sb"
    torch.save({"state_dict": {n: torch.from_numpy(a) for n, a in weights.items()}, "x": 7}, path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "trap.pth", "w") as trapped:
        for record in archive.namelist():
            content = archive.read(record)
            if record.endswith("data.pkl"):
                assert content.count(b"K\x07") == 1
                content = content.replace(b"K\x07", trap)
            trapped.writestr(record, content)
    assert files.read_official(tmp_path / "trap.pth").keys() == weights.keys()
    assert "trap" not in sys.modules
    assert not (tmp_path / "marker").exists()
    pickle.loads(trap + b".")  # Python's own reader runs it
    del sys.modules["trap"]
    assert (tmp_path / "marker").exists()


def in_containers(payload, weights) -> dict[str, bytes]:
    """The payload as PyTorch's files could carry it."""

    def saved(content, **kwargs):
        buffer = io.BytesIO()
        torch.save(content, buffer, **kwargs)
        return buffer.getvalue()

    return {
        "pickle 2": pickle.dumps(payload, 2),
        "pickle 4": pickle.dumps(payload, 4),
        "zip": saved(payload),
        "zip, beside weights": saved({"state_dict": weights, "epoch": payload}),
        "zip, protocol 4": saved({"state_dict": weights, "epoch": payload}, pickle_protocol=4),
        "legacy": saved({"a": payload}, _use_new_zipfile_serialization=False),
    }


@pytest.mark.parametrize("kind", payloads("marker", "script"))
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:codecs.open:DeprecationWarning")
def test_pickled_code_is_not_run(tmp_path, weights, kind):
    marker, script = tmp_path / "marker", tmp_path / "script.py"
    script.write_text(f"open({str(marker)!r}, 'w').close()")
    torch.save(Call(os.mkdir, str(marker)), f"{script}.pth")
    payload = payloads(str(marker), str(script))[kind]

    pickle.loads(pickle.dumps(payload))
    assert os.path.lexists(marker), "the payload itself does nothing: nothing is tested"
    shutil.rmtree(marker) if marker.is_dir() else marker.unlink()

    for container, content in in_containers(payload, weights).items():
        path = tmp_path / "model.pth"
        path.write_bytes(content)
        with pytest.raises(UserError, match="which no tensor needs"):
            files.read(path)
        assert not os.path.lexists(marker), container


@pytest.mark.parametrize(
    "pickled",
    [
        b"(S'touch {marker}'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch {marker}'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c{length}touch {marker}\x85R.",
        b'c__builtin__\nexec\n(S\'open("{marker}","w").close()\'\ntR.',  # Python 2
    ],
)
def test_hand_written_pickles_are_not_run(tmp_path, pickled):
    marker = tmp_path / "marker"
    pickled = pickled.replace(b"{marker}", str(marker).encode())
    pickled = pickled.replace(b"{length}", bytes([len(f"touch {marker}")]))
    pickle.loads(pickled)
    assert marker.exists()
    marker.unlink()

    path = tmp_path / "model.pth"
    for name in (None, "archive/data.pkl", "archive/DATA.PKL"):  # PyTorch reads the last one too
        path.write_bytes(pickled)
        if name:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(name, pickled)
                archive.writestr("archive/version", "3")
        with pytest.raises(UserError, match="which no tensor needs"):
            files.read(path)
        assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": [1, 2, 3]},
        {"epoch": 3},
        [torch.zeros(1)],
        {1: torch.zeros(1)},
        {"a": torch.zeros(1, device="meta")},
        {"a": torch.zeros(4, 4).to_sparse()},
        {"a": torch.zeros(1).expand(10**5, 10**5)},
        {"state_dict": {"a": torch.nn.Linear(1, 1)}},
        7,
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match="damaged, or not a PyTorch weight file"):
        files.read(tmp_path / "model.pth")


def test_compressed_archives_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {record: archive.read(record) for record in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for record, data in records.items():
            archive.writestr(record, data)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="compressed"):
        files.read(path)


def test_old_pytorch_is_refused_with_the_reason(tmp_path, monkeypatch, weights):
    path = tmp_path / "model.pth"
    files.write(path, *names.from_official(weights))
    for version in ("1.13.1", "2.5.1+cu121", "2.9.1"):
        monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
        with pytest.raises(UserError, match=rf"{version[:5]}.*CVE.*install 2.10 or newer"):
            files.read(path)
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.10.0+cpu"))
    assert files.read(path)


def test_missing_pytorch_is_reported_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "model.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install"):
        pth.read(tmp_path / "model.pth")


def test_missing_pytorch_is_reported_with_the_file_to_write(tmp_path, monkeypatch, weights):
    network = names.from_official(weights)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"/model\.pth: \.pth files need PyTorch"):
        files.write(tmp_path / "model.pth", *network)
    assert not list(tmp_path.iterdir())


def test_tensors_that_numpy_cannot_represent_are_refused():
    for tensor in (
        torch.zeros(2, dtype=torch.float8_e4m3fn),
        torch.ones(2, dtype=torch.cfloat).conj(),
    ):
        with pytest.raises(UserError, match="'a' is not a tensor for numpy"):
            pth.state_dict({"a": tensor}, torch, 100)


MEMORY = r"""
import json, re, sys
from mprnet_jax.errors import UserError
from mprnet_jax.weights import files
import safetensors, torch

def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024

for path in sys.argv[1:]:
    before, outcome = peak(), "read"
    try:
        files.read(path)
    except UserError as error:
        outcome = "refused"
    print(json.dumps([path, outcome, peak() - before]))
"""
BOMBS = {
    "bytearray": lambda: pickle.dumps(Call(bytearray, 3 * 10**9), 2),
    "tensor": lambda: pickle.dumps(Call(torch.Tensor, 10**5, 10**4), 2),
    "storage": lambda: legacy_claim(10**9),
    "tensors": lambda: legacy_tensors(5 * 10**4),
    "sets": lambda: legacy_start() + b"\x80\x02" + b"\x8f" * (4 * 2**20 - 1000) + b".",
    "memo": lambda: legacy_start() + b"\x80\x02Nr\xff\xff\xff\x7f.",
    "header": lambda: b"\xff\xff\xff\x7f\0\0\0\0" + b" " * 1000,
    "shape": lambda: safetensors_claim(10**9),
}


def legacy_start() -> bytes:
    """The pickles of a file of the older format that come before its content."""
    buffer = io.BytesIO()
    torch.save(0, buffer, _use_new_zipfile_serialization=False)
    buffer.seek(0)
    for _ in range(3):
        pickle.load(buffer)
    return buffer.getvalue()[: buffer.tell()]


def legacy_claim(count: int) -> bytes:
    """A file of the older format that claims a storage of so many numbers."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2**20)}, buffer, _use_new_zipfile_serialization=False)
    small, large = (b"J" + n.to_bytes(4, "little") for n in (2**20, count))
    content = buffer.getvalue()
    assert small in content
    return content.replace(small, large)


def legacy_tensors(count: int) -> bytes:
    """A file of the older format with very many empty tensors."""
    buffer = io.BytesIO()
    tensors = {str(i): torch.zeros(0) for i in range(count)}
    torch.save(tensors, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def safetensors_claim(count: int) -> bytes:
    """A .safetensors file that claims a tensor of so many numbers."""
    header = b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (count, 4 * count)
    return len(header).to_bytes(8, "little") + header


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux reports peaks")
def test_memory_stays_within_the_bound(tmp_path, weights):
    paths = []
    for name, content in BOMBS.items():
        extension = "safetensors" if name in ("header", "shape") else "pth"
        paths.append(tmp_path / f"{name}.{extension}")
        paths[-1].write_bytes(content())
    for extension in ("pth", "safetensors"):
        paths.append(tmp_path / f"sound.{extension}")
        files.write(paths[-1], *names.from_official(weights))
    output = subprocess.check_output([sys.executable, "-c", MEMORY, *map(str, paths)])
    for line in output.splitlines():
        path, outcome, grown = json.loads(line)
        assert outcome == ("read" if Path(path).stem == "sound" else "refused"), path
        assert grown < 2 * Path(path).stat().st_size / 2**20 + 200, path
