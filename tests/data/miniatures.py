"""Miniatures of the benchmarks in their true formats on disk, for tests."""

from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image
from skimage import data


def photos(count: int, size: tuple[int, int], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(degraded, target) pieces of a photo, uint8 [*size, 3], the first ones noisier."""
    random = np.random.default_rng(seed)
    photo = data.astronaut()
    pairs = []
    for index in range(count):
        top, left = random.integers(0, 512 - np.array(size))
        target = photo[top : top + size[0], left : left + size[1]]
        noise = random.normal(0, 40 / (index + 1), target.shape)
        pairs.append((np.uint8(np.clip(target + noise, 0, 255)), target))
    return pairs


def write_pairs(folder: Path, count: int = 3, size: tuple[int, int] = (40, 56), **names) -> None:
    """A folder of PNG pairs, named 1.png, 2.png, ...; `names` renames `input` and `target`."""
    for number, pair in enumerate(photos(count, size), start=1):
        for role, image in zip(("input", "target"), pair):
            place = folder / names.get(role, role)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")


def write_sidd(folder: Path, count: int = 2, blocks: int = 3, size: int = 24) -> None:
    """SIDD's validation blocks: two MATLAB v5 files."""
    folder.mkdir(parents=True)
    pairs = photos(count * blocks, (size, size))
    for kind, images in zip(("Noisy", "Gt"), zip(*pairs)):
        name = f"Validation{kind}BlocksSrgb"
        array = np.reshape(images, (count, blocks, size, size, 3))
        scipy.io.savemat(folder / f"{name}.mat", {name: array}, do_compression=True)


def write_dnd(folder: Path, count: int = 2, size: tuple[int, int] = (60, 72)) -> list[np.ndarray]:
    """DND: HDF5 files as MATLAB writes them, every array transposed; returns the photos."""
    (folder / "images_srgb").mkdir(parents=True)
    images = [np.float32(noisy / 255) for noisy, _ in photos(count, size)]
    # Rows of top, left, bottom, right, from 1 and with their ends, in floats as MATLAB has them.
    boxes = np.array([[1, 1, 24, 32], [30, 33, 53, 64], [37, 41, 60, 72]], dtype=np.float64)
    for number, image in enumerate(images, start=1):
        with h5py.File(folder / "images_srgb" / f"{number:04d}.mat", "w") as file:
            file["InoisySRGB"] = image.T
    with h5py.File(folder / "info.mat", "w") as file:
        cell = file.create_dataset("info/boundingboxes", (1, count), dtype=h5py.ref_dtype)
        for index in range(count):
            cell[0, index] = file.create_dataset(f"#refs#/{index}", data=boxes.T).ref
    return images


def write_sidd_scenes(folder: Path, count: int = 2, size: tuple[int, int] = (64, 80)) -> None:
    """SIDD's training photos: two pairs in the folder of each scene."""
    for number, pair in enumerate(photos(2 * count, size)):
        scene = folder / f"{number // 2 + 1:04d}_001_S6_00100_00060_3200_L"
        scene.mkdir(parents=True, exist_ok=True)
        for kind, image in zip(("NOISY", "GT"), pair):
            name = f"{number // 2 + 1:04d}_{kind}_SRGB_{10 + number % 2:03d}.PNG"
            Image.fromarray(image).save(scene / name)
