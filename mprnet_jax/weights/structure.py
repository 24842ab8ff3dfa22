"""The structure of a checkpoint: which array it holds where.

The training state is saved as one vector per dtype (`weights.packing`). The hash of a vector does
not say which part of it is which array, so the structure is saved too and compared on loading.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mprnet_jax.errors import UserError


def describe(tree: Any, params: Any) -> list[str]:
    """Describes each array of a pytree, in the order in which `pack` joins them.

    On some devices the training state holds all parameters as one vector, on others as a tree.
    Both pack to the same bytes, so a leaf of that size is expanded to the parameters it holds.

    Args:
        tree: arrays, or their shapes and dtypes.
        params: the parameters, or their shapes and dtypes.

    Returns:
        Path, dtype and shape of each array, such as "opt_state.0.mu.tail.kernel float32[3,3,8,3]".
    """
    total = sum(leaf.size for leaf in jax.tree.leaves(params))

    def expand(leaf: Any) -> Any:
        if leaf.shape != (total,):
            return leaf
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, leaf.dtype), params)

    return [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} "
        f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(expand, tree))
    ]


def check_structure(
    checkpoint: Path, saved: Mapping[str, list[str]] | None, expected: Mapping[str, list[str]]
) -> None:
    """Compares structures; the error names the first array that differs from what is expected.

    Args:
        checkpoint: its folder, for the message.
        saved: what `describe` returned for each of its trees. None for checkpoints of older
            versions, which are not checked.
        expected: the same for the trees to load, which may be some of them.

    Raises:
        UserError: if they differ.
    """
    if saved is None:
        return
    for name, arrays in expected.items():
        for found, wanted in itertools.zip_longest(saved[name], arrays, fillvalue="nothing"):
            if found != wanted:
                raise UserError(
                    f"{checkpoint}: holds {found} where this run needs {wanted}. It was saved by "
                    "another version of this package or of Optax, or with other settings: use "
                    "those again, or continue in a new workdir with "
                    f"--config.init_from={checkpoint.parents[1]}"
                )
