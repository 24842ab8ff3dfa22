"""The table between our parameters and the official names.

Our paths are dotted here, as in `encoder1.level1.cabs.0.conv1.kernel`; our kernels are
[3, 3, in, out], or [in, out] where the convolution is 1x1. The official names are those of the
authors' files, a PyTorch `state_dict` with kernels [out, in, kh, kw]. PReLU has one slope, which is
stored there once under every CAB.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model.stages import stages_of
from mprnet_jax.weights.infer import infer_config

Params = dict[str, Any]  # nested: keys are names, or the index in a list; leaves are float32

MAX_NAMES = 10  # that a message lists for one kind of problem
MAX_NAME = 120  # characters of each of them


class Entry(NamedTuple):
    """One official tensor and the parameter that holds it."""

    our_path: str
    official_name: str
    shape: tuple[int, ...]  # of the official tensor


def name_table(config: ModelConfig) -> list[Entry]:
    """Returns the official tensors of a network of these sizes, in the order of computation.

    Networks with other stages than the published ones have names formed likewise.
    """
    c1, c2, c3 = widths = config.level_widths
    c_out = config.stage_width("orsnet")
    entries = []

    def conv(
        path: str, name: str, c_in: int, c_out: int, size: int = 1, bias: bool = config.bias
    ) -> None:
        entries.append(Entry(f"{path}.kernel", f"{name}.weight", (c_out, c_in, size, size)))
        if bias:
            entries.append(Entry(f"{path}.bias", f"{name}.bias", (c_out,)))

    def cab(path: str, name: str, c: int) -> None:
        conv(f"{path}.conv1", f"{name}.body.0", c, c, 3)
        entries.append(Entry("slope", f"{name}.body.1.weight", (1,)))
        conv(f"{path}.conv2", f"{name}.body.2", c, c, 3)
        conv(f"{path}.attention.squeeze", f"{name}.CA.conv_du.0", c, c // config.reduction)
        conv(f"{path}.attention.excite", f"{name}.CA.conv_du.2", c // config.reduction, c)

    def cabs(path: str, name: str, c: int, count: int = 2) -> None:
        for i in range(count):
            cab(f"{path}.cabs.{i}", f"{name}.{i}", c)

    def resample_conv(path: str, name: str, c_in: int, c_out: int) -> None:
        conv(path, f"{name}.1", c_in, c_out, bias=False)

    def shallow(i: int, c: int) -> None:
        conv(f"shallow{i}.conv", f"shallow_feat{i}.0", 3, c, 3)
        cab(f"shallow{i}.cab", f"shallow_feat{i}.1", c)

    def encoder(ours: str, theirs: str) -> None:
        cabs(f"{ours}.level1", f"{theirs}.encoder_level1", c1)
        resample_conv(f"{ours}.down12.conv", f"{theirs}.down12.down", c1, c2)
        cabs(f"{ours}.level2", f"{theirs}.encoder_level2", c2)
        resample_conv(f"{ours}.down23.conv", f"{theirs}.down23.down", c2, c3)
        cabs(f"{ours}.level3", f"{theirs}.encoder_level3", c3)

    def fusion(ours: str, theirs: str) -> None:
        for level, c in enumerate(widths):
            conv(f"{ours}.csff.{level}.encoder", f"{theirs}.csff_enc{level + 1}", c, c)
            conv(f"{ours}.csff.{level}.decoder", f"{theirs}.csff_dec{level + 1}", c, c)

    def decoder(ours: str, theirs: str) -> None:
        cabs(f"{ours}.level3", f"{theirs}.decoder_level3", c3)
        resample_conv(f"{ours}.up32.conv", f"{theirs}.up32.up", c3, c2)
        cab(f"{ours}.skip2", f"{theirs}.skip_attn2", c2)
        cabs(f"{ours}.level2", f"{theirs}.decoder_level2", c2)
        resample_conv(f"{ours}.up21.conv", f"{theirs}.up21.up", c2, c1)
        cab(f"{ours}.skip1", f"{theirs}.skip_attn1", c1)
        cabs(f"{ours}.level1", f"{theirs}.decoder_level1", c1)

    def sam(name: str, c: int) -> None:
        if config.supervised_attention:
            conv(f"{name}.features", f"{name}.conv1", c, c)
        conv(f"{name}.residual", f"{name}.conv2", c, 3)
        if config.supervised_attention:
            conv(f"{name}.gate", f"{name}.conv3", 3, c)

    def lifts(ours: str, theirs: str, part: str) -> None:
        resample_conv(f"{ours}.1.ups.0", f"{theirs}.up_{part}1.up", c2, c1)
        resample_conv(f"{ours}.2.ups.0", f"{theirs}.up_{part}2.0.up", c3, c2)
        resample_conv(f"{ours}.2.ups.1", f"{theirs}.up_{part}2.1.up", c2, c1)
        for level in range(3):
            conv(f"{ours}.{level}.conv", f"{theirs}.conv_{part}{level + 1}", c1, c_out)

    def orsnet(ours: str, theirs: str, csff_from: str) -> None:
        for i in range(3):
            ours_orb, theirs_orb = f"{ours}.orbs.{i}", f"{theirs}.orb{i + 1}.body"
            cabs(f"{ours_orb}.body", theirs_orb, c_out, config.cabs_per_orb)
            last = f"{theirs_orb}.{config.cabs_per_orb}"
            conv(f"{ours_orb}.conv", last, c_out, c_out, 3, bias=False)
        if csff_from == "unet":
            lifts(f"{ours}.encoder_lifts", theirs, "enc")
            lifts(f"{ours}.decoder_lifts", theirs, "dec")
        if csff_from == "orsnet":
            for i in range(3):
                conv(f"{ours}.csff.{i}", f"{theirs}.csff{i + 1}", c_out, c_out)

    for stage in stages_of(config):
        i, c = stage.number, stage.channels
        shallow(i, c1 if stage.previous else c)
        if stage.previous:
            conv(stage.concat, stage.concat, c1 + stage.previous_channels, c, 3)
        if stage.subnet == "unet":
            encoder(stage.encoder, f"stage{i}_encoder")
            if stage.has_csff:
                fusion(stage.encoder, f"stage{i}_encoder")
            decoder(stage.decoder, f"stage{i}_decoder")
        else:
            orsnet(stage.orsnet, f"stage{i}_orsnet", stage.previous if stage.has_csff else "")
        if stage.is_last:
            conv(stage.head, stage.head, c, 3, 3)
        else:
            sam(stage.head, c)
    return entries


def to_official(config: ModelConfig, params: Params) -> dict[str, np.ndarray]:
    """Returns a network's parameters by official name, in PyTorch's layout, float32.

    Raises:
        UserError: if `params` are not those of a network of these sizes.
    """
    ours = {path: np.asarray(value) for path, value in by_path(params).items()}
    entries = name_table(config)
    raise_problems(*name_problems(dict.fromkeys(entry.our_path for entry in entries), ours))
    official = {entry.official_name: to_official_layout(ours[entry.our_path]) for entry in entries}
    raise_problems(shape_problem(entries, official))
    return official


def from_official(weights: Mapping[str, np.ndarray]) -> tuple[ModelConfig, Params]:
    """Returns the sizes and parameters of the network with these official tensors.

    Raises:
        UserError: for missing and unexpected names, wrong shapes, tensors that are not floats, and
            copies of PReLU's slope that differ. The message lists all problems.
    """
    config = infer_config({name: array.shape for name, array in weights.items()})
    entries = name_table(config)
    raise_problems(
        *name_problems(dict.fromkeys(entry.official_name for entry in entries), weights),
        shape_problem(entries, weights),
        dtype_problem(weights),
        slope_problem(entries, weights),
    )
    params = {
        tuple(
            int(key) if key.isdigit() else key for key in entry.our_path.split(".")
        ): to_our_layout(weights[entry.official_name])
        for entry in entries
    }
    return config, traverse_util.unflatten_dict(params)


def from_file(path: Path, weights: Mapping[str, np.ndarray]) -> tuple[ModelConfig, Params]:
    """As `from_official`; errors name the file. Warns of NaN and infinite weights."""
    try:
        network = from_official(weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    warn_of_non_finite(path, weights)
    return network


def by_path(params: Params) -> dict[str, Any]:
    """Returns the leaves of `params` by dotted path."""
    flat = traverse_util.flatten_dict(params)
    return {".".join(map(str, path)): leaf for path, leaf in flat.items()}


def warn_of_non_finite(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Logs a warning that names the arrays of a file with NaN or infinite values."""
    wrong = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if wrong:
        logging.warning("%s: %s", path, summarize("NaN or infinite", wrong))


def to_our_layout(array: np.ndarray) -> jax.Array:
    """Returns [out, in, kh, kw] as [kh, kw, in, out], or [in, out] if 1x1; vectors unchanged."""
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
        array = array[0, 0] if array.shape[:2] == (1, 1) else array
    return jnp.array(array, jnp.float32)


def to_official_layout(array: np.ndarray) -> np.ndarray:
    """Inverse of `to_our_layout`."""
    if array.ndim > 1:
        array = array if array.ndim == 4 else array[None, None]
        array = array.transpose(3, 2, 0, 1)
    return np.array(
        array, np.float32, order="C"
    )  # a copy: numpy's views of JAX arrays are read-only


def raise_problems(*problems: str | None) -> None:
    """Raises UserError if any of the problems is not None."""
    if any(problems):
        raise UserError("; ".join(filter(None, problems)))


def name_problems(
    expected: Collection[str], found: Collection[str]
) -> tuple[str | None, str | None]:
    """Describes missing and unexpected names; None where there are none."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    return summarize("missing", missing), summarize("unexpected", unexpected)


def shape_problem(entries: list[Entry], weights: Mapping[str, np.ndarray]) -> str | None:
    """Describes tensors whose shape is not the network's; None if there are none."""
    wrong = [
        f"{name} {list(weights[name].shape)} in place of {list(shape)}"
        for _, name, shape in entries
        if name in weights and weights[name].shape != shape
    ]
    return summarize("wrongly shaped", wrong)


def dtype_problem(weights: Mapping[str, np.ndarray]) -> str | None:
    """Describes tensors that are not floats; None if there are none."""
    wrong = [
        f"{name} {array.dtype}"
        for name, array in weights.items()
        if not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    return summarize("not floats", wrong)


def slope_problem(entries: list[Entry], weights: Mapping[str, np.ndarray]) -> str | None:
    """Describes copies of PReLU's slope that differ from most copies; None if there are none."""
    slopes = {
        entry.official_name: weights[entry.official_name].tobytes()
        for entry in entries
        if entry.our_path == "slope" and entry.official_name in weights
    }
    usual = [slope for slope, _ in Counter(slopes.values()).most_common(1)]
    odd = [name for name, slope in slopes.items() if slope not in usual]
    return summarize("unlike the other copies of PReLU's slope", odd)


def summarize(problem: str, names: Collection[str]) -> str | None:
    """Returns one phrase about all names that have a problem; None if there are no names."""
    if not names:
        return None
    shown = ", ".join(" ".join(name[:MAX_NAME].split()) for name in list(names)[:MAX_NAMES])
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{len(names)} {problem}: {shown}{more}"
