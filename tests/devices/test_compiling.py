"""Compiler options, compiling in the background, and the compile cache."""

import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.devices import compiling


@pytest.fixture
def nothing_kept():
    """Options are looked up anew, by the test and after it."""
    compiling.compiler_options.cache_clear()
    yield
    compiling.compiler_options.cache_clear()


@pytest.mark.usefixtures("nothing_kept")
def test_options_that_this_jaxlib_lacks_are_dropped(monkeypatch):
    monkeypatch.setattr(compiling, "CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert compiling.compiler_options() == {}


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(
    ("kind", "options"), [("TPU v5 lite", compiling.V5E_OPTIONS), ("TPU v6 lite", {}), ("H100", {})]
)
def test_options_go_by_the_device(monkeypatch, kind, options):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    monkeypatch.setattr(compiling, "_known", lambda name, value: True)
    assert compiling.compiler_options() == options


def test_jit_computes_the_same():
    x = jnp.arange(12.0).reshape(3, 4)
    # 1e-6: another order of summing.
    np.testing.assert_allclose(compiling.jit(lambda a: a @ a.T)(x), x @ x.T, rtol=1e-6)


def test_a_compilation_that_fails_in_the_background_is_logged_and_repeated(caplog):
    class Failing:
        def lower(self, *arguments):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

        def __call__(self, number):
            return number + 1

    with caplog.at_level(logging.INFO):
        assert compiling.compile_in_background(Failing(), 1)(1) == 2
    assert "compiling in the background failed: RESOURCE_EXHAUSTED" in caplog.text


def test_a_bug_while_compiling_in_the_background_keeps_its_type():
    class Failing:
        def lower(self, *arguments):
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        compiling.compile_in_background(Failing(), 1)(1)


def test_compile_cache_keeps_the_users_shortest_time(monkeypatch):
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
        compiling.use_compile_cache()
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 7
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def test_compile_cache_keeps_what_the_user_chose(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = jax.config.jax_compilation_cache_dir
    compiling.use_compile_cache()
    assert jax.config.jax_compilation_cache_dir == chosen
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        compiling.use_compile_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mprnet_jax")
    finally:
        jax.config.update("jax_compilation_cache_dir", chosen)
