import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.weights import run_folder


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        run_folder.read(tmp_path)
    for damaged in ("{", "[]"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            run_folder.read(tmp_path)
    for other in ("{}", '{"model": {"wdith": 3}}', '{"model": {"width": "3"}}'):
        (tmp_path / "config.json").write_text(other)
        with pytest.raises(UserError, match=r"config\.json: is not of a run"):
            run_folder.read(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match="no checkpoints yet"):
        run_folder.read(tmp_path)
