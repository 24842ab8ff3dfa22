"""Converts weights between PyTorch and JAX, and checks that both networks compute the same.

Reads a .pth file, a .safetensors file or a run folder; writes .safetensors or .pth. Each may lie in
a bucket: gs://BUCKET/deblur.safetensors.

Example:
    python -m mprnet_jax.convert --input model_deraining.pth --output derain.safetensors --validate
"""

from pathlib import Path

from absl import flags

from mprnet_jax import command, paths
from mprnet_jax.atomic import make_folder
from mprnet_jax.devices.compiling import use_compile_cache
from mprnet_jax.errors import UserError
from mprnet_jax.weights import files, names, parity, pretrained

INPUT = flags.DEFINE_string(
    "input", "", f"A .pth or .safetensors file, a run folder, {pretrained.NAMES}."
)
OUTPUT = flags.DEFINE_string("output", "", "The .safetensors or .pth file to write.")
VALIDATE = flags.DEFINE_bool(
    "validate",
    False,
    "Compare with PyTorch's stages and blocks first; write nothing if one differs.",
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
    "Licence of the weights, such as Apache-2.0, for the metadata of a .safetensors file.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the output if it exists.")


def main() -> None:
    """Runs the command."""
    output = paths.anywhere(OUTPUT.value)
    check_output(output)
    weights = files.read(INPUT.value)
    if VALIDATE.value or REFERENCE.value:
        use_compile_cache()
        official = files.read_official(INPUT.value)
        report = parity.compare(weights, official, REFERENCE.value)
        print(report)
        try:
            report.check_agreement()
        except UserError as error:
            raise UserError(f"{error}; nothing was written") from error
    licence = {"licence": LICENCE.value} if LICENCE.value else {}
    written = files.write(output, weights.config, weights.params, weights.origin | licence)
    tensors = len(names.name_table(weights.config))
    size = f"{tensors} tensors, {written / 1e6:.1f} MB"
    if name := weights.config.published_name:
        size += f", the sizes of the published network {name}"
    print(f"{OUTPUT.value}: {size}")


def check_output(output: Path) -> None:
    """Raises UserError if the output cannot be written, before any work is done."""
    files.check_output(output)
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
