import json

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
        with pytest.raises(UserError, match=r"config\.json: was not written by this package"):
            run_folder.read(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"width": 0}}')
    with pytest.raises(UserError, match=r"config\.json: model\.width=0: must be"):
        run_folder.read(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match="no checkpoints yet"):
        run_folder.read(tmp_path)


def test_a_run_of_a_version_without_a_field_is_resumed_with_its_default(tiny_run, tmp_path):
    run_folder.write_config(tmp_path, tiny_run)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    del saved["optim"]["spike_factor"], saved["mesh"], saved["patch_size"], saved["loss"]
    path.write_text(json.dumps(saved))
    tiny_run.patch_size = 256
    run_folder.check_same_run(tmp_path, tiny_run)
    tiny_run.optim.spike_factor = 2.0
    with pytest.raises(UserError, match=r"a run with optim\.spike_factor=0\.0, this one has"):
        run_folder.check_same_run(tmp_path, tiny_run)


def test_a_run_can_be_made_longer_where_its_rates_stay_as_they_were(tiny_run, tmp_path):
    """The fixture's cosine has 4 steps, after 2 of warm-up; with 6 steps that is all of them."""
    run_folder.write_config(tmp_path, tiny_run)
    tiny_run.total_steps = 9
    run_folder.check_same_run(tmp_path, tiny_run)
    tiny_run.optim.decay_steps = 0
    with pytest.raises(UserError, match=r"over 4; one of 9 .*--config\.optim\.decay_steps=4 "):
        run_folder.check_same_run(tmp_path, tiny_run)

    tiny_run.total_steps = 6
    run_folder.write_config(tmp_path, tiny_run)
    tiny_run.total_steps = 9
    with pytest.raises(UserError, match=r"6 steps .*decay_steps=4 .*init_from=.*"):
        run_folder.check_same_run(tmp_path, tiny_run)
    tiny_run.optim.decay_steps = 4  # as the message says
    run_folder.check_same_run(tmp_path, tiny_run)
    tiny_run.optim.learning_rate = 1.0
    with pytest.raises(UserError, match=r"a run with optim\.learning_rate=0\.001"):
        run_folder.check_same_run(tmp_path, tiny_run)


def test_a_longer_run_has_the_same_warm_up(tiny_run, tmp_path):
    """Else its rates differ from the first step on, even where its cosine is as long."""
    run_folder.write_config(tmp_path, tiny_run)
    tiny_run.total_steps, tiny_run.optim.warmup_steps = 9, 5
    with pytest.raises(UserError, match=r"a run with .*warmup_steps=2, this one has .*=5;"):
        run_folder.check_same_run(tmp_path, tiny_run)


def test_a_run_cannot_be_made_shorter(tiny_run, tmp_path):
    run_folder.write_config(tmp_path, tiny_run)
    tiny_run.total_steps = 5
    with pytest.raises(UserError, match="a run with total_steps=6, this one has total_steps=5"):
        run_folder.check_same_run(tmp_path, tiny_run)


def test_lengths_that_are_no_numbers_are_another_run(tiny_run, tmp_path):
    tiny_run.total_steps = "6"
    run_folder.write_config(tmp_path, tiny_run)
    tiny_run.total_steps = 9
    with pytest.raises(UserError, match="a run with total_steps=6, this one has total_steps=9"):
        run_folder.check_same_run(tmp_path, tiny_run)
