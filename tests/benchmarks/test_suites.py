"""The command, and what its reports say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import aot, first, speed
from benchmarks.limit import SPARED, Limit
from benchmarks.tables import table
from benchmarks.work import Work
from benchmarks.workers import Outcome
from mprnet_jax.devices.compiling import V5E, V5E_OPTIONS

ROOT = Path(__file__).parents[2]


def test_command_writes_a_report(tmp_path):
    report = tmp_path / "report.md"
    command = [sys.executable, "-m", "benchmarks", "--suite", "gpu", "--smoke", "--only", "matrix"]
    subprocess.run([*command, f"--output={report}"], cwd=ROOT, check=True, capture_output=True)
    text = report.read_text()
    assert "these figures mean nothing" in text
    assert "There was no GPU: its figures are missing." in text
    assert "## matrix product, 16x16" in text
    assert "| ours, bfloat16 |" in text
    assert str(tmp_path) not in text


def test_commands_are_timed_beside_pytorch(tmp_path, exhaustive):
    if not exhaustive:
        pytest.skip("starts four processes")
    report = tmp_path / "report.md"
    command = [sys.executable, "-m", "benchmarks", "--suite", "gpu", "--smoke", "--minutes", "5"]
    command += ["--only", "restore, one photo", "--output", str(report)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (row,) = (row for row in report.read_text().splitlines() if row.startswith("| restore"))
    cells = row.strip("|").split("|")[1:]
    seconds = [float(number) for cell in cells for number in cell.split(",")]
    assert len(seconds) == 4  # ours twice, PyTorch's twice
    assert all(0 < s < 100 for s in seconds)


def test_a_command_that_cannot_run_says_why(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for name, code in {"torch": "import no_such_package", "cv2": "raise OSError('a | b')"}.items():
        (tmp_path / f"{name}.py").write_text(code)
    start = first.Start(["torch"], ["cv2"])
    cells = first.measure(start, 1, environment, Limit())
    assert cells == ["no_such_package is not installed", "", "OSError: a / b"]
    endless = first.Start(["http.server", "0"], None)
    cold, warm, eager = first.measure(endless, 1, environment, Limit((2 + SPARED) / 60))
    assert cold.startswith("no end after 2 s: the 0.1")
    assert (warm, eager) == ("", "it has no such command")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--minutes=9"], "--minutes: only for --suite gpu"),
        (["--only", "snow"], "--only 'snow': is in none of the names matrix product"),
        (["--output=nowhere/report.md"], "--output=nowhere/report.md: there is no such folder"),
        (["--output=old.md"], "--output=old.md: exists"),
        (["--h100=h100.txtpb"], "--h100=h100.txtpb: there is no such file"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run_python, flags, message, tmp_path):
    (tmp_path / "old.md").write_text("measured for hours")
    command = ["-m", "benchmarks", "--suite=cpu", "--output=report.md", *flags]
    result = run_python(*command, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old.md"]


def test_tables_are_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_section_has_ratios_shares_and_failures():
    work = Work("forward")
    ours = Outcome("ours", first=5, seconds=[1.0, 2.0, 9.0], peak=2_000_000_000)
    peer = Outcome("peer", first=1, seconds=[4.0], peak=1)
    dtypes = {"ours": "float32", "peer": "bfloat16", "gone": "float32"}
    share = speed.share_of_peak(work, dtypes, {"float32": 564e9})
    gone = Outcome("gone", "x is not installed")
    text = speed.section(work, [ours, peer, gone], dtypes, share)
    assert "| ours | 2 | 1 to 9 | 1.00 | 0.25 | 2.00 | 5.0 |" in text  # 282 GFLOP in 2 s
    assert "| peer | 4 | 4 to 4 | 0.50 |  | 0.00 | 1.0 |" in text
    assert "| gone | x is not installed |" in text


def test_ratios_are_to_ours_of_the_same_type():
    ours, fast, peer = (
        Outcome(name, first=1, seconds=[seconds], peak=1)
        for name, seconds in (("ours", 4.0), ("ours, fast", 1.0), ("peer", 2.0))
    )
    dtypes = {"ours": "float32", "ours, fast": "bfloat16", "peer": "bfloat16"}
    text = speed.section(Work("train"), [ours, fast, peer], dtypes, lambda _: "")
    assert "| peer | 2 | 2 to 2 | 0.50 |" in text
    failed = Outcome("ours, fast", "out of memory")
    text = speed.section(Work("train"), [ours, failed, peer], dtypes, lambda _: "")
    assert "| peer | 2 | 2 to 2 |  |" in text


def test_a_program_is_compiled_for_a_described_mesh():
    case = aot.Case("CPU", "tiny", "forward", mesh=(4, 2), batch=8, size=(512, 512))
    row = dict(zip(aot.HEAD, aot.row(case, None), strict=True))
    assert (row["preset"], row["mesh"], row["M cycles"]) == ("tiny", "4x2", "")
    assert 0 < float(row["GB a chip"]) < 1
    assert "all-gather" not in row["collectives"]
    assert int(row["lowered lines"]) > 100
    assert int(row["HLO lines"]) > 100
    assert float(row["tracing CPU s"]) > 0
    assert float(row["compile CPU s"]) > 0


def test_no_maps_are_gathered_by_a_tpus_compiler():
    pytest.importorskip("libtpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    case = aot.Case("v5e:2x4", "tiny", mesh=(4, 2), batch=8, size=(64, 64))
    row = dict(zip(aot.HEAD, aot.row(case, None), strict=True))
    assert float(row["GB a chip"]) < 1
    assert int(row["M cycles"]) > 0
    assert "all-reduce" in row["collectives"]
    assert "all-gather" not in row["collectives"]


def test_an_option_for_one_kind_of_tpu_stays_with_it():
    before = aot.options("TPU v6 lite").copy()
    assert V5E_OPTIONS.items() <= aot.options(V5E).items()
    assert aot.options("TPU v6 lite") == before
    assert not V5E_OPTIONS.keys() & before.keys()


def test_cycles_are_summed_where_there_are_any():
    estimate = '"estimated_cycles":"{}"\n'.format
    assert aot.cycles(estimate(1_400_000) + estimate(2_000_000)) == "3"
    assert aot.cycles(estimate(3_000_000) + estimate(2**63 - 1)) == "3, 1 without"
    assert aot.cycles(estimate(2**63 - 1)) == "1 without"
    assert aot.cycles("nothing") == ""


def test_collectives_are_counted():
    text = "a = f32[2] all-reduce-start(b)\nc = f32[2] all-reduce-done(a)\nd = f32[] all-gather(c)"
    assert aot.exchanges(text) == "1 all-reduce, 1 all-gather"


def test_a_target_that_cannot_be_had_says_why():
    message = aot.row(aot.Case("H100", "tiny"), None)[7]
    assert "--h100 gives no description" in message
