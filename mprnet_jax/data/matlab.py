"""The two denoising benchmarks, which are distributed as MATLAB files.

SIDD's validation blocks are MATLAB v5 files. DND's photos are v7.3 files, which are HDF5 with every
array transposed.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from mprnet_jax.atomic import writing
from mprnet_jax.data.pairing import NoPairs, natural_order
from mprnet_jax.data.pairs import Example
from mprnet_jax.errors import UserError, one_line

# What SciPy and h5py raise for damaged files, found by mutating thousands of them.
DAMAGED_MATLAB = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    UnboundLocalError,
    NotImplementedError,
    zlib.error,
)
DAMAGED_HDF5 = (OSError, KeyError, ValueError, TypeError, RuntimeError)


class SiddBlocks:
    """SIDD's validation blocks, uint8: 32 from each of 40 photos, named 01_01 to 40_32."""

    def __init__(self, folder: Path | str):
        """Reads the two files.

        Raises:
            NoPairs: if neither of them is there.
            UserError: if one of them is missing or damaged.
        """
        self.folder = Path(folder)
        if not any(self.folder.glob("Validation*BlocksSrgb.mat")):
            raise NoPairs(f"{self.folder}: holds no Validation*BlocksSrgb.mat")
        self._degraded, self._target = self._blocks("Noisy"), self._blocks("Gt")
        if self._degraded.shape != self._target.shape:
            raise UserError(
                f"{self.folder}: the noisy blocks have shape {self._degraded.shape}, "
                f"the clean ones {self._target.shape}; download both anew"
            )
        photos, blocks = self._degraded.shape[:2]
        self.names = [
            f"{p:02d}_{b:02d}" for p in range(1, photos + 1) for b in range(1, blocks + 1)
        ]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        photo, block = divmod(index, self._degraded.shape[1])
        return {"degraded": self._degraded[photo, block], "target": self._target[photo, block]}

    def size_of(self, index: int) -> tuple[int, int]:
        """Returns height and width of an example."""
        height, width = self._degraded.shape[2:4]
        return height, width

    def _blocks(self, kind: str) -> np.ndarray:
        path = self.folder / f"Validation{kind}BlocksSrgb.mat"
        try:
            blocks = scipy.io.loadmat(path)[path.stem]
        except DAMAGED_MATLAB as error:
            raise _unreadable(path, error) from error
        if blocks.ndim != 5 or blocks.shape[4] != 3 or blocks.dtype != np.uint8:
            raise UserError(
                f"{path}: holds {blocks.dtype} of shape {blocks.shape}, not uint8 of "
                "[photos, blocks, rows, columns, 3]"
            )
        return blocks


class DndBoxes:
    """The crops at DND's bounding boxes, "degraded" only, float32 in [0, 1].

    There are 20 from each of 50 photos. They are named 0001_01 to 0050_20: the photo's file and the
    row of its table of boxes.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        photos = natural_order((self.folder / "images_srgb").glob("*.mat"))
        boxes = self._read_boxes(self.folder / "info.mat")
        if len(photos) != len(boxes):
            raise UserError(
                f"{self.folder}: images_srgb holds {len(photos)} .mat files, "
                f"info.mat describes {len(boxes)}"
            )
        self._boxes = [(path, box) for path, rows in zip(photos, boxes) for box in rows]
        self.names = [
            f"{path.stem}_{number:02d}"
            for path, rows in zip(photos, boxes)
            for number in range(1, len(rows) + 1)
        ]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        path, (top, left, bottom, right) = self._boxes[index]
        try:
            with h5py.File(path) as file:
                box = file["InoisySRGB"][:, left - 1 : right, top - 1 : bottom].T
        except DAMAGED_HDF5 as error:
            raise _unreadable(path, error) from error
        if box.shape != (bottom - top + 1, right - left + 1, 3):
            raise UserError(f"{path}: is smaller than info.mat says")
        if not (box.min() >= 0 and box.max() <= 1):  # so that NaN is found, too
            raise UserError(f"{path}: has values that are not in [0, 1]; download it anew")
        return {"degraded": np.asarray(box, np.float32)}

    def size_of(self, index: int) -> tuple[int, int]:
        """Returns height and width of an example, from the table of boxes."""
        top, left, bottom, right = map(int, self._boxes[index][1])
        return bottom - top + 1, right - left + 1

    @staticmethod
    def _read_boxes(path: Path) -> list[np.ndarray]:
        """Returns rows of (top, left, bottom, right) for each photo, 1-based, inclusive."""
        try:
            with h5py.File(path) as file:
                references = np.ravel(file["info/boundingboxes"])
                boxes = [np.asarray(file[reference]).T.astype(int) for reference in references]
        except DAMAGED_HDF5 as error:
            raise _unreadable(path, error) from error
        if any(rows.ndim != 2 or rows.shape[1] != 4 for rows in boxes):
            raise UserError(f"{path}: info/boundingboxes must hold arrays with 4 columns")
        return boxes


def write_dnd_submission(path: Path, boxes: Sequence[np.ndarray]) -> None:
    """Writes one photo's restored boxes in the format of DND's server.

    Args:
        path: of the `.mat` file, whose name is that of the photo's file.
        boxes: the restored boxes of the photo in order, floats [H, W, 3] in [0, 1].

    Raises:
        UserError: if it cannot be written.
    """
    cell = np.empty(len(boxes), dtype=object)
    for number, box in enumerate(boxes):
        cell[number] = np.float32(box)
    with writing(path) as temporary:
        scipy.io.savemat(temporary, {"Idenoised": cell, "israw": False, "eval_version": "1.0"})


def _unreadable(path: Path, error: Exception) -> UserError:
    if not path.exists():
        return UserError(f"{path}: is missing")
    return UserError(
        f"{path}: cannot be read as a MATLAB file ({one_line(error)}); download it anew"
    )
