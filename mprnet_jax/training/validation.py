"""Validation: restores the held-out pairs of a run and scores them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tabulate import tabulate

from mprnet_jax.config import TrainConfig
from mprnet_jax.data.batches import validation_batches
from mprnet_jax.data.pairs import Source, dtype_of
from mprnet_jax.devices import hosts
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.devices.compiling import compile_in_background
from mprnet_jax.devices.records import announced
from mprnet_jax.errors import UserError
from mprnet_jax.imageio.sheets import make_sheet, write_png
from mprnet_jax.training.build import build_validation_step, convert_params

SHEET_ROWS = 4
TABLE_ROWS = 8


@dataclass
class ValidationResult:
    """The result of a validation.

    Attributes:
        names: of the pairs.
        psnr: [1 + stages, N] in dB, of the degraded images and of the stages, stage 1 first.
        shown: for each of the first few pairs: degraded, the stages, stage 1 first, target, each
            [S, S, 3] with `validation_crop` S; the stages float32, the others of the source's type.
        complete: whether all held-out pairs were read.
    """

    names: Sequence[str]
    psnr: np.ndarray
    shown: list[list[np.ndarray]]
    complete: bool = True

    @property
    def titles(self) -> list[str]:
        """Titles of the images that are scored: "degraded", "stage1" and so on."""
        return ["degraded", *(f"stage{number}" for number in range(1, len(self.psnr)))]

    @property
    def mean_psnr(self) -> np.ndarray:
        """Means over the pairs, [1 + stages] in dB."""
        return self.psnr.mean(axis=1)

    @property
    def score(self) -> float:
        """Mean PSNR of the last stage in dB, by which the best checkpoint is chosen."""
        return float(self.mean_psnr[-1])

    def table(self) -> str:
        """Returns PSNR before and after, of the first few images and on average, as Markdown."""
        rows = [
            table_row(name, scores) for name, scores in zip(self.names[:TABLE_ROWS], self.psnr.T)
        ]
        if len(self.names) > TABLE_ROWS:
            rows.append([f"({len(self.names) - TABLE_ROWS} more)"])
        rows.append(table_row("mean", self.mean_psnr))
        stages = [f"stage {number}" for number in range(1, len(self.psnr))]
        head = ["held-out PSNR, dB", "before", *stages, "gain"]
        align = ("left", *["right"] * (len(head) - 1))
        return tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True)

    def sheet(self) -> np.ndarray:
        """Returns a sheet with a row of images for each pair shown, uint8 [H, W, 3].

        A row is degraded | stage 1 | ... | target.
        """
        return make_sheet(
            [
                [
                    (f"{title} {score:.2f} dB", image)
                    for title, score, image in zip(self.titles, scores, images[:-1])
                ]
                + [("target", images[-1])]
                for images, scores in zip(self.shown, self.psnr.T)
            ]
        )

    def write_before_after(self, path: Path) -> None:
        """Writes a sheet of degraded | restored | target of the pairs shown, as PNG.

        Raises:
            UserError: if the file cannot be written.
        """
        rows = [
            [
                (f"before, {scores[0]:.2f} dB", images[0]),
                (f"after, {scores[-1]:.2f} dB", images[-2]),
                ("target", images[-1]),
            ]
            for images, scores in zip(self.shown, self.psnr.T)
        ]
        write_png(path, make_sheet(rows))


def table_row(name: str, psnr: np.ndarray) -> list[str]:
    """Returns a row of the table of scores."""
    return [name, *(f"{score:.2f}" for score in psnr), f"{psnr[-1] - psnr[0]:+.2f}"]


class Validator:
    """Validates parameters on the held-out pairs of a run."""

    def __init__(self, config: TrainConfig, mesh: Mesh, held_out: Source, abstract_params: Any):
        """Builds the validation.

        Args:
            config: of the run.
            mesh: the devices to validate on.
            held_out: the pairs.
            abstract_params: shapes, dtypes and shardings of the parameters, a nested dict.
        """
        self._config, self._mesh, self._abstract_params = config, mesh, abstract_params
        self.held_out = held_out
        self._is_compiled = False  # or in the course of it
        self._step: Any = build_validation_step(config, mesh)
        data = mesh.shape["data"]
        self._batch_size = min(config.batch_size, -(-len(held_out) // data) * data)

    def start_compiling(self) -> None:
        """Starts to compile the validation step in a thread, unless it is compiled already.

        Not on a CPU, which trains on the same cores, nor with several processes, which must compile
        their programs in the same order.
        """
        if self._is_compiled or jax.default_backend() == "cpu" or jax.process_count() > 1:
            return
        self._is_compiled = True
        crop = self._config.validation_crop
        sharding = meshes.image_sharding(self._mesh)
        images = jax.ShapeDtypeStruct(
            (self._batch_size, crop, crop, 3), dtype_of(self.held_out), sharding=sharding
        )
        batch = {"degraded": images, "target": images}
        self._step = compile_in_background(self._step, self._abstract_params, batch)

    def validate(self, params: Any, should_stop: Callable[[], bool]) -> ValidationResult | None:
        """Restores the centre crops of the held-out pairs. All processes must call this.

        Args:
            params: a nested dict of arrays, or a flat vector.
            should_stop: called before each batch; whether to stop.

        Returns:
            The result, or None after a stop.

        Raises:
            UserError: if no pair can be read.
        """
        params = convert_params(params, self._abstract_params)
        scores: list[np.ndarray] = []  # [1 + stages, b] of each batch
        read: list[np.ndarray] = []
        shown: list[list[np.ndarray]] = []
        crop = self._config.validation_crop
        for batch, readable in validation_batches(self.held_out, self._batch_size, crop):
            if should_stop():
                return None
            readable = hosts.all_processes(readable)
            on_devices = meshes.put_batch(batch, self._mesh)
            if scores:
                result = self._step(params, on_devices)
            else:
                with announced(f"the validation of {self._config.name}"):
                    if not self._is_compiled:
                        self._step = hosts.compile_together(self._step, params, on_devices)
                    result = self._step(params, on_devices)
                self._is_compiled = True
            scores.append(np.asarray(result["psnr"])[:, : len(readable)])
            read.append(readable)
            for i in np.flatnonzero(readable)[: SHEET_ROWS - len(shown)]:
                stages = np.asarray(result["images"][:, i])
                shown.append([batch["degraded"][i], *stages, batch["target"][i]])
        return self._result(np.hstack(scores), np.hstack(read), shown)

    def _result(self, psnr: np.ndarray, read: np.ndarray, shown: list) -> ValidationResult:
        """Returns the result without the pairs that could not be read."""
        if not read.any():
            raise UserError("no held-out pair can be read: replace those named in the log")
        names = [self.held_out.names[int(i)] for i in np.flatnonzero(read)]
        return ValidationResult(names, psnr[:, read], shown, complete=bool(read.all()))
