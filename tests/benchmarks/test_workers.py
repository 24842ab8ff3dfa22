"""Contenders in alternation, on matrices of 16x16."""

import time

import pytest

from benchmarks.limit import SPARED, Limit
from benchmarks.schedule import Schedule
from benchmarks.work import EAGER, NEEDS_GPU, OURS, Contender, Work
from benchmarks.workers import Outcome, Worker, measure

CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
MATMUL = Work("matmul", height=16)
RUNTIME = Contender("ONNX Runtime", "onnx", runtime="onnxruntime")


def one_by_one(work, contenders, rounds, environment):
    return measure(work, contenders, rounds, environment)


def by_schedule(work, contenders, rounds, environment):
    ((done, outcomes),) = Schedule([work], contenders, rounds, environment, Limit(), 1).run()
    assert done == work
    return outcomes


@pytest.mark.parametrize("measured", [one_by_one, by_schedule])
def test_each_contender_has_its_rounds_and_a_peak(measured, exhaustive):
    if measured is one_by_one and not exhaustive:
        pytest.skip("as by_schedule, of which it is a part")
    outcomes = measured(MATMUL, [OURS, EAGER], 2, CPU)
    assert [outcome.contender for outcome in outcomes] == ["ours", "PyTorch eager"]
    for outcome in outcomes:
        assert not outcome.failure
        assert 0 < outcome.first < 60
        assert len(outcome.seconds) == 2
        assert 0 < outcome.median < 1
        assert outcome.peak > 10**7  # bytes: more than Python alone


def test_what_fails_is_shown_and_the_others_go_on():
    wrong = Contender("wrong", "jax", dtype="float31")
    failed, sound = by_schedule(MATMUL, [wrong, OURS], 1, CPU)
    assert "float31" in failed.failure
    assert sound.seconds


def test_who_finds_no_gpu_does_not_use_the_cpu_instead():
    environment = CPU | {NEEDS_GPU: "1"}
    for outcome in by_schedule(MATMUL, [EAGER, OURS], 2, environment):
        assert "finds no GPU" in outcome.failure
        assert not outcome.seconds


def test_a_contender_that_is_not_installed_is_named(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)  # which processes of ours inherit
    (outcome,) = measure(Work("forward").tiny(), [RUNTIME], 1, CPU)
    assert outcome.failure.endswith("is not installed")


def test_who_lacks_memory_tries_once_more(tmp_path, monkeypatch):
    tried = tmp_path / "tried"
    code = f"import os, pathlib\ntried = pathlib.Path({str(tried)!r})\n"
    code += "error = ImportError('', name='second') if tried.exists() else MemoryError('none')\n"
    (tmp_path / "onnxruntime.py").write_text(code + "tried.touch()\nraise error")
    monkeypatch.syspath_prepend(tmp_path)
    (outcome,) = by_schedule(Work("forward").tiny(), [RUNTIME], 1, CPU)
    assert outcome.failure == "second is not installed"


@pytest.fixture
def beats(tmp_path, monkeypatch):
    """A file that grows while the contender "ONNX Runtime" compiles, which never ends."""
    beats = tmp_path / "beats"
    code = "import time\nwhile True:\n    open({!r}, 'a').write('.')\n    time.sleep(0.01)\n"
    (tmp_path / "onnxruntime.py").write_text(code.format(str(beats)))
    monkeypatch.syspath_prepend(tmp_path)
    beats.touch()

    def grows():
        before = beats.stat().st_size
        time.sleep(0.3)
        return beats.stat().st_size > before

    return grows


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline


def test_who_compiles_can_be_stopped_for_a_while(beats):
    worker = Worker(RUNTIME, Work("forward").tiny(), CPU, Outcome("slow"))
    try:
        worker.start_compiling()
        wait_until(beats)
        worker.pause()
        wait_until(lambda: not beats())
        assert not beats()
        worker.resume()
        wait_until(beats)
    finally:
        worker.kill()
    assert not beats()


def test_time_is_over_when_it_is_over(beats, exhaustive):
    if not exhaustive:
        pytest.skip("takes 20 seconds, and all cores")
    works = [Work("forward").tiny(), MATMUL]  # of which the first is never compiled
    start, limit = time.monotonic(), Limit((20 + SPARED) / 60)
    measured = dict(Schedule(works, [OURS, RUNTIME], 1, CPU, limit, 2).run())
    assert time.monotonic() - start < 20 + SPARED
    assert not beats()
    ours, slow = measured[works[0]]
    assert (len(ours.seconds), ours.failure) == (2, "")  # measured when time was nearly over
    assert slow.failure == f"not measured: the {(20 + SPARED) / 60:g} minutes were over"
    (alone,) = measured[MATMUL]
    assert alone.seconds


def test_a_part_of_the_time_ends_earlier():
    limit = Limit((100 + SPARED) / 60)
    assert 39 < limit.part(0.4).left() < 41
    assert limit.part(0.4).message == limit.message
    assert Limit().part(0.4).left() == float("inf")
    assert Limit(0).left() < 0
    assert Limit(0).part(0.4).left() < 0


def test_who_takes_part():
    overhead = Contender("torch.compile", "torch", compiled="reduce-overhead")
    remat = Contender("ours, remat", "jax", remat="cab")
    assert RUNTIME.takes_part(Work("forward"))
    assert not RUNTIME.takes_part(Work("train"))
    assert overhead.takes_part(Work("forward"))
    assert not overhead.takes_part(Work("forward", batch=8))
    assert remat.takes_part(Work("train"))
    assert not remat.takes_part(Work("forward"))
    assert not remat.takes_part(Work("matmul"))
