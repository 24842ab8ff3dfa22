"""Scores pictures that any program restored, as the deraining and deblurring papers do.

    python examples/score_restored.py RESTORED TARGET

Pictures are paired as in training: by their names before the extension, or by one rule for all
(docs/datasets.md). mprnet_jax.evaluate scores the paper's sets.
"""

import sys
from pathlib import Path

import numpy as np

from mprnet_jax.data.pairing import pair_folders
from mprnet_jax.evaluation.metrics import luma, psnr, ssim, volume_ssim
from mprnet_jax.imageio.rgb import decode


def main(restored, target):
    print(f"{'':20}{'PSNR Y':>9}{'SSIM Y':>9}{'PSNR RGB':>10}{'SSIM RGB':>10}")
    rows = []
    for pair in pair_folders(Path(restored), Path(target)):
        a, b = decode(pair.degraded), decode(pair.target)
        rows.append([psnr(luma(a), luma(b)), ssim(luma(a), luma(b)), psnr(a, b), volume_ssim(a, b)])
        print(line(pair.name, rows[-1]))
    print(line("mean", np.mean(rows, axis=0)))


def line(name, scores):
    return "{:20}{:9.2f}{:9.4f}{:10.2f}{:10.4f}".format(name, *scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
