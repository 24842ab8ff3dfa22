"""The table of scores, and what stands in it beside ours."""

import json
import os

from mprnet_jax.data.datasets import BENCHMARKS
from mprnet_jax.evaluation import report
from mprnet_jax.evaluation.protocols import DERAINING, DERAINING_MEAN
from mprnet_jax.evaluation.scoring import ImageScores, SetScores


def test_the_table_sets_ours_beside_the_published_figures():
    images = [ImageScores("1", 36.0, 0.96), ImageScores("2", 38.0, 0.98)]
    published = report.Entry("rain100l", SetScores(50 * images))
    unpublished = report.Entry("realblurj", SetScores([ImageScores("1", 30.0, 0.9)]))
    part = report.Entry("rain100l", SetScores(images))
    text = report.table([published, unpublished, part])
    first, second, third = text.splitlines()[2:]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    # RMSE: 1 - 10 ** (-0.6 / 20); DSSIM: 1 - 0.03 / 0.035
    expected = ["Rain100L", "100 of 100", "37.00", "0.9700", "36.40, 0.965", "+0.60, +0.0050"]
    assert cells == [*expected, "6.7%, 14.3%", "Y, 8 bits, SSIM of 2004"]
    assert "RealBlur-J" in second
    assert "30.00" in second
    # The published figures are those of the whole set and of the whole network.
    assert "2 of 100 " in third
    assert "36.40" not in third
    assert report.Entry("rain100l", SetScores(50 * images), stages=2).published is None
    assert report.Entry("rain100l", SetScores(50 * images), stages=3).published is not None
    assert len({len(line) for line in text.splitlines()}) == 1  # columns are aligned


def test_the_published_mean_stands_beside_that_of_whole_sets():
    image = ImageScores("1", 30.0, 0.9)
    entries = [report.Entry(k, SetScores([image] * BENCHMARKS[k].num_examples)) for k in DERAINING]
    assert f"{DERAINING_MEAN.psnr:.2f}, " in report.table(entries).splitlines()[-1]
    entries[0].scores.images.pop()
    assert f"{DERAINING_MEAN.psnr:.2f}, " not in report.table(entries).splitlines()[-1]


def test_names_that_are_no_text_are_written_escaped(tmp_path):
    name = os.fsdecode(b"na\xefve")
    scores = SetScores([ImageScores(name, 36.0, 0.96)], left_out=[f"{name}.png: cannot be read"])
    report.write_scores(tmp_path, [report.Entry("rain100l", scores)], name)
    assert r"na\udcefve.png: cannot be read" in (tmp_path / "scores.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "scores.json").read_text())
