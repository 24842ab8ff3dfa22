"""Evaluations: what is scored, written, planned, and named where it fails."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mprnet_jax.data.datasets import BENCHMARKS
from mprnet_jax.data.opening import open_benchmark
from mprnet_jax.errors import UserError
from mprnet_jax.evaluation import report
from mprnet_jax.evaluation.evaluator import Candidate, evaluate
from mprnet_jax.evaluation.protocols import PROTOCOLS
from mprnet_jax.model.mprnet import pure_functions, with_params
from mprnet_jax.restoration.restorer import Restorer

mini = runpy.run_path(str(Path(__file__).parents[1] / "data" / "miniatures.py"))


def floats(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.float32 else np.float32(image / 255)


def half_way(example):
    """A restorer that knows the answer and goes half of the way."""
    return (floats(example["degraded"]) + floats(example["target"])) / 2


def untouched(example):
    return floats(example["degraded"])


def write_all(root: Path) -> None:
    for key, benchmark in BENCHMARKS.items():
        folder = root / benchmark.folders[0]
        writer = {"sidd": "write_sidd", "dnd": "write_dnd"}.get(key, "write_pairs")
        mini[writer](folder)


def test_a_miniature_of_every_benchmark_is_scored(tmp_path):
    write_all(tmp_path / "data")
    sets = {key: open_benchmark(key, tmp_path / "data") for key in BENCHMARKS if key != "dnd"}
    output = tmp_path / "new" / "scores"
    entries = evaluate(sets, [Candidate(half_way)], output, "half way")
    assert [entry.benchmark for entry in entries] == list(sets)
    assert not report.left_out(entries)
    document = json.loads((output / "scores.json").read_text())
    assert document["restored_by"] == "half way"
    for entry, written in zip(entries, document["sets"]):
        source, protocol = sets[entry.benchmark], PROTOCOLS[entry.benchmark]
        assert [image.name for image in entry.scores.images] == source.names
        expected = [protocol.score(half_way(e), e["target"]) for e in (source[i] for i in range(3))]
        first = [(image.psnr, image.ssim) for image in entry.scores.images[:3]]
        np.testing.assert_allclose(first, expected, rtol=0, atol=0)
        assert written["images"][1]["psnr"] == expected[1].psnr
        assert written["psnr"] == pytest.approx(np.mean([i.psnr for i in entry.scores.images]))
        assert written["scored_on"] == protocol.label
        with Image.open(output / f"{BENCHMARKS[entry.benchmark].title}.png") as sheet:
            size = sheet.size
        height, width, _ = source[0]["degraded"].shape
        assert size[0] > 3 * width
        assert size[1] > 3 * height
    # The five deraining sets are all there, so their mean is, too.
    assert "mean of the five" in (output / "scores.md").read_text()


def test_dnd_becomes_a_submission(tmp_path):
    photos = mini["write_dnd"](tmp_path / "DND")
    sets = {"dnd": open_benchmark("dnd", tmp_path)}
    evaluate(sets, [Candidate(lambda e: e["degraded"] + 0.5)], tmp_path / "out", "brighter")
    submission = tmp_path / "out" / "DND_submission"
    assert sorted(path.name for path in submission.iterdir()) == ["0001.mat", "0002.mat"]
    boxes = scipy.io.loadmat(submission / "0002.mat")["Idenoised"][0]
    assert len(boxes) == 3
    np.testing.assert_array_equal(boxes[1], np.clip(photos[1][29:53, 32:64] + 0.5, 0, 1))


def test_what_is_damaged_is_named_and_the_rest_scored(tmp_path):
    for name in ("Rain100L", "Test100"):
        mini["write_pairs"](tmp_path / "test" / name)
    (tmp_path / "test/Rain100L/input/2.png").write_bytes(b"no picture")
    sets = {key: open_benchmark(key, tmp_path) for key in ("rain100l", "test100")}

    def sometimes_nan(example):
        image = half_way(example)
        return image * np.nan if np.array_equal(example["target"], broken) else image

    broken = sets["test100"][2]["target"]  # the third photo of both sets
    rain, test = evaluate(sets, [Candidate(sometimes_nan)], tmp_path / "out", "x")
    assert [image.name for image in rain.scores.images] == ["1"]
    assert [image.name for image in test.scores.images] == ["1", "2"]
    unread, *not_finite = report.left_out([rain, test])
    assert re.match(r"Rain100L 2: .*input/2\.png: is not a PNG", unread)
    assert [line.split(":")[0] for line in not_finite] == ["Rain100L 3", "Test100 3"]
    assert unread in (tmp_path / "out" / "scores.md").read_text()


def test_a_dnd_photo_whose_damaged_box_does_not_tell_its_name_is_left_out(tmp_path):
    class Prepared(list):
        names = ("0002_01", "0001_02", "record 2", "0001_01")

        def __getitem__(self, index):
            if index == 2:
                raise UserError("its record 2 is damaged")
            return {"degraded": np.full((8, 8, 3), index / 10, np.float32)}

    (entry,) = evaluate({"dnd": Prepared("abcd")}, [Candidate(untouched)], tmp_path, "a network")
    assert "its record 2 is damaged" in entry.scores.left_out[0]
    (written,) = (tmp_path / "DND_submission").iterdir()
    assert written.name == "0001.mat"
    boxes = scipy.io.loadmat(written)["Idenoised"].ravel()
    assert [box[0, 0, 0] for box in boxes] == pytest.approx([0.3, 0.1])


def test_a_dnd_photo_with_a_damaged_box_is_left_out(tmp_path):
    mini["write_dnd"](tmp_path / "DND")
    source = open_benchmark("dnd", tmp_path)
    (tmp_path / "DND/images_srgb/0001.mat").write_bytes(b"nothing")
    (entry,) = evaluate({"dnd": source}, [Candidate(untouched)], tmp_path / "out", "x")
    assert [path.name for path in (tmp_path / "out/DND_submission").iterdir()] == ["0002.mat"]
    assert len(entry.scores.left_out) == 3


def test_images_that_cannot_be_restored_are_named_and_the_rest_scored(tmp_path):
    mini["write_pairs"](tmp_path / "Rain100L")
    source = open_benchmark("rain100l", tmp_path)
    large = source[1]["target"]

    def too_large(example):
        if np.array_equal(example["target"], large):
            raise UserError("does not fit into the device's memory")
        return half_way(example)

    (entry,) = evaluate({"rain100l": source}, [Candidate(too_large)], tmp_path / "out", "x")
    assert [image.name for image in entry.scores.images] == ["1", "3"]
    assert entry.scores.left_out == ["Rain100L 2: does not fit into the device's memory"]


def test_a_submission_has_no_photo_that_is_not_finite_nor_one_of_an_earlier_network(tmp_path):
    mini["write_dnd"](tmp_path / "DND")
    source = open_benchmark("dnd", tmp_path)
    evaluate({"dnd": source}, [Candidate(untouched)], tmp_path / "out", "x")
    bad = source[0]["degraded"]

    def sometimes_nan(example):
        image = untouched(example)
        return image * np.nan if np.array_equal(example["degraded"], bad) else image

    (entry,) = evaluate({"dnd": source}, [Candidate(sometimes_nan)], tmp_path / "out", "y")
    assert [path.name for path in (tmp_path / "out/DND_submission").iterdir()] == ["0002.mat"]
    line, photo = entry.scores.left_out
    assert line.endswith(": the restored image has values that are not finite")
    assert photo == "DND 0001: is not in the submission, for lack of 1 of its 3 boxes"


def test_scores_that_cannot_be_written_are_an_error(tmp_path):
    mini["write_pairs"](tmp_path / "Rain100L")
    sets = {"rain100l": open_benchmark("rain100l", tmp_path)}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be made a folder"):
        evaluate(sets, [Candidate(half_way)], tmp_path / "file", "x")
    (tmp_path / "out/scores.md").mkdir(parents=True)
    with pytest.raises(UserError, match=r"scores\.md: cannot be written"):
        evaluate(sets, [Candidate(half_way)], tmp_path / "out", "x")


def test_stages_are_compared_in_one_table(tmp_path):
    mini["write_pairs"](tmp_path / "GoPro" / "test")
    sets = {"gopro": open_benchmark("gopro", tmp_path)}
    candidates = [
        Candidate(untouched, 1, 1000),
        Candidate(half_way, 2, 20000),
        Candidate(lambda e: floats(e["target"]), 3, 300000),
    ]
    entries = evaluate(sets, candidates, tmp_path / "out", "x")
    table = report.table(entries).splitlines()
    header = [cell.strip() for cell in table[0].strip("|").split("|")]
    rows = [dict(zip(header, map(str.strip, line.strip("|").split("|")))) for line in table[2:]]
    assert [row["stages"] for row in rows] == ["1", "2", "3"]
    assert [row["parameters"] for row in rows] == ["1,000", "20,000", "300,000"]
    assert float(rows[0]["PSNR"]) < float(rows[1]["PSNR"])
    assert rows[2]["PSNR"] == "inf"
    written = json.loads((tmp_path / "out" / "scores.json").read_text())["sets"]
    assert written[2]["psnr"] is None  # JSON has no infinity
    assert written[1]["seconds_per_image"] > 0


def test_a_set_of_many_sizes_takes_few_programs(tmp_path, make_short_model, compiles, capsys):
    rng = np.random.default_rng(0)
    for number in range(30):
        (pair,) = mini["photos"](1, tuple(rng.integers(24, 130, 2)), seed=number)
        for role, image in zip(("input", "target"), pair):
            folder = tmp_path / "GoPro/test" / role
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    source = open_benchmark("gopro", tmp_path)
    config = make_short_model()
    model = with_params(config, pure_functions(config)[0](0))
    restorer = Restorer(model, tile="off", precision="highest")

    def restore(example):
        return restorer(floats(example["degraded"]))

    candidate = Candidate(restore, plan=restorer.plan)
    (entry,) = evaluate({"gopro": source}, [candidate], tmp_path / "out", "x")
    assert "30 images of " in capsys.readouterr().out
    assert len(entry.scores.images) == 30
    assert len(compiles) <= 6
    for index in (0, 20):
        example = source[index]
        image = Restorer(model, tile="off", precision="highest")(floats(example["degraded"]))
        expected = PROTOCOLS["gopro"].score(image, example["target"])
        # 8-bit images of two programs may differ in a few pixels by one level.
        assert entry.scores.images[index].psnr == pytest.approx(expected.psnr, abs=1e-4)
