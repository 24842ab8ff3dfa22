"""Damaged weight files of every format end in a network or in our own error, nothing else."""

import warnings

import numpy as np
import pytest
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
