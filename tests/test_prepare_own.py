"""The sets as their own authors hand them out, from the command to training and scores."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from mprnet_jax import prepare
from mprnet_jax.config import DataConfig
from mprnet_jax.data.batches import TrainingBatches, training_source
from mprnet_jax.data.opening import open_benchmark, open_splits
from mprnet_jax.data.prepared import Prepared
from mprnet_jax.errors import UserError
from mprnet_jax.evaluation import report
from mprnet_jax.evaluation.evaluator import Candidate, evaluate
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.restoration.restorer import Restorer

mini = runpy.run_path(str(Path(__file__).parent / "data" / "miniatures.py"))
OWN, write_own = mini["OWN"], mini["write_own"]
SPLITS = {
    key: [split for other, split in OWN if other == key] for key in dict.fromkeys(k for k, _ in OWN)
}
TRAINED = [key for key, splits in SPLITS.items() if "train" in splits]
SCORED = [key for key, splits in SPLITS.items() if "test" in splits]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning:tensorflow_datasets", "ignore:.*:DeprecationWarning:etils"
)


@pytest.fixture(autouse=True)
def _small_patches(monkeypatch):
    monkeypatch.setattr(prepare, "SIDD_PATCHES", 2)
    monkeypatch.setattr(prepare, "SIDD_SIZE", 24)


def run(source: Path, key: str, data_dir: Path, **others: object) -> None:
    """The command, in this process."""
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        values = {"benchmark": key, "source": source, "data_dir": data_dir} | others
        flags.FLAGS(["prepare", *(f"--{name}={value}" for name, value in values.items())])
        prepare.main()


def write(root: Path, key: str, **size) -> Path:
    """All splits of a set, in one folder of its authors."""
    folders = {write_own(root, key, split, **size) for split in SPLITS[key]}
    (folder,) = folders
    return folder


def by_name(source) -> dict:
    examples = [source[index] for index in range(len(source))]
    return dict(zip(source.names, examples, strict=True))


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, example in theirs.items():
        for role, image in example.items():
            np.testing.assert_array_equal(ours[name][role], image)


@pytest.mark.parametrize("key", SPLITS)
def test_a_folder_and_its_archive_are_prepared_alike(tmp_path, key, capsys):
    folder = write(tmp_path / "sets", key)
    prepared = tmp_path / "folder"
    run(tmp_path / "sets", key, prepared)
    # Archives with the folder in them, found by their name, and without, named themselves.
    (tmp_path / "zips").mkdir()
    archive = tmp_path / "zips" / folder.name
    shutil.make_archive(str(archive), "zip", folder.parent, folder.name)
    run(tmp_path / "zips", key, tmp_path / "archive")
    shutil.make_archive(str(archive), "zip", folder)
    run(archive.with_suffix(".zip"), key, tmp_path / "bare")
    for split, source in open_splits(key, tmp_path / "sets").items():
        expected = by_name(Prepared(prepared / "mprnet_pairs" / key, split))
        for data_dir in (tmp_path / "archive", tmp_path / "bare"):
            assert_same(by_name(Prepared(data_dir / "mprnet_pairs" / key, split)), expected)
            assert [path.name for path in data_dir.iterdir()] == ["mprnet_pairs"]
        if key != "sidd":
            assert_same(expected, by_name(source))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    for split in SPLITS[key]:
        assert re.search(rf"{split} \({len(OWN[key, split][1])}(\)| of \d+\))", printed[-1])


def a_network(config, make_step):
    """A training step, which checks its loss, and a way to restore examples."""
    step, state = make_step(config)
    restorer = Restorer(with_params(config, pure_functions(config)[0](0)))

    def train(batch):
        _, metrics = step(state, batch)
        assert np.isfinite(metrics["loss"])

    return train, lambda example: restorer(np.float32(example["degraded"] / 255))


def no_network():
    """In its place, for compiling takes long: checks what it would get, and returns it."""

    def train(batch):
        assert {role: image.shape for role, image in batch.items()} == {
            "degraded": (2, 16, 16, 3),
            "target": (2, 16, 16, 3),
        }
        assert (batch["degraded"] != batch["target"]).any()

    return train, lambda example: np.float32(example["degraded"] / 255)


def test_they_are_trained_on_and_evaluated(tmp_path, tiny_model, make_step, exhaustive):
    """With a network only if --exhaustive is given."""
    data_dir = tmp_path / "prepared"
    for key in SPLITS:
        folder = write(tmp_path / key, key, size=(24, 32))
        shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
        run(folder.with_suffix(".zip"), key, data_dir)

    train, restore = a_network(tiny_model, make_step) if exhaustive else no_network()
    assert len(TRAINED) == 5
    for key in TRAINED:
        config = DataConfig("prepared", str(data_dir), key)
        batches = TrainingBatches(*training_source(config), batch_size=2, patch_size=16, seed=0)
        batch = next(batches)
        batches.close()
        assert not batch.pop("unreadable").any()
        train(batch)

    assert len(SCORED) == 8
    # The folders lie there still; one set is scored from its own.
    places = dict.fromkeys(SCORED, data_dir) | {"gopro": tmp_path / "gopro"}
    sets = {key: open_benchmark(key, place) for key, place in places.items()}
    entries = evaluate(sets, [Candidate(restore)], tmp_path / "scores", "a network")
    assert not report.left_out(entries)
    assert [len(entry.scores.images) for entry in entries] == [
        len(OWN[key, "test"][1]) for key in SCORED
    ]


def damage(archive: Path, name: str) -> None:
    """Changes a bit of a member."""
    with zipfile.ZipFile(archive) as opened:
        member = opened.getinfo(name)
        at = member.header_offset + 30 + len(name) + member.compress_size // 2
    data = bytearray(archive.read_bytes())
    data[at] ^= 1
    archive.write_bytes(data)


def test_what_cannot_be_read_in_an_archive_is_named_and_the_rest_goes_on(tmp_path, capsys):
    folder = write(tmp_path, "gopro")
    archive = tmp_path / "GOPRO_Large.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*.png")):
            opened.write(path, path.relative_to(tmp_path))
        opened.writestr("../outside.png", b"")
        broken = "GOPRO_Large/test/GOPR0999_11_00/{}/000001.png"
        opened.writestr(broken.format("blur"), b"no picture")
        opened.write(folder / "test/GOPR0371_11_00/sharp/000001.png", broken.format("sharp"))
    shutil.rmtree(folder)
    damaged = "GOPRO_Large/train/GOPR0371_11_00/sharp/000001.png"
    damage(archive, damaged)
    with pytest.raises(UserError, match=r"GOPRO_Large\.zip: 2 members and 2 pairs were left out"):
        run(tmp_path, "gopro", tmp_path / "out")
    printed = capsys.readouterr()
    assert "train (1 of 2103), test (2 of 1111)" in printed.out
    lines = [line for line in printed.err.splitlines() if "left out" in line]
    assert "../outside.png, which would lie outside" in lines[0] + lines[1]
    assert f"{damaged}, which is damaged (Bad CRC-32" in lines[0] + lines[1]
    assert f"gopro train: left out GOPR0371_11_00-000001: {archive}/{damaged}" in lines[2]
    assert f"gopro test: left out GOPR0999_11_00-000001: {archive}/" in lines[3]
    assert "unpacked-" not in printed.err
    names = Prepared(tmp_path / "out/mprnet_pairs/gopro", "train").names
    assert list(names) == ["GOPR0372_05_00-000001"]
    assert not (tmp_path / "outside.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["GOPRO_Large.zip", "out"]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([], "nor HIDE_dataset as its authors"),
        (["a"], "nor HIDE_dataset as its authors"),
        (["GT", "test/test-close-ups"], "is not a PNG"),
    ],
)
def test_an_archive_without_the_set_leaves_nothing_behind(tmp_path, places, message):
    archive = tmp_path / "HIDE_dataset.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("readme.txt", b"")
        for place in places:
            opened.writestr(f"{place}/1.png", b"no picture")
    with pytest.raises(UserError, match=rf"^.*/HIDE_dataset\.zip.*{message}"):
        run(tmp_path, "hide", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not list((tmp_path / "out").glob("unpacked-*"))


def test_splits_may_lie_in_a_folder_and_in_an_archive(tmp_path):
    for split in ("test", "train"):
        folder = write_own(tmp_path, "gopro", split)
        if split == "test":
            shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
            shutil.rmtree(folder)
    run(tmp_path, "gopro", tmp_path / "out")
    for split in ("test", "train"):
        assert len(Prepared(tmp_path / "out/mprnet_pairs/gopro", split)) == 2


def test_the_command_ends_with_status_2(tmp_path):
    folder = write(tmp_path, "hide")
    shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    shutil.rmtree(folder)
    with zipfile.ZipFile(tmp_path / "HIDE_dataset.zip", "a") as opened:
        opened.writestr("/absolute.png", b"")
    options = ("--benchmark=HIDE", "--source=.", "--data_dir=out")
    result = subprocess.run(
        [sys.executable, "-m", "mprnet_jax.prepare", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 2
    assert "test (2 of 2025)" in result.stdout
    last = result.stderr.splitlines()[-1]
    assert "HIDE_dataset.zip: 1 members and 0 pairs were left out" in last
