"""The networks of the paper's ablation, from training to restoring, and the table of scores."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from benchmarks import ablation
from mprnet_jax import Restorer, load
from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.training.loop import train
from mprnet_jax.weights import files

CHEAP = ("orsnet", "orsnet_orsnet")  # to compile


@pytest.mark.parametrize("name", ablation.ROWS)
def test_each_network_trains_saves_loads_exports_and_restores(
    name, tiny_run, tmp_path, photo, exhaustive
):
    if name not in CHEAP and not exhaustive:
        pytest.skip("takes a minute; pytest --exhaustive tries all")
    config = ablation.config_of(tiny_run, ablation.ROWS[name], seed=0, steps=1, patch_size=16)
    assert np.isfinite(ablation.score(config, tmp_path / "run"))
    trained = files.read(tmp_path / "run")
    assert trained.config.subnets == config.model.subnets
    for extension in (".safetensors", ".pth"):
        path = tmp_path / f"weights{extension}"
        files.write(path, trained.config, trained.params, {})
        read = files.read(path)
        jax.tree.map(np.testing.assert_array_equal, read.params, trained.params)
    restorer = Restorer(load(tmp_path / "weights.safetensors"))
    stages = restorer.stages_of(photo(17, 24))
    assert [stage.shape for stage in stages] == [(17, 24, 3)] * len(config.model.subnets)


def test_rows_change_what_they_say_and_nothing_else(tiny_run):
    whole = ablation.config_of(tiny_run, ablation.ROWS[ablation.WHOLE], 1, 50, 32)
    assert (whole.seed, whole.total_steps, whole.patch_size) == (tiny_run.seed + 1, 50, 32)
    for name, row in ablation.ROWS.items():
        config = ablation.config_of(tiny_run, row, 1, 50, 32)
        config.validate()
        same = replace(config, name=whole.name, model=whole.model, loss=whole.loss)
        assert same == whole
        assert (config.model == whole.model) == (name in (ablation.WHOLE, "operator"))
        assert (config.loss == whole.loss) == (name != "operator")
    assert ModelConfig().stages == "unet+unet+orsnet"  # what the whole network is by default


def test_a_difference_within_the_spread_is_not_called_real():
    whole = [30.0, 30.2, 30.4]
    mean, half, is_real = ablation.compare([29.5, 29.7, 29.89], whole)
    assert is_real
    assert mean == pytest.approx(-0.5, abs=0.01)
    assert half == pytest.approx(0.0143, abs=1e-4)  # 0.00577 / sqrt(3) * 4.303
    # All seeds agree that it is worse by 0.1 dB, but they differ by 0.2 themselves.
    assert not ablation.compare([29.9, 30.1, 30.29], whole)[2]
    assert not ablation.compare([29.5, 30.2, 29.5], whole)[2]
    assert not ablation.compare([20.0], [30.0])[2]  # one seed has no spread


def test_the_table_has_the_paper_beside_ours():
    scores = {ablation.WHOLE: [30.0, 30.5], "no_sam": [29.0, 29.52], "unet": []}
    lines = ablation.report(scores).splitlines()
    assert len(lines) == 4  # two rows have scores
    found = lines[2].split(" | ")[1:]
    assert found == ["30.07", "-0.42", "29.260", "0.368", "-0.990 ± 0.127", "worse |"]
    assert lines[3].startswith("| whole network: U-Net + U-Net + ORSNet | 30.49 |  | 30.250 |")


def test_the_command_resumes_and_writes_the_table(tiny_run, tmp_path, monkeypatch, capsys):
    rows = {
        "orsnet": ablation.ROWS["orsnet"],
        ablation.WHOLE: ablation.Row("whole", {"stages": "orsnet"}, paper=30.49),
    }
    monkeypatch.setattr(ablation, "ROWS", rows)
    for flag, value in (("SEEDS", 1), ("STEPS", 2), ("PATCH_SIZE", 16), ("CONFIG", tiny_run)):
        monkeypatch.setattr(ablation, flag, type("Flag", (), {"value": value}))
    monkeypatch.setattr(ablation, "WORKDIR", type("Flag", (), {"value": str(tmp_path)}))
    ablation.main()
    text = (tmp_path / "ablation.md").read_text()
    assert "| ORSNet |  |  | " in text
    assert "| +0.000 | no difference shown |" in text  # the same network by the same seed
    capsys.readouterr()
    monkeypatch.setattr("mprnet_jax.training.loop.train", None)  # nothing is trained again
    ablation.main()
    assert text.splitlines()[-1] in capsys.readouterr().out


def test_a_finished_run_of_another_setting_is_not_taken(tiny_run, tmp_path):
    row = ablation.ROWS["orsnet"]
    config = ablation.config_of(tiny_run, row, seed=0, steps=1, patch_size=16)
    train(config, tmp_path / "run")
    (tmp_path / "run/result.json").write_text('{"psnr": 1.0}')
    assert ablation.score(config, tmp_path / "run") == 1.0
    with pytest.raises(UserError, match="belongs to a run with"):
        ablation.score(replace(config, seed=1), tmp_path / "run")
