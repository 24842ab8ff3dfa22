"""Converts weights between PyTorch and JAX, and checks that both networks compute the same.

Reads a .pth file, a .safetensors file or a run folder; writes .safetensors or .pth. Each may lie in
a bucket: gs://BUCKET/deblur.safetensors. Publishes the weights on the Hugging Face Hub, with a
model card, if --output is hf://OWNER/NAME. Exports the network, for photos of any size, if --output
is an .onnx file, for ONNX Runtime, OpenVINO and others, or a .stablehlo file, for JAX.

Examples:
    python -m mprnet_jax.convert --input model_deraining.pth --output derain.safetensors --validate
    python -m mprnet_jax.convert --input runs/derain --output hf://OWNER/NAME --licence Apache-2.0
    python -m mprnet_jax.convert --input runs/derain --output derain.onnx --validate
"""

import tempfile
from pathlib import Path

from absl import flags

from mprnet_jax import command, paths
from mprnet_jax.atomic import make_folder, writing
from mprnet_jax.devices.compiling import use_compile_cache
from mprnet_jax.errors import UserError
from mprnet_jax.export import formats, validation
from mprnet_jax.weights import card, files, hub, names, parity, pretrained

INPUT = flags.DEFINE_string(
    "input", "", f"A .pth or .safetensors file, a run folder, hf://OWNER/NAME, {pretrained.NAMES}."
)
OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "The .safetensors, .pth, .onnx or .stablehlo file to write, or hf://OWNER/NAME to publish "
    "there, which implies --validate.",
)
VALIDATE = flags.DEFINE_bool(
    "validate",
    False,
    "Compare with PyTorch's stages and blocks first, or an exported network's stages with ours; "
    "write nothing if one differs.",
)
REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "A Python file, such as MPRNet.py in a clone of the authors' repository. It is run, and its "
    "class MPRNet compared with, in place of the PyTorch network in this package. Implies "
    "--validate.",
)
LICENCE = flags.DEFINE_string(
    "licence",
    None,
    "Licence of the weights, such as Apache-2.0, for the metadata of the file and the model card.",
)
STAGES = flags.DEFINE_integer(
    "stages", None, "Number of stages that an .onnx or .stablehlo file computes, by default all.", 1
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the output if it exists.")


def main() -> None:
    """Runs the command."""
    if hub.is_address(OUTPUT.value):
        publish()
        return
    output = paths.anywhere(OUTPUT.value)
    check_output(output)
    weights = files.read(INPUT.value)
    if LICENCE.value:
        weights = weights._replace(origin=weights.origin | {"licence": LICENCE.value})
    if is_export(output):
        export(weights, output)
        return
    if VALIDATE.value or REFERENCE.value:
        validate(weights)
    size = files.write(output, *weights)
    print(f"{OUTPUT.value}: {describe(weights, size)}")


def is_export(output: Path) -> bool:
    """Returns whether the output holds the computation, not only the weights."""
    return output.suffix.lower() in files.EXPORTED


def export(weights: files.WeightFile, output: Path) -> None:
    """Writes the network for other programs."""
    extension = output.suffix.lower()
    content = formats.encode(extension, weights, STAGES.value)
    if VALIDATE.value:
        use_compile_cache()
        report = validation.compare(extension, content, weights, STAGES.value)
        print(report)
        check_agreement(report)
    with writing(output) as temporary:
        temporary.write_bytes(content)
    metadata = formats.metadata_of(weights, weights.config.computed_stages(STAGES.value))
    print(f"{OUTPUT.value}: {describe(weights, len(content))}; licence: {metadata['licence']}")


def publish() -> None:
    """Publishes the weights on the Hugging Face Hub: they, sizes and recipe, and a model card."""
    weights, trained = files.read_with_training(INPUT.value)
    licence = card.licence_of(weights, trained, LICENCE.value)
    hub.check_may_publish(OUTPUT.value, overwrite=OVERWRITE.value)
    report = validate(weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, hub.WEIGHTS)
        files.write(path, weights.config, weights.params, weights.origin | {"licence": licence})
        content = path.read_bytes()
    address = hub.publish(
        OUTPUT.value,
        {
            hub.WEIGHTS: content,
            "config.json": card.config_json(weights, trained),
            "README.md": card.model_card(OUTPUT.value, weights, trained, licence, str(report)),
        },
    )
    print(f"{address}: {describe(weights, len(content))}; licence: {licence}")


def validate(weights: files.WeightFile) -> parity.Report:
    """Compares with PyTorch and prints it; raises UserError if that fails or anything differs."""
    use_compile_cache()
    official = files.read_official(INPUT.value)
    report = parity.compare(weights, official, REFERENCE.value)
    print(report)
    check_agreement(report)
    return report


def check_agreement(report: parity.Report | validation.Report) -> None:
    """Raises UserError if anything in the report differs."""
    try:
        report.check_agreement()
    except UserError as error:
        raise UserError(f"{error}; nothing was written") from error


def describe(weights: files.WeightFile, size: int) -> str:
    """Returns what was written: the number of tensors, its size, given in bytes, and its name."""
    text = f"{len(names.name_table(weights.config))} tensors, {size / 1e6:.1f} MB"
    if name := weights.config.published_name:
        text += f", the sizes of the published network {name}"
    if variant := weights.config.variant:
        text += f", {variant}"
    return text


def check_output(output: Path) -> None:
    """Raises UserError if the output cannot be written, before any work is done."""
    if is_export(output):
        formats.check_installed(output.suffix.lower())
        if REFERENCE.value:
            raise UserError("--reference is for .safetensors and .pth files; leave it out")
    else:
        files.check_output(output)
        if STAGES.value:
            raise UserError("--stages is for .onnx and .stablehlo files; leave it out")
    if paths.exists(output) and not OVERWRITE.value:
        raise UserError(f"--output={OUTPUT.value}: exists; use another name, or --overwrite")
    if paths.is_bucket(output):
        make_folder(output.parent)  # which tells whether it can be written to
    elif not output.parent.is_dir():
        raise UserError(
            f"--output={OUTPUT.value}: there is no folder {output.parent}; make it first"
        )


if __name__ == "__main__":
    command.run(main, required=(INPUT, OUTPUT))
