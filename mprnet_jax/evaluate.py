"""Restores and scores the paper's benchmarks, each by its own protocol.

Example:

    python -m mprnet_jax.evaluate --weights model_deraining.pth \\
        --benchmarks Rain100L,Test100 --data_root datasets --output scores

Writes scores.md, scores.json and a sheet of the worst, median and best image of each set; for DND
the files to submit. --restored DIR scores images that something else restored, in DIR/Rain100L and
so on.
"""

import numpy as np
from absl import flags

from mprnet_jax import paths
from mprnet_jax.command import run
from mprnet_jax.data.datasets import find_benchmark, normalized_name
from mprnet_jax.data.opening import open_benchmark
from mprnet_jax.data.pairs import Example
from mprnet_jax.devices.compiling import use_compile_cache
from mprnet_jax.errors import UserError
from mprnet_jax.evaluation import report
from mprnet_jax.evaluation.evaluator import Candidate, evaluate
from mprnet_jax.evaluation.perceptual import load_lpips
from mprnet_jax.evaluation.scoring import WithRestored, restored_folder, take_restored
from mprnet_jax.imageio.pixels import white_of
from mprnet_jax.model.cost import forward_flops, parameters_used
from mprnet_jax.restoration.restorer import Restorer
from mprnet_jax.weights import pretrained
from mprnet_jax.weights.files import load

WEIGHTS = flags.DEFINE_string(
    "weights",
    "",
    f"A .pth or .safetensors file, a run folder, hf://OWNER/NAME, {pretrained.NAMES}.",
)
RESTORED = flags.DEFINE_string(
    "restored", "", "Folder of restored images to score in place of a network."
)
NAMES = flags.DEFINE_list("benchmarks", [], "Names of the sets, such as Rain100L,GoPro.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "Folder with the sets.")
OUTPUT = flags.DEFINE_string("output", "", "Folder for the scores.")
LOCAL_POOLING = flags.DEFINE_bool(
    "local_pooling", False, "Average channel attention around each pixel (TLC)."
)
ENSEMBLE = flags.DEFINE_bool("ensemble", False, "Average over the 8 symmetries of the square.")
STAGES = flags.DEFINE_bool("stages", False, "Also score fewer stages, with time and cost.")
LPIPS = flags.DEFINE_bool("lpips", False, "Also score LPIPS.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the scores in --output, if any.")


def main() -> None:
    """Runs the command."""
    check_flags()
    keys = list(dict.fromkeys(normalized_name(name) for name in NAMES.value))
    titles = {key: find_benchmark(key).title for key in keys}
    # All sets are opened first, so that mistakes are reported before hours of work.
    sets = {key: open_benchmark(key, DATA_ROOT.value) for key in keys}
    if RESTORED.value:
        root = paths.absolute(RESTORED.value)
        for key, title in titles.items():
            folder = restored_folder(root, title, only_dataset=len(keys) == 1)
            sets[key] = WithRestored(sets[key], folder)
        candidates = [Candidate(take_restored)]
    else:
        candidates = candidates_from_weights(WEIGHTS.value, STAGES.value)
    entries = evaluate(
        sets,
        candidates,
        paths.anywhere(OUTPUT.value),
        restored_by=restored_by(),
        lpips=load_lpips() if LPIPS.value else None,
    )
    print(report.table(entries), report.notes(entries), sep="\n\n")
    print(f"\nscores.md, scores.json and images are in {OUTPUT.value}")
    if missing := report.left_out(entries):
        raise UserError(
            f"left out {len(missing)} images, listed in {OUTPUT.value}/scores.md; the first: "
            + missing[0]
        )


def restored_by() -> str:
    """Returns what is scored, for the report."""
    options = [flag.name for flag in (LOCAL_POOLING, ENSEMBLE) if flag.value]
    return " --".join([WEIGHTS.value or RESTORED.value, *options])


def check_flags() -> None:
    """Raises UserError for flags that contradict each other."""
    if bool(WEIGHTS.value) == bool(RESTORED.value):
        raise UserError("--weights, --restored: give one of them")
    scores = paths.anywhere(OUTPUT.value) / "scores.json"
    if paths.exists(scores) and not OVERWRITE.value:
        raise UserError(f"{scores}: exists; choose another --output, or add --overwrite")
    for flag in (STAGES, LOCAL_POOLING, ENSEMBLE):
        if flag.value and RESTORED.value:
            raise UserError(f"--{flag.name}: needs --weights; the images are restored already")


def candidates_from_weights(weights: str, compare_stages: bool) -> list[Candidate]:
    """Returns the network of a weight file as a candidate.

    With `compare_stages` there is one for each stage, which computes the stages up to that one.
    """
    use_compile_cache()
    model = load(weights)

    def candidate(stages: int, compared: bool = True) -> Candidate:
        restorer = Restorer(
            model,
            stages=stages,
            tile="off",  # tiles would change scores
            local_pooling=LOCAL_POOLING.value,
            ensemble=ENSEMBLE.value,
            precision="highest",  # else float32 matmuls lose precision on TPUs and GPUs
        )

        def restore(example: Example) -> np.ndarray:
            image = example["degraded"]
            return restorer((image / white_of(image.dtype)).astype(np.float32))

        parameters = parameters_used(model.config, stages)
        if not compared:
            return Candidate(restore, None, parameters, restorer.plan)
        multiply_adds = forward_flops(model.config, 256, 256, stages) / 2
        return Candidate(restore, stages, parameters, restorer.plan, multiply_adds)

    count = len(model.config.subnets)
    if not compare_stages:
        return [candidate(count, compared=False)]
    return [candidate(stages) for stages in range(1, count + 1)]


if __name__ == "__main__":
    run(main, required=(NAMES, DATA_ROOT, OUTPUT))
