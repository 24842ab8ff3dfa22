"""LPIPS, the perceptual distance of Zhang et al. (CVPR 2018), from their package `lpips`."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mprnet_jax.errors import UserError, one_line

BACKBONE = "alexnet-owt-7be5be79.pth"  # torchvision's name of the file


def load_lpips() -> Callable[[np.ndarray, np.ndarray], float]:
    """Returns a function that computes LPIPS of two uint8 images [H, W, 3]; 0 if equal.

    Raises:
        UserError: if the package or the backbone's weights are not on this machine, or if
            torchvision was built for another PyTorch.
    """
    try:
        import lpips
        import torch
    except ImportError as error:
        raise UserError(
            f"--lpips: {error}; install the extra: pip install 'mprnet-jax[lpips]'"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"--lpips: torchvision does not fit this PyTorch ({one_line(error)}); install "
            "torchvision from where PyTorch came from"
        ) from error
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if not backbone.is_file():
        raise UserError(
            f"--lpips: {backbone} is missing; put https://download.pytorch.org/models/{BACKBONE} "
            "there"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision in an outdated way
        network = lpips.LPIPS(net="alex", verbose=False)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        images = (
            torch.from_numpy(np.float32(x / 127.5 - 1)).permute(2, 0, 1)[None] for x in (a, b)
        )
        with torch.inference_mode():
            return float(network(*images))

    return distance
