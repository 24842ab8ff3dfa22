"""Finds a network's tensors in what trainers save around them.

A network is where its names are, under whatever keys, such as "params_ema" or "model", and behind
whatever prefix, such as "module." or "net_g.". Where there are several, an average of weights (EMA,
SWA) is preferred to the weights it was made from; any other choice is the user's.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from mprnet_jax.errors import UserError
from mprnet_jax.weights.infer import infer_config
from mprnet_jax.weights.names import name_table

MAX_DEPTH = 8  # of dicts in dicts
MAX_NETWORKS = 16
MAX_SHOWN = 5  # that a message lists
NETWORK = re.compile(r"((?:[^.]+\.)*?)(?:shallow_feat[0-9]+|stage[0-9]+_[a-z]+)\.")
# Modules that wrap others put their own names between those of the network, which has no such.
WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\."
)
AVERAGE = re.compile(r"(?<![a-z])(ema|swa)(?![a-z])|averag", re.IGNORECASE)
AVERAGED_MODEL = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
OPTIMIZER = re.compile(r"optim", re.IGNORECASE)  # its moments may have the network's names


class NotWeights(UserError):
    """A file holds no tensors by name, or none that can be weights."""


class Place(NamedTuple):
    """A dict of tensors in a file."""

    keys: tuple[str, ...]  # of the dicts it is in, outermost first
    tensors: dict[str, Any]


class Taken(NamedTuple):
    """The tensors of a network, and where they were."""

    tensors: dict[str, Any]  # by official name, if it is an MPRNet
    keys: tuple[str, ...] = ()  # of the dicts they were in, outermost first
    prefix: str = ""  # of their names there
    left: tuple[str, ...] = ()  # keys and names that were left out

    def report(self, path: Path) -> None:
        """Logs in one line what was taken, unless it is where the official files have it."""
        if self.keys in ((), ("state_dict",)) and not self.prefix:
            return
        left = f"; left out: {shorten(self.left)}" if self.left else ""
        logging.warning("%s: took the %d tensors %s%s", path, len(self.tensors), self.place(), left)

    def example(self) -> str:
        """Returns how to save these tensors alone, as the end of a sentence."""
        keys = "".join(f"[{key!r}]" for key in self.keys)
        if not keys or self.prefix:
            return ""
        return one_line(f": torch.save(torch.load('FILE.pth'){keys}, 'weights.pth')")

    def place(self) -> str:
        """Returns the keys and the prefix in words."""
        keys = f"under {'.'.join(self.keys)}" if self.keys else "at the top"
        return one_line(f"{keys} with prefix {self.prefix}" if self.prefix else keys)


def unwrap(content: Mapping[str, Any], is_tensor: Callable[[Any], bool]) -> Taken:
    """Returns the tensors of the network in a file.

    If no names are those of an MPRNet, the largest dict of tensors is returned as it is.

    Args:
        content: the tensors by name, in dicts in dicts, together with anything else.
        is_tensor: tells them from anything else. Tensors must compare equal if they are the same.

    Raises:
        UserError: if there is no tensor, or if several networks are there and not one average.
    """
    places = list(walk(content, is_tensor))
    if not places:
        raise NotWeights("it holds no tensors by name")
    found: list[tuple[int, Place, str]] = []
    for place in places:
        matches = map(NETWORK.match, place.tensors)
        prefixes = Counter(match[1] for match in matches if match)
        found += [(count, place, prefix) for prefix, count in prefixes.items()]
    if not found:
        largest = max(places, key=lambda place: len(place.tensors))
        return Taken(largest.tensors, largest.keys)
    most = max(count for count, *_ in found)
    found = [entry for entry in found if 2 * entry[0] >= most]  # a few names are no network
    if len(found) > MAX_NETWORKS:
        raise UserError(f"it holds {len(found)} networks; save one of them in a file of its own")
    chosen = choose([take(place, prefix) for _, place, prefix in found])
    others = [key for key in content if key not in chosen.keys[:1]] if chosen.keys else []
    return chosen._replace(left=(*others, *chosen.left))


def walk(content: Mapping[str, Any], is_tensor: Callable[[Any], bool]) -> Iterator[Place]:
    """Yields each dict in `content` that has tensors, once."""
    seen = set()
    rest: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), content)]
    for keys, items in rest:  # grows while it is read
        if id(items) in seen:
            continue
        seen.add(id(items))
        if tensors := {name: value for name, value in items.items() if is_tensor(value)}:
            yield Place(keys, tensors)
        if len(keys) < MAX_DEPTH:
            inner = [key for key in items if isinstance(items[key], dict)]
            inner.sort(key=lambda key: not AVERAGE.search(key))  # the name under which it is found
            rest += [((*keys, key), items[key]) for key in inner if not OPTIMIZER.match(key)]


def take(place: Place, prefix: str) -> Taken:
    """Returns the tensors behind a prefix, which is removed, as are the names of wrappers.

    Raises:
        UserError: if two tensors have the same name then.
    """
    tensors: dict[str, Any] = {}
    left = []
    for name, tensor in place.tensors.items():
        short = WRAPPERS.sub("", name.removeprefix(prefix))
        if not name.startswith(prefix):
            left.append(name)
        elif short in tensors:
            raise UserError(f"two of its tensors are {one_line(short)} without wrappers' names")
        else:
            tensors[short] = tensor
    return Taken(tensors, place.keys, prefix, tuple(left))


def choose(networks: list[Taken]) -> Taken:
    """Returns the only average, or else the only network; raises UserError if there are several."""
    averages = [network for network in networks if is_average(network)]
    candidates: list[Taken] = []
    for network in averages or networks:
        if all(network.tensors != other.tensors for other in candidates):  # the same twice is one
            candidates.append(network)
    if len(candidates) > 1:
        places = shorten([network.place() for network in candidates])
        raise UserError(
            f"it holds {len(candidates)} networks, and which one is meant is not clear: {places}; "
            f"save that one in a file of its own{candidates[0].example()}"
        )
    return candidates[0]


def is_average(network: Taken) -> bool:
    """Returns whether the weights are an average of those of many steps."""
    averaged = network.prefix.removesuffix("module.") + AVERAGED_MODEL
    place = ".".join((*network.keys, network.prefix))
    return averaged in network.left or AVERAGE.search(place) is not None


def fill_in_slopes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors with all copies of PReLU's slope if the file has but one.

    Formats that save a shared tensor once, as `safetensors.torch.save_model`, leave the others out.
    """
    try:
        config = infer_config({name: array.shape for name, array in tensors.items()})
    except UserError:
        return tensors  # not an MPRNet's
    slopes = [entry.official_name for entry in name_table(config) if entry.our_path == "slope"]
    there = [name for name in slopes if name in tensors]
    return dict.fromkeys(slopes, tensors[there[0]]) | tensors if len(there) == 1 else tensors


def type_error(path: Path, types: Mapping[str, str], remedy: str) -> UserError:
    """Returns the error for tensors, by name, of types that NumPy does not have."""
    return UserError(
        f"{path}: {shorten(types)}: of a type that NumPy does not have "
        f"({shorten(sorted(set(types.values())))}); save them as float32: {remedy}"
    )


def shorten(names: Collection[str]) -> str:
    """Returns a list of names in one line."""
    shown = ", ".join(map(one_line, list(names)[:MAX_SHOWN]))
    more = len(names) - MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def one_line(name: str) -> str:
    """Returns a name, which may be anything, in one line of bounded length."""
    return " ".join(name.split())[:120]
