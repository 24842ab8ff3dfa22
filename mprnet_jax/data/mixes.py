"""Mixes of sets: training on several sets at once, each with its share of the examples.

`data.train` names them: GoPro/train:2,BSD_B/train:1 draws two examples of the first set for each of
the second. Every set keeps an order and epochs of its own.
"""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction

import grain

from mprnet_jax import paths
from mprnet_jax.config import DataConfig
from mprnet_jax.data.datasets import PREPARED
from mprnet_jax.data.pairs import Converted, Source, deepest_of, dtype_of
from mprnet_jax.errors import UserError

EXAMPLE = "GoPro/train:2,BSD_B/train:1"


def training_shares(config: DataConfig) -> dict[str, Fraction]:
    """Returns the shares of the training sets of a config by name.

    Where a folder or a prepared set has all of `data.train` as its name, that is the only set.

    Raises:
        UserError: if a share is no number above 0, or a set has no name or is named twice.
    """
    if config.source == "prepared" and paths.is_bucket(config.root):
        found = paths.exists(paths.anywhere(config.root, PREPARED) / config.train)
    else:
        folder = paths.absolute(config.root, PREPARED if config.source == "prepared" else "")
        # A mix may be longer than any path, which `isdir` does not mind.
        found = os.path.isdir(os.path.join(folder, os.path.expanduser(config.train)))
    return {config.train: Fraction(1)} if found else parse_shares(config.train)


def parse_shares(text: str) -> dict[str, Fraction]:
    """Returns the shares of a mix by the sets' names, from `data.train`.

    Commas separate the sets. A set's share follows the last colon of its part, and is 1 if there is
    none. Shares count relative to each other.

    >>> [(name, str(share)) for name, share in parse_shares("GoPro/train:2.5, BSD_B/train").items()]
    [('GoPro/train', '5/2'), ('BSD_B/train', '1')]

    Raises:
        UserError: if a share is no number above 0, or a set has no name or is named twice.
    """
    shares: dict[str, Fraction] = {}
    for part in text.split(","):
        name, share = part.rsplit(":", 1) if ":" in part else (part, "1")
        name = name.strip()
        if not name or name in shares:
            problem = f"names {name} twice" if name else "has a set without a name"
            raise UserError(f"data.train={text!r}: {problem}; write for example {EXAMPLE}")
        try:
            # Floats are bounded, so that no share takes long to write out as a fraction.
            if not 0 < float(share) < math.inf:
                raise ValueError
            shares[name] = Fraction(share)
        except ValueError:
            raise UserError(
                f"data.train={text!r}: the share of {name} is {share!r}, no number above 0; write "
                f"for example {EXAMPLE}, and leave out the sets that are not to be drawn from"
            ) from None
    return shares


class Turns(grain.transforms.DatasetSelectionMap):
    """Which set of a mix gives the example at a position of an endless stream.

    A function of the position alone. The sets take turns as evenly as whole examples allow: of the
    first n examples, for any n, a set's number differs from n times its share by less than the
    number of sets.
    """

    def __init__(self, shares: Sequence[Fraction]):
        denominator = math.lcm(*(share.denominator for share in shares))
        whole = [int(share * denominator) for share in shares]
        # Shares of set i and all after it, together; 0 after the last.
        self._shares_from = [sum(whole[i:]) for i in range(len(whole) + 1)]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Returns the number of the set, and how many examples it has given before."""
        number = 0
        before, after = position, position + 1  # numbers of examples without this one and with it
        while True:  # ends at the last set, after which none are left
            all_left, rest = self._shares_from[number : number + 2]
            # As many of them are for the sets after this one.
            later_before, later_after = before * rest // all_left, after * rest // all_left
            if later_before == later_after:
                return number, before - later_before
            number, before, after = number + 1, later_before, later_after


class Mix:
    """Sets that are trained on together.

    Attributes:
        sets: the sets; where their images are of different types, as images of the deepest.
        turns: which of them gives the example at a position of the stream.
    """

    def __init__(self, sets: Mapping[str, Source], shares: Mapping[str, Fraction]):
        """Mixes sets by their shares, both given by the sets' names."""
        self._names = list(sets)
        self.sets = list(sets.values())
        self.turns = Turns([shares[name] for name in sets])
        dtypes = {dtype_of(source) for source in self.sets}
        if len(dtypes) > 1:
            self.sets = [Converted(source, deepest_of(dtypes)) for source in self.sets]

    @classmethod
    def of_one(cls, source: Source) -> "Mix":
        """Returns the mix of one set without a name."""
        return cls({"": source}, {"": Fraction(1)})

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def example_name(self, index: int, example: int) -> str:
        """Returns the name of an example of the set with this number, after the set's own."""
        name = self.sets[index].names[example]
        return f"{self._names[index]}/{name}" if self._names[index] else name
