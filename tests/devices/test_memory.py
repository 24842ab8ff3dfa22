"""How much memory there is, under every kind of limit."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp

from mprnet_jax.devices import memory


def test_program_bytes_are_those_besides_its_arguments():
    def double_sum(x):
        return jnp.cumsum(x)[::-1] * 2

    program = jax.jit(double_sum).lower(jax.ShapeDtypeStruct((1000, 1000), jnp.float32)).compile()
    assert memory.program_bytes(program) >= 4_000_000  # the result itself


def test_available_bytes_are_shared_by_a_cpus_devices_and_end_at_the_limit(monkeypatch):
    monkeypatch.setattr(memory, "available_host_bytes", lambda: 8000)
    assert memory.available_bytes(jax.devices()[:1]) == 8000
    assert memory.available_bytes(jax.devices()[:4]) == 2000
    used = memory.this_process().memory_info().rss
    assert 0 < memory.available_bytes(jax.devices()[:1], limit=used + 2000) < 8000
    assert memory.available_bytes(jax.devices()[:1], limit=1000) == 0


def test_devices_that_report_no_memory_have_any_amount():
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: None)
    assert memory.available_bytes([device]) == math.inf
    assert memory.available_bytes([device], limit=1000) == 1000
    assert memory.program_bytes(SimpleNamespace(memory_analysis=lambda: None)) == 0


def test_a_limit_on_address_space_counts(run_python):
    code = """
import resource
from mprnet_jax.devices import memory
limit = memory.this_process().memory_info().vms + 300_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(memory.available_host_bytes())
"""
    result = run_python("-c", code)
    # a third: programs reserve more than they use
    assert 0 < int(result.stdout) <= 100_000_000
