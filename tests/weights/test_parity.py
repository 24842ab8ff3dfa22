"""Our network computes what PyTorch's does, and a break is found at its block.

The tolerances allow for float32 rounding: 1e-5 of an image whose range is 1, 1e-4 of a gradient's
norm. What is measured lies a factor of ten below.
"""

import textwrap
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model import layers
from mprnet_jax.weights import files, names, parity, torch_reference


class Network(NamedTuple):
    """A network of ours, and the same weights by official name."""

    config: ModelConfig
    params: names.Params
    official: dict[str, np.ndarray]

    def report(self) -> parity.Report:
        return parity.compare(files.WeightFile(self.config, self.params, {}), self.official)


def random_network(config: ModelConfig) -> Network:
    """Weights as PyTorch starts them."""
    torch.manual_seed(0)
    state = torch_reference.build(config).state_dict()
    official = {name: tensor.numpy() for name, tensor in state.items()}
    _, params = names.from_official(official)
    return Network(config, params, official)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (ModelConfig.derain(), (1, 64, 96)),
        (ModelConfig(13, 5, 3, reduction=3, cabs_per_orb=1, bias=True), (2, 136, 200)),
        (ModelConfig(8, 4, 4, cabs_per_orb=1), (1, 8, 8)),
    ],
    ids=["derain", "odd sizes, with biases", "smallest image"],
)
def test_stages_agree(config, size):
    network = random_network(config)
    model = torch_reference.with_weights(config, network.official)
    ours, _ = parity.run_ours(config, network.params, parity.noise(size), [])
    for stage in parity.compare_stages(ours, model, parity.noise(size)):
        assert stage.max_abs < 1e-5, stage
        assert stage.largest > 0.5, "nothing much is compared"


@pytest.mark.parametrize("stages", [1, 2])
def test_fewer_stages_are_the_first_ones(stages, config):
    model = torch_reference.build(config)
    images = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        assert all(
            torch.equal(a, b) for a, b in zip(model(images, stages), model(images)[-stages:])
        )


SIZES = ((2, 16, 24), (3, 40, 48))  # the second one is that of the program for both


class TestBlocks:
    """One network, compared block by block."""

    config = ModelConfig(8, 4, 4, cabs_per_orb=2)

    def compare(self, spoil=lambda params: None, size=SIZES[0], canvas=None):
        network = random_network(self.config)
        model = torch_reference.with_weights(self.config, network.official)
        spoil(network.params)
        compared = [block.ours for block in parity.blocks(self.config)]
        images = parity.noise(size)
        _, ours = parity.run_ours(self.config, network.params, images, compared, canvas)
        return parity.compare_blocks(self.config, ours, model, images)

    @pytest.mark.parametrize("canvas", [None, SIZES[1]])
    def test_all_blocks_agree_and_are_named_once(self, canvas):
        differences = self.compare(canvas=canvas)
        compared = [d.name for d in differences]
        assert len(set(compared)) == len(compared)
        assert parity.first_mismatch(differences) is None
        assert all(d.largest > 0 for d in differences)
        cabs = {
            entry.official_name[:-14]
            for entry in names.name_table(self.config)
            if entry.our_path == "slope"
        }
        assert cabs <= set(compared)
        assert {"stage1_encoder[2]", "stage2_decoder[0]", "sam12[0]", "sam23[1]"} <= set(compared)
        assert compared[-1] == "tail"

    @pytest.mark.parametrize(
        ("path", "block"),
        [
            (("decoder1", "level2", "cabs", 1, "conv2"), "stage1_decoder.decoder_level2.1"),
            (("encoder2", "csff", 1, "decoder"), "stage2_encoder[1]"),
            (("orsnet", "orbs", 1, "body", "cabs", 0, "conv1"), "stage3_orsnet.orb2.body.0"),
            (("sam12", "features"), "sam12[0]"),
        ],
    )
    def test_a_transposed_kernel_is_found(self, path, block):
        def transpose(params):
            node = params
            for key in path:
                node = node[key]
            node["kernel"] = jnp.swapaxes(node["kernel"], -2, -1)

        assert parity.first_mismatch(self.compare(transpose)).name == block

    def test_a_wrong_resize_is_found(self, monkeypatch):
        monkeypatch.setattr(layers, "downsample2x", lambda x: x[:, ::2, ::2])
        # A size of its own, so that no program is used that was compiled for the sound network.
        differences = self.compare(size=(1, 16, 16))
        assert parity.first_mismatch(differences).name == "stage1_encoder.down12"

    def test_nan_is_a_break(self):
        def spoil(params):
            params["concat12"]["kernel"] = params["concat12"]["kernel"].at[0].set(jnp.nan)

        assert parity.first_mismatch(self.compare(spoil)).name == "concat12"


def test_disagreement_names_block_or_stage(monkeypatch):
    monkeypatch.setattr(parity, "SIZES", SIZES)
    network = random_network(TestBlocks.config)
    report = network.report()
    report.check_agreement()
    for name in ("stage 1", "stage 2", "stage 3"):
        assert f"noise 2x16x24, {name}" in str(report)

    differing = report.stages[1]._replace(max_abs=float("nan"))  # as a user's reference might
    with pytest.raises(UserError, match=r"stage 2: differs .* by nan, though all blocks agree"):
        report._replace(stages=[differing]).check_agreement()

    squeeze = network.params["decoder2"]["level1"]["cabs"][0]["attention"]["squeeze"]
    squeeze["kernel"] = squeeze["kernel"][::-1]
    with pytest.raises(UserError, match=r"decoder_level1\.0: is the first block that differs"):
        network.report().check_agreement()


CLONE = """
    import torch
    from mprnet_jax.config import ModelConfig
    from mprnet_jax.weights import torch_reference

    class MPRNet(torch.nn.Module):
        def __new__(cls, in_c=3, n_feat=80, scale_unetfeats=48, scale_orsnetfeats=32, num_cab=8):
            config = ModelConfig(n_feat, scale_unetfeats, scale_orsnetfeats, cabs_per_orb=num_cab)
            return torch_reference.build(config)
"""


def test_a_users_own_network_is_the_other_side(tmp_path, config):
    clone = tmp_path / "MPRNet.py"
    clone.write_text(textwrap.dedent(CLONE))
    network = random_network(config)
    model = torch_reference.with_weights(config, network.official, str(clone))
    images = parity.noise((1, 8, 8))
    ours, _ = parity.run_ours(config, network.params, images, [])
    stages = parity.compare_stages(ours, model, images)
    assert max(stage.max_abs for stage in stages) < 1e-5


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        ("whole(images)[:1]", r"reference network returns .* for each stage"),
        ("whole(images)[0]", r"MPRNet.py: cannot be the reference: "),
        ("1 / 0", r"MPRNet.py: cannot be the reference: ZeroDivisionError: division by zero"),
    ],
)
def test_a_reference_that_returns_something_else_is_refused(tmp_path, monkeypatch, forward, reason):
    monkeypatch.setattr(parity, "SIZES", SIZES)
    clone = tmp_path / "MPRNet.py"
    patched = "            model = torch_reference.build(config)\n"
    patched += "            whole = model.forward\n"
    patched += f"            model.forward = lambda images: {forward}\n"
    patched += "            return model\n"
    built = "            return torch_reference.build(config)\n"
    clone.write_text(textwrap.dedent(CLONE.replace(built, patched)))
    network = random_network(TestBlocks.config)  # compiled for the tests above
    weights = files.WeightFile(network.config, network.params, {})
    with pytest.raises(UserError, match=reason):
        parity.compare(weights, network.official, str(clone))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "FileNotFoundError"),
        ("MPRNet = ", "SyntaxError"),
        ("import package_that_is_absent", "ModuleNotFoundError"),
        ("x = 1", "MPRNet"),
        ("class MPRNet:\n  pass", "TypeError"),
        (CLONE.replace("num_cab)", "num_cab + 1)"), "Missing key"),
    ],
)
def test_a_reference_that_does_not_serve_is_refused(tmp_path, config, content, reason):
    clone = tmp_path / "MPRNet.py"
    if content is not None:
        clone.write_text(textwrap.dedent(content))
    official = random_network(config).official
    with pytest.raises(UserError, match=f"MPRNet.py: cannot be the reference: .*{reason}"):
        torch_reference.with_weights(config, official, str(clone))
