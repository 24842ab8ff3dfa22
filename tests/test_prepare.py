import functools
import pickle
import runpy
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
import tifffile
from PIL import Image

from mprnet_jax.config import DataConfig
from mprnet_jax.data.batches import TrainingBatches, training_source, validation_source
from mprnet_jax.data.cutting import overlapping_pieces, random_patches
from mprnet_jax.data.datasets import BENCHMARKS, TRAINING_SETS
from mprnet_jax.data.opening import open_benchmark, open_splits
from mprnet_jax.data.prepared import Prepared, write_prepared
from mprnet_jax.errors import UserError
from mprnet_jax.evaluation import report
from mprnet_jax.evaluation.evaluator import Candidate, evaluate
from mprnet_jax.imageio import photos
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.restoration.restorer import Restorer

mini = runpy.run_path(str(Path(__file__).parent / "data" / "miniatures.py"))
SETS = sorted(BENCHMARKS.keys() | TRAINING_SETS.keys())

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning:tensorflow_datasets", "ignore:.*:DeprecationWarning:etils"
)


def write_miniature(root: Path, key: str, **pairs) -> None:
    """All splits of a set in its published layout; `pairs` goes to `write_pairs`."""
    for sets in (TRAINING_SETS, BENCHMARKS):
        if key not in sets:
            continue
        folder = root / sets[key].folders[0]
        if key == "sidd":
            mini["write_sidd_scenes" if sets is TRAINING_SETS else "write_sidd"](folder)
        elif key == "dnd":
            mini["write_dnd"](folder)
        else:
            mini["write_pairs"](folder, **pairs)


def by_name(source) -> dict:
    return {name: source[index] for index, name in enumerate(source.names)}


def assert_same(source, expected) -> None:
    """Two sources hold the same examples, in whatever order."""
    ours, theirs = by_name(source), by_name(expected)
    assert ours.keys() == theirs.keys()
    for index in range(len(source) if hasattr(source, "size_of") else 0):
        assert source.size_of(index) == source[index]["degraded"].shape[:2]
    for name, example in theirs.items():
        assert ours[name].keys() == example.keys()
        for role, image in example.items():
            assert ours[name][role].dtype == image.dtype
            np.testing.assert_array_equal(ours[name][role], image)


# Of each layout one is also stored raw.
@pytest.mark.parametrize(
    ("key", "raw"),
    [*((key, False) for key in SETS), *((key, True) for key in ("gopro", "sidd", "dnd"))],
)
def test_every_set_comes_back_as_it_was(tmp_path, key, raw):
    write_miniature(tmp_path, key)
    splits = open_splits(key, tmp_path)
    assert splits.keys() == {
        split for split, sets in (("train", TRAINING_SETS), ("test", BENCHMARKS)) if key in sets
    }
    folder = write_prepared(tmp_path / "prepared", key, splits, raw=raw)
    for split, source in splits.items():
        prepared = Prepared(folder, split)
        assert_same(prepared, source)
        # Reading processes get the source pickled.
        assert_same(pickle.loads(pickle.dumps(prepared)), source)
    if key in BENCHMARKS:
        assert_same(open_benchmark(key, tmp_path / "prepared"), splits["test"])
    assert "tensorflow" not in sys.modules


VALIDATED_ON = {"rain13k": "rain100l", "gopro": "gopro", "sidd": "sidd"}


def test_prepared_sets_are_trained_on_and_evaluated(tmp_path, make_short_model, make_step):
    for key in SETS:
        write_miniature(tmp_path, key, size=(24, 32))
        cut = random_patches(3, 24, seed=0) if key == "sidd" else None
        write_prepared(tmp_path / "prepared", key, open_splits(key, tmp_path), cut=cut)

    model = make_short_model()
    step, state = make_step(model)
    for train, validation in VALIDATED_ON.items():
        config = DataConfig("prepared", str(tmp_path / "prepared"), train, validation)
        batches = TrainingBatches(*training_source(config), batch_size=2, patch_size=16, seed=0)
        batch = next(batches)
        batches.close()
        assert not batch.pop("unreadable").any()
        state, metrics = step(state, batch)
        assert np.isfinite(metrics["loss"])
        held_out = open_splits(validation, tmp_path)["test"]
        assert_same(validation_source(config), held_out)
    config.train = "gopro:2,sidd"
    batches = TrainingBatches(*training_source(config), batch_size=3, patch_size=16, seed=0)
    batches.close()
    sets = [name.split("/")[0] for name in batches.example_names(0)]
    assert sorted(sets) == ["gopro", "gopro", "sidd"]

    # Parameters of zero change nothing, so that RealBlur's photos can be aligned.
    params = jax.tree.map(np.zeros_like, pure_functions(model)[0](0))
    restorer = Restorer(with_params(model, params))

    def restore(example):
        image = example["degraded"]
        return restorer(image if image.dtype == np.float32 else np.float32(image / 255))

    sets = {key: open_benchmark(key, tmp_path / "prepared") for key in BENCHMARKS}
    entries = evaluate(sets, [Candidate(restore)], tmp_path / "scores", "a network")
    assert [entry.benchmark for entry in entries] == list(BENCHMARKS)
    assert not report.left_out(entries)
    for entry in entries:
        if entry.benchmark != "dnd":
            assert [image.name for image in entry.scores.images] == list(
                sets[entry.benchmark].names
            )
    # Its boxes are not stored photo by photo.
    evaluate({"dnd": open_benchmark("dnd", tmp_path)}, [Candidate(restore)], tmp_path / "plain", "")
    for name in ("0001.mat", "0002.mat"):
        folders = (tmp_path / "scores", tmp_path / "plain")
        ours, theirs = (
            scipy.io.loadmat(folder / "DND_submission" / name)["Idenoised"].ravel()
            for folder in folders
        )
        assert len(ours) == len(theirs) == 3
        for box, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(box, expected)


def test_a_set_prepared_for_training_hides_no_test_pictures(tmp_path):
    mini["write_pairs"](tmp_path / "GoPro/train")
    write_prepared(tmp_path, "gopro", open_splits("gopro", tmp_path))
    with pytest.raises(UserError, match="has no split test, only train"):
        open_benchmark("gopro", tmp_path)
    mini["write_pairs"](tmp_path / "GoPro/test", count=4)
    assert len(open_benchmark("gopro", tmp_path)) == 4


def test_a_damaged_picture_of_a_prepared_set_is_named(tmp_path, monkeypatch):
    mini["write_pairs"](tmp_path / "HIDE/test")
    source = open_benchmark("hide", tmp_path)
    prepared = Prepared(write_prepared(tmp_path, "hide", {"test": source}), "test")
    record = prepared.record(1)
    monkeypatch.setattr(prepared, "record", lambda _: record | {"degraded": b"no picture"})
    name = record["name"].decode()
    with pytest.raises(UserError, match=rf"hide/.*, {name}, degraded: is not a PNG"):
        prepared[1]


def test_pictures_keep_the_bytes_of_their_files(tmp_path):
    mini["write_pairs"](tmp_path / "HIDE/test")
    path = tmp_path / "HIDE/test/input/2.png"
    path.rename(path.with_suffix(".jpg"))
    photo = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    cv2.imwrite(str(path.with_suffix(".jpg")), photo)
    source = open_benchmark("hide", tmp_path)
    assert_same(Prepared(write_prepared(tmp_path, "hide", {"test": source}), "test"), source)
    builder = tfds.builder_from_directory(tmp_path / "mprnet_pairs/hide/1.0.0")
    records = builder.as_data_source("test", decoders={"degraded": tfds.decode.SkipDecoding()})
    stored = {
        record["name"].decode(): record["degraded"] for record in map(records.__getitem__, range(3))
    }
    assert stored["2"] == path.with_suffix(".jpg").read_bytes()


@pytest.mark.parametrize("raw", [False, True])
def test_training_pictures_are_cut_and_test_pictures_are_not(tmp_path, raw):
    write_miniature(tmp_path, "sidd")
    splits = open_splits("sidd", tmp_path)
    folder = write_prepared(tmp_path, "sidd", splits, raw=raw, cut=random_patches(5, 32, seed=3))
    train = by_name(Prepared(folder, "train"))
    assert len(train) == 4 * 5
    assert {image.shape for example in train.values() for image in example.values()} == {
        (32, 32, 3)
    }
    patch = random_patches(5, 32, seed=3)(splits["train"][1], 1)[4]
    name = splits["train"].names[1]
    assert name == "0001_001_S6_00100_00060_3200_L_0001_NOISY_SRGB_011"
    np.testing.assert_array_equal(train[f"{name}_004"]["target"], patch["target"])
    assert_same(Prepared(folder, "test"), splits["test"])


def test_a_damaged_picture_leaves_nothing_behind(tmp_path):
    mini["write_pairs"](tmp_path / "HIDE/test", count=4)
    (tmp_path / "HIDE/test/input/3.png").write_bytes(b"no picture")
    source = open_benchmark("hide", tmp_path)
    with pytest.raises(UserError, match=r"input/3\.png: is not a PNG"):
        write_prepared(tmp_path / "prepared", "hide", {"test": source})
    assert not list((tmp_path / "prepared/mprnet_pairs").iterdir())
    # Repaired, it is prepared in the same place.
    (tmp_path / "HIDE/test/input/3.png").write_bytes(
        (tmp_path / "HIDE/test/target/3.png").read_bytes()
    )
    assert (
        len(Prepared(write_prepared(tmp_path / "prepared", "hide", {"test": source}), "test")) == 4
    )


def test_an_unprepared_set_is_answered_with_the_command(tmp_path):
    (tmp_path / "mprnet_pairs/gopro").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no prepared set.*mprnet_jax\.prepare"):
        open_benchmark("gopro", tmp_path)


def test_sidd_photos_without_a_clean_one_are_listed(tmp_path):
    mini["write_sidd_scenes"](tmp_path / "SIDD/train")
    next((tmp_path / "SIDD/train").glob("*/*GT*")).unlink()
    with pytest.raises(UserError, match=r"1 of 4 degraded pictures have no clean one.*NOISY"):
        open_splits("sidd", tmp_path)


def test_sidds_training_photos_are_enough(tmp_path):
    mini["write_sidd_scenes"](tmp_path / "SIDD/train")
    assert list(open_splits("sidd", tmp_path)) == ["train"]
    mini["write_sidd"](tmp_path / "test")
    for path in (tmp_path / "test").iterdir():  # the test set's files beside the folder
        path.rename(tmp_path / "SIDD" / path.name)
    assert list(open_splits("sidd", tmp_path)) == ["train", "test"]


@pytest.fixture
def run(run_python, tmp_path):
    """Runs the command in the temporary folder."""
    return functools.partial(run_python, "-m", "mprnet_jax.prepare", cwd=tmp_path)


def test_the_command_prepares_pieces(run, tmp_path):
    mini["write_pairs"](tmp_path / "GoPro/train", size=(96, 130))
    data_dir = tmp_path / "prepared"
    flags = ["--benchmark=GoPro", f"--source={tmp_path}", f"--data_dir={data_dir}", "--cut=64"]
    result = run(*flags, "--raw")
    assert result.returncode == 0, result.stderr
    assert "gopro_cut64_raw" in result.stdout
    assert "without split test" in result.stderr
    train = Prepared(data_dir / "mprnet_pairs/gopro_cut64_raw", "train")
    assert len(train) == 3 * 2 * 4
    assert train[0]["target"].shape == (64, 64, 3)
    again = run(*flags, "--raw")
    assert again.returncode == 2
    assert "exists already" in again.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--benchmark=gopro", "--source=."], "--data_dir"),
        (["--benchmark=dogs", "--source=.", "--data_dir=x"], "'dogs'"),
        (["--benchmark=dogs", "--source=.", "--data_dir=x", "--cut=512"], "'dogs'"),
        (["--benchmark=gopro", "--source=.", "--data_dir=x", "--cut=8"], "must be at least 64"),
        (["--benchmark=gopro", "--source=.", "--data_dir=x"], "GoPro/train"),
        (["--benchmark=hide", "--source=.", "--data_dir=x", "--cut=512"], "--cut=512"),
        (["--benchmark=sidd", "--source=.", "--data_dir=x", "--seed=-1"], "seed"),
        (["--benchmark=hide", "--source=.", "--data_dir=gs://bucket/x"], "gcloud storage cp"),
    ],
)
def test_a_mistake_is_one_line(run, flags, message, tmp_path):
    result = run(*flags)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_damaged_prepared_set_is_not_replaced_by_the_folder(tmp_path):
    mini["write_pairs"](tmp_path / "HIDE/test")
    folder = write_prepared(tmp_path, "hide", {"test": open_benchmark("hide", tmp_path)})
    (folder / "1.0.0/dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="its description is damaged"):
        open_benchmark("hide", tmp_path)


@pytest.mark.parametrize("stored", ["pictures", "raw", "pieces"])
def test_deep_and_turned_pictures_of_all_formats(tmp_path: Path, stored: str):
    """What other readers of the set would decode otherwise is stored as PNG."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[274] = 6
    folder = tmp_path / "GoPro/train"
    for role in ("input", "target"):
        (folder / role).mkdir(parents=True)
        deep = rng.integers(0, 65536, (80, 70, 3), np.uint16)
        photos.write(folder / role / "1.png", photos.Photo(deep))
        tifffile.imwrite(folder / role / "2.tif", deep, photometric="rgb")
        shallow = Image.fromarray((deep >> 8).astype(np.uint8))
        shallow.save(folder / role / "3.jpg", exif=exif)
        shallow.convert("CMYK").save(folder / role / "4.jpg")
    splits = open_splits("gopro", tmp_path)
    cut = overlapping_pieces(64) if stored == "pieces" else None
    path = write_prepared(tmp_path, "gopro", splits, raw=stored == "raw", cut=cut)
    prepared = Prepared(path, "train")
    assert prepared.dtype == np.uint16
    if stored != "pieces":
        assert_same(prepared, splits["train"])
    assert all(prepared[i]["degraded"].dtype == np.uint16 for i in range(len(prepared)))
    if stored == "pictures":
        records = {r["name"]: r["degraded"] for r in map(prepared.record, range(4))}
        assert all(data.startswith(b"\x89PNG") for data in records.values())
        assert records[b"1"] == (folder / "input/1.png").read_bytes()
