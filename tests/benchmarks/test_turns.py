"""Contenders in turn, on matrices of 16x16."""

import pytest

from benchmarks.turns import measure
from benchmarks.work import EAGER, NEEDS_GPU, OURS, Contender, Work

CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("alone", [False, True])
def test_each_contender_has_its_turns_and_a_peak(alone):
    work = Work("matmul", height=16)
    outcomes = measure(work, [OURS, EAGER], rounds=2, environment=CPU, alone=alone)
    assert [outcome.contender for outcome in outcomes] == ["ours", "PyTorch eager"]
    for outcome in outcomes:
        assert not outcome.failure
        assert len(outcome.seconds) == 2
        assert 0 < outcome.median < 1
        assert outcome.peak > 10**7  # bytes: more than Python alone


def test_what_fails_is_told_and_the_others_go_on():
    wrong = Contender("wrong", "jax", dtype="float31")
    failed, sound = measure(Work("matmul", height=16), [wrong, OURS], rounds=1, environment=CPU)
    assert "float31" in failed.failure
    assert sound.seconds


def test_who_finds_no_gpu_does_not_use_the_cpu_instead():
    environment = CPU | {NEEDS_GPU: "1"}
    for outcome in measure(Work("matmul", height=16), [EAGER, OURS], 2, environment, alone=True):
        assert "finds no GPU" in outcome.failure
        assert not outcome.seconds


def test_a_contender_that_is_not_installed_is_told(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)  # which processes of ours inherit
    runtime, work = Contender("ONNX Runtime", "onnx"), Work("forward").tiny()
    (outcome,) = measure(work, [runtime], 1, CPU)
    assert outcome.failure.endswith("is not installed")


def test_who_takes_part():
    runtime = Contender("ONNX Runtime", "onnx")
    overhead = Contender("torch.compile", "torch", compiled="reduce-overhead")
    remat = Contender("ours, remat", "jax", remat="cab")
    assert runtime.takes_part(Work("forward"))
    assert not runtime.takes_part(Work("train"))
    assert overhead.takes_part(Work("forward"))
    assert not overhead.takes_part(Work("forward", batch=8))
    assert remat.takes_part(Work("train"))
    assert not remat.takes_part(Work("forward"))
    assert not remat.takes_part(Work("matmul"))
