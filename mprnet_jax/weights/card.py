"""What is published beside weights: whether they may be, under which licence, and what they are.

`licence_of` decides; `config_json` and `model_card` describe a network for those who find it on the
Hugging Face Hub. Of a run they tell the recipe, and no folder of the machine that it ran on.
"""

import dataclasses
import json
import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from mprnet_jax.errors import UserError
from mprnet_jax.model import cost
from mprnet_jax.version import __version__
from mprnet_jax.weights import pretrained, safetensors
from mprnet_jax.weights.files import WeightFile
from mprnet_jax.weights.hub import PREFIX
from mprnet_jax.weights.pth import OFFICIAL_TASKS

if TYPE_CHECKING:
    from mprnet_jax.weights.run_folder import Trained  # imports Orbax

NOT_STATED = "none stated; ask the owner of the repository before you use the weights"
# Licences that the Hub knows by these names; it takes others as "other", with their own name.
KNOWN = (
    *("apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "cc0-1.0"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
)
# What is told of a run's config.
SECTIONS = ("loss.", "optim.")
FIELDS = (
    *("total_steps", "batch_size", "patch_size", "validation_crop", "seed", "init_from"),
    *("data.source", "data.degradation", "data.saturation", "data.mixup_from_step"),
    *("data.published", "data.train", "data.validation"),
)
SIDE = 256  # pixels, of the image that multiply-adds are stated for


def licence_of(weights: WeightFile, trained: "Trained | None", stated: str | None) -> str:
    """Returns the licence to publish weights under.

    Weights with a licence note keep it. What was trained here from scratch, or from a network that
    comes with the package, is its owner's: `stated`, or none stated. Of all others `stated` must
    say it.

    Args:
        weights: as `files.read_with_training` returns them.
        trained: how, as that returns it.
        stated: what the user says the licence is, if anything.

    Raises:
        UserError: if the weights are the authors' or were trained from theirs, if their note
            forbids it or is another than stated, or if no licence is known.
    """
    source, note = weights.origin["source"], weights.origin.get("licence")
    start = str(trained.config.get("init_from") or "") if trained else ""
    official = {PurePath(source).name, PurePath(start).name} & OFFICIAL_TASKS.keys()
    if official:
        raise UserError(
            f"{source}: not published, for the weights come from the authors' {official.pop()}, "
            "whose licence is theirs to give"
        )
    if note == safetensors.LICENCE:
        raise UserError(
            f"{source}: not published, as its licence note says: {note} If they are weights of "
            "yours, publish the run folder, or convert them again with --licence"
        )
    if note and note != NOT_STATED:
        if stated and stated != note:
            raise UserError(f"--licence={stated}: the note in {source} says {note}")
        return note
    if stated:
        return stated
    if trained and (not start or start in pretrained.PRETRAINED):
        return NOT_STATED
    whose = f"was trained from {name_only(start)}" if start else "has no licence note"
    raise UserError(
        f"{source}: not published, for it {whose}; if you may publish it, say under which licence "
        "with --licence"
    )


def name_only(value: Any) -> Any:
    """Returns a value of a config without the folders of paths in it, be they alone or in a mix."""
    if not isinstance(value, str) or "://" in value:
        return value
    parts = value.split(",")
    return ",".join(
        PurePath(part).name if part.startswith(("/", "~", "..")) else part for part in parts
    )


def recipe(config: dict[str, Any]) -> dict[str, Any]:
    """Returns by dotted name what decided the result of a run, from its config as nested dicts."""
    flat = {
        f"{section}.{name}" if section else name: value
        for section, group in [("", config), *config.items()]
        if isinstance(group, dict)
        for name, value in group.items()
    }
    return {
        name: name_only(value)
        for name, value in flat.items()
        if name in FIELDS or name.startswith(SECTIONS)
    }


def config_json(weights: WeightFile, trained: "Trained | None") -> bytes:
    """Returns a JSON file with a network's sizes, and the recipe if it was trained here."""
    content: dict[str, Any] = {
        "library": f"mprnet_jax {__version__}",
        "model": dataclasses.asdict(weights.config),
    }
    if trained:
        content["recipe"] = recipe(trained.config)
    return (json.dumps(content, indent=2) + "\n").encode()


def model_card(
    address: str, weights: WeightFile, trained: "Trained | None", licence: str, report: str
) -> bytes:
    """Returns the README.md of a repository.

    Args:
        address: of the repository, `hf://OWNER/NAME`.
        weights: what it holds.
        trained: as of `licence_of`.
        licence: as of `licence_of`.
        report: of `weights.parity`, as text.
    """
    from huggingface_hub import ModelCardData

    name = address.removeprefix(PREFIX)
    known = licence.lower() in KNOWN
    other = not known and licence != NOT_STATED
    head = ModelCardData(
        library_name="mprnet_jax",
        license=licence.lower() if known else "other" if other else None,
        license_name="-".join(licence.lower().split()) if other else None,
        pipeline_tag="image-to-image",
        tags=["image-restoration", "mprnet", "jax", "flax"],
    )
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# {name.rpartition('/')[2]}",
        "Weights of MPRNet ([Multi-Stage Progressive Image Restoration]"
        "(https://arxiv.org/abs/2102.02808)) in JAX and Flax, written by the package `mprnet_jax`. "
        "The tensors have the names and the layout of the published PyTorch network.",
        f'```python\nimport mprnet_jax\n\nmodel = mprnet_jax.load("{address}")\n```',
        f"## Licence\n\n{licence}",
        f"## Network\n\n{sizes(weights)}",
        f"## Training\n\n{training(weights, trained)}",
        f"## Agreement with PyTorch\n\n```\n{report}\n```",
    ]
    return ("\n\n".join(parts) + "\n").encode()


def sizes(weights: WeightFile) -> str:
    """Returns a table of a network's sizes and cost."""
    config = weights.config
    multiply_adds = cost.forward_flops(config, SIDE, SIDE) / 2
    values = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("dtype", "remat")
    }
    values["parameters"] = f"{cost.parameters_used(config):,}"
    values[f"multiply-adds of a {SIDE}x{SIDE} image"] = f"{multiply_adds / 1e9:.3g} billion"
    return table(values, "size")


def training(weights: WeightFile, trained: "Trained | None") -> str:
    """Returns the recipe and the held-out score of a network."""
    if trained is None:
        return f"Not known here: the weights were converted from `{weights.origin['source']}`."
    found = recipe(trained.config)
    score = "The weights were not validated."
    if math.isfinite(trained.score):
        score = (
            f"Held-out score: {trained.score:.2f} dB, the mean PSNR (RGB) of the last stage on "
            f"centre crops of {found.get('validation_crop')} pixels of the set "
            f"`{found.get('data.validation')}` (source `{found.get('data.source')}`)."
        )
    return f"The weights are those of step {trained.step}. {score}\n\n{table(found, 'field')}"


def table(values: dict[str, Any], title: str) -> str:
    """Returns a Markdown table of names and values."""
    rows = [(name, f"`{value}`") for name, value in values.items() if value != ""]
    return tabulate(rows, (title, "value"), tablefmt="github", disable_numparse=True)
