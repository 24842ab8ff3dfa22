"""Damaged weight files of every format end in a network or in our own error, nothing else."""

import argparse
import io
import random
import socket
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.weights import files, names

CONFIG = ModelConfig(width=4, unet_growth=1, orsnet_growth=1, cabs_per_orb=1)


def sound(form: str, path) -> bytes:
    """A sound file of a network so small that names and headers make up half of it."""
    weights = {
        entry.official_name: np.full(entry.shape, 0.25, np.float32)
        for entry in names.name_table(CONFIG)
    }
    if form == "legacy.pth":
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        files.write(path, *names.from_official(weights))
    return path.read_bytes()


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The content with a few bytes or slices changed, dropped, copied or added.

    Headers stand at the start or the end of a file, so damage is drawn there more often.
    """

    def position() -> int:
        where = draw(st.sampled_from(["start", "end", "anywhere"]))
        reach = len(content) if where == "anywhere" else min(len(content), 4096)
        offset = draw(st.integers(0, max(reach - 1, 0)))
        return len(content) - 1 - offset if where == "end" else offset

    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["bytes", "number", "insert", "delete", "copy", "cut"]))
        at, size = position(), draw(st.integers(1, 64))
        head, tail = content[:at], content[at:]
        if kind == "bytes":
            content = head + draw(st.binary(min_size=1, max_size=4)) + tail[4:]
        elif kind == "number":
            value = draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]))
            content = head + value.to_bytes(8, "little") + tail[8:]
        elif kind == "insert":
            content = head + draw(st.binary(min_size=1, max_size=16)) + tail
        elif kind == "delete":
            content = head + tail[size:]
        elif kind == "copy":
            source = position()
            content = head + content[source : source + size] + tail[size:]
        else:
            content = head
    return content


def read_or_refuse(path) -> bool:
    """Whether the file could be read; fails on any error but ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of weights that the damage made NaN
        try:
            config, params, *_ = files.read(path)
        except UserError as error:
            message = str(error)
        else:
            names.to_official(config, params)
            return True
    assert str(path) in message
    assert "\n" not in message
    return False


@pytest.mark.parametrize("form", ["zip.pth", "legacy.pth", "file.safetensors"])
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path, form, data):
    path, original = tmp_path / form, tmp_path / "sound"
    if not original.exists():
        original.write_bytes(sound(form, path))
        assert read_or_refuse(path)
    path.write_bytes(data.draw(damaged(original.read_bytes())))
    read_or_refuse(path)


def wrapped(form: str, path) -> list[bytes]:
    """A sound checkpoint of a trainer, in parts that are damaged alone.

    What a checksum or a length covers is a part, as damage would not get past these otherwise.
    """
    weights = {
        f"module.{entry.official_name}": torch.full(entry.shape, 0.25)
        for entry in names.name_table(CONFIG)
    }
    if form == "safetensors":
        safetensors.torch.save_file(weights, path, {"format": "pt"})
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        return [content[8:end], content[end:]]
    extras = {"best": np.float64(31), "args": argparse.Namespace(lr=1e-4, path=path), "epoch": 1}
    content = {"params": {"a": torch.zeros(1)}, "params_ema": weights, "hyper": extras}
    if form == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
        return [path.read_bytes()]
    torch.save(content, path, pickle_protocol=int(form[-1]))
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


def join(form: str, parts: list[bytes], like) -> bytes:
    """The file that such parts make."""
    if form == "safetensors":
        return len(parts[0]).to_bytes(8, "little") + b"".join(parts)
    if form == "legacy":
        return parts[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(like) as archive, zipfile.ZipFile(buffer, "w") as made:
        for name, content in zip(archive.namelist(), parts):
            made.writestr(name, content)
    return buffer.getvalue()


def mutate(content: bytes, rng: random.Random) -> bytes:
    """The content with up to four places changed, within the first 30,000 bytes mostly."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(content), 30_000) if rng.random() < 0.9 else len(content))
        size, source = rng.randint(1, 64), rng.randrange(len(content))
        kind = rng.randrange(6)
        if kind == 0:  # one that may mean something
            new = rng.choice([b"R", b"b", b"s", b"u", b"(", b".", b"cos\nsystem\n", b"\x81", b"Q"])
            content = content[:at] + new + content[at + rng.randint(0, 1) :]
        elif kind == 1:
            content = (
                content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
            )
        elif kind == 2:
            number = rng.choice([0, 1, 255, 2**16, 2**31 - 1, 2**63 - 1, 2**64 - 1])
            width = rng.choice([1, 2, 4, 8])
            encoded = (number % 256**width).to_bytes(width, "little")
            content = content[:at] + encoded + content[at + width :]
        elif kind == 3:
            content = content[:at] + content[at + size :]
        elif kind == 4:
            content = content[:at] + content[source : source + size] + content[at:]
        else:
            content = (
                content[:at] + str(rng.choice([-1, 0, 9, 10**30])).encode() + content[at + 1 :]
            )
        content = content or b"."
    return content


@pytest.mark.parametrize("form", ["zip 2", "zip 4", "legacy", "safetensors"])
def test_damaged_checkpoints_of_trainers_are_read_or_refused(
    tmp_path, monkeypatch, form, exhaustive
):
    """Nothing is written, and no connection opened, whatever the damage."""
    folder = tmp_path / "files"
    folder.mkdir()
    path, sound = folder / ("a.safetensors" if form == "safetensors" else "a.ckpt"), tmp_path / "b"
    parts = wrapped(form, sound)
    path.write_bytes(join(form, parts, sound))
    assert read_or_refuse(path)

    def forbidden(*arguments, **options):
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    rng = random.Random(form)
    read = 0
    for _ in range(5000 if exhaustive else 40):
        part = 0 if rng.random() < 0.6 else rng.randrange(len(parts))
        damaged = [*parts[:part], mutate(parts[part], rng), *parts[part + 1 :]]
        path.write_bytes(join(form, damaged, sound))
        read += read_or_refuse(path)
        assert list(folder.iterdir()) == [path]
    assert read  # else the damage never gets past the first check
