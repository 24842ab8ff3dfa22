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


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


# Per set and split, the pictures in the authors' folder: of each pair the degraded and the clean
# one, which may be that of other pairs too.
SCENE = "Data/{}_001_S6_00100_00060_3200_L/{}_{}_SRGB_010.PNG"
REALBLUR = {
    "J": "RealBlur-J_ECC_IMCORR_centroid_itensity_ref",
    "R": "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref",
}
OWN = {
    ("gopro", split): (
        "GOPRO_Large",
        [
            (f"{split}/{scene}/blur/000001.png", f"{split}/{scene}/sharp/000001.png")
            for scene in ("GOPR0371_11_00", f"GOPR0372_0{len(split)}_00")
        ],
    )
    for split in ("train", "test")
}
OWN |= {
    ("realblur" + kind.lower(), split): (
        "RealBlur",
        [
            (f"{folder}/scene{scene}/blur/blur_2.png", f"{folder}/scene{scene}/gt/gt_2.png")
            for scene in (f"00{len(split)}", f"01{len(split)}")
        ],
    )
    for kind, folder in REALBLUR.items()
    for split in ("train", "test")
}
OWN |= {
    ("bsd", "train"): (
        "BSD_3ms24ms",
        [
            (f"train/{n}/Blur/RGB/00000001.png", f"train/{n}/Sharp/RGB/00000001.png")
            for n in ("000", "017")
        ],
    ),
    ("sidd", "train"): (
        "SIDD_Medium_Srgb",
        [(SCENE.format(n, n, "NOISY"), SCENE.format(n, n, "GT")) for n in ("0001", "0002")],
    ),
    ("hide", "test"): (
        "HIDE_dataset",
        [
            ("test/test-close-ups/2fromGOPR1.png", "GT/2fromGOPR1.png"),
            ("test/test-long-shot/10fromGOPR1.png", "GT/10fromGOPR1.png"),
        ],
    ),
    ("rain100l", "test"): (
        "Rain100L",
        [(f"rainy/rain-00{n}.png", f"norain-00{n}.png") for n in (1, 2)],
    ),
    ("rain100h", "test"): (
        "Rain100H",
        [(f"rain/rain-00{n}.png", f"norain/norain-00{n}.png") for n in (1, 2)],
    ),
    ("test2800", "test"): (
        "rainy_image_dataset",
        [
            (f"testing/rainy_image/{n}_{version}.jpg", f"testing/ground_truth/{n}.jpg")
            for n in (901, 902)
            for version in range(1, 15)
        ],
    ),
    ("test1200", "test"): (
        "DID-MDN-datasets",
        [(f"DID-MDN-test/{n}.jpg", f"DID-MDN-test/{n}.jpg") for n in (0, 1)],
    ),
}


def own_photos(key: str, split: str, size: tuple[int, int] = (40, 56)) -> list[tuple]:
    """The (degraded, target) of each pair; versions of one clean picture are alike."""
    targets = [target for _, target in OWN[key, split][1]]
    numbers = [list(dict.fromkeys(targets)).index(target) for target in targets]
    images = photos(len(targets), size)
    return [images[number] for number in numbers]


def write_own(root: Path, key: str, split: str, size: tuple[int, int] = (40, 56)) -> Path:
    """A set as its authors hand it out, with what else lies there; returns its folder."""
    name, pairs = OWN[key, split]
    folder = root / name
    for (degraded, target), images in zip(pairs, own_photos(key, split, size)):
        if degraded == target:
            save(folder / degraded, np.concatenate(images, axis=1))
        else:
            save(folder / degraded, images[0])
            save(folder / target, images[1])
    if key == "gopro":
        save(folder / split / "GOPR0371_11_00/blur_gamma/000001.png", images[0])
    if key == "hide":
        save(folder / "train/1fromGOPR1.png", images[0])
        save(folder / "GT/1fromGOPR1.png", images[1])
    if key.startswith("realblur"):
        lines = [f"{target} {degraded} \n" for degraded, target in pairs]
        kind = key[-1].upper()
        (folder / f"RealBlur_{kind}_{split}_list.txt").write_text("".join(lines))
        save(folder / REALBLUR[kind] / "scene999/blur/blur_1.png", images[0])  # in no list
        save(folder / REALBLUR[kind] / "scene999/gt/gt_1.png", images[1])
    (folder / "readme.pdf").write_bytes(b"no picture")
    return folder
