import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.weights.run_folder import load_params


def test_a_folder_that_is_no_run_is_told(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load_params(tmp_path)
    for damaged in ("{", "[]"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            load_params(tmp_path)
    for other in ("{}", '{"model": {"wdith": 3}}', '{"model": {"width": "3"}}'):
        (tmp_path / "config.json").write_text(other)
        with pytest.raises(UserError, match=r"config\.json: is not of a run"):
            load_params(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match="no checkpoints yet"):
        load_params(tmp_path)
