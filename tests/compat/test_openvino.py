"""Networks in OpenVINO come and go, and signals still find their handlers."""

CODE = """
import signal, threading
import numpy as np
from mprnet_jax import ModelConfig
from mprnet_jax.export import graph, runtimes
from mprnet_jax.model.mprnet import pure_functions

config = ModelConfig(4, 2, 3, cabs_per_orb=1, stages="orsnet")
content = graph.build(config, pure_functions(config)[0](0)).SerializeToString()
first, second = (runtimes.load("openvino", content) for _ in range(2))
image = np.zeros((1, 8, 8, 3), np.float32)
assert (first(image)[0] == second(image)[0]).all()
del first
loaded = [second]
del second
thread = threading.Thread(target=loaded.clear)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_is_handled_after_networks_were_freed(run_python):
    done = run_python("-c", CODE)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
