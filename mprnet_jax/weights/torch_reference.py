"""MPRNet in PyTorch with the official names: the reference in tests and in `convert --validate`.

Written independently from the paper's description, as simply as possible: a loop over the patches,
and every resize and convolution where the paper draws it. Maps are [batch, channels, height,
width]. Only the functions import PyTorch, so that this module can be imported without it.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from mprnet_jax import paths
from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError, one_line


def build(config: ModelConfig) -> Any:
    """Returns a torch.nn.Module, MPRNet of these sizes, with PyTorch's default initialisation.

    `model(images, stages=None)` takes [B, 3, H, W] float32 images in [0, 1], H and W multiples of
    8, and returns the stages' images, the last stage first; by default all stages are computed.
    `config.dtype` is ignored: all is float32.
    """
    return _mprnet_class()(
        n_feat=config.width,
        scale_unetfeats=config.unet_growth,
        scale_orsnetfeats=config.orsnet_growth,
        num_cab=config.cabs_per_orb,
        reduction=config.reduction,
        bias=config.bias,
        stages=config.stages,
        supervised_attention=config.supervised_attention,
        cross_stage_fusion=config.cross_stage_fusion,
    )


def with_weights(
    config: ModelConfig, official: Mapping[str, np.ndarray], reference: str | None = None
) -> Any:
    """Returns a torch.nn.Module, MPRNet with these weights: that of `build`, or the user's.

    Args:
        config: the network's sizes.
        official: its weights by official name.
        reference: a Python file of the user's, such as MPRNet.py in a clone of the authors'
            repository. It is run, and its class `MPRNet` is built.

    Raises:
        UserError: if that fails or the weights do not fit; the user's network also raises it when
            it is called, if it fails or returns no images of stages.
    """
    torch = _import_torch()
    tensors = {name: torch.tensor(array.astype(np.float32)) for name, array in official.items()}
    if reference is None:
        model = build(config)
        model.load_state_dict(tensors)
        return model.eval()
    with report_reference_errors(reference):
        # An import would write bytecode to the user's folder.
        module = ModuleType("reference")
        code = compile(paths.absolute(reference).read_bytes(), reference, "exec")
        exec(code, module.__dict__)
        model = module.MPRNet(
            n_feat=config.width,
            scale_unetfeats=config.unet_growth,
            scale_orsnetfeats=config.orsnet_growth,
            num_cab=config.cabs_per_orb,
        )
        model.load_state_dict(tensors)
        forward = model.eval().forward

    def checked_forward(images: Any) -> Any:
        with report_reference_errors(reference):
            stages = forward(images)
            if not all(torch.is_tensor(stage) and stage.ndim == 4 for stage in stages):
                raise TypeError("it does not return the stages' images, [B, 3, H, W] each")
            return stages

    model.forward = checked_forward
    return model


@contextlib.contextmanager
def report_reference_errors(reference: str) -> Iterator[None]:
    """Turns errors of the user's reference network into UserError."""
    try:
        yield
    except Exception as error:  # reason: the user's own code may raise anything
        text = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{reference}: cannot be the reference: {text}") from error


def _import_torch() -> ModuleType:
    """Returns PyTorch, or raises UserError."""
    try:
        import torch
    except ImportError as error:
        raise UserError("comparing needs PyTorch: pip install 'mprnet-jax[torch]'") from error
    return torch


@functools.cache
def _mprnet_class() -> type:
    import torch
    from torch import nn

    def conv(c_in, c_out, size, bias):
        return nn.Conv2d(c_in, c_out, size, padding=size // 2, bias=bias)

    def resize(scale):
        return nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)

    class CALayer(nn.Module):
        def __init__(self, c, reduction, bias):
            super().__init__()
            self.conv_du = nn.Sequential(
                conv(c, c // reduction, 1, bias),
                nn.ReLU(),
                conv(c // reduction, c, 1, bias),
                nn.Sigmoid(),
            )

        def forward(self, x):
            mean = x.mean(dim=(2, 3), keepdim=True)
            return x * self.conv_du(mean)

    class CAB(nn.Module):
        def __init__(self, c, reduction, bias, act):
            super().__init__()
            self.body = nn.Sequential(conv(c, c, 3, bias), act, conv(c, c, 3, bias))
            self.CA = CALayer(c, reduction, bias)

        def forward(self, x):
            return self.CA(self.body(x)) + x

    class Down(nn.Module):
        def __init__(self, c_in, c_out):
            super().__init__()
            self.down = nn.Sequential(resize(0.5), conv(c_in, c_out, 1, False))

        def forward(self, x):
            return self.down(x)

    class Up(nn.Module):
        def __init__(self, c_in, c_out):
            super().__init__()
            self.up = nn.Sequential(resize(2), conv(c_in, c_out, 1, False))

        def forward(self, x):
            return self.up(x)

    class Encoder(nn.Module):
        def __init__(self, widths, cab, bias, csff):
            super().__init__()
            c1, c2, c3 = widths
            self.encoder_level1 = nn.Sequential(cab(c1), cab(c1))
            self.encoder_level2 = nn.Sequential(cab(c2), cab(c2))
            self.encoder_level3 = nn.Sequential(cab(c3), cab(c3))
            self.down12 = Down(c1, c2)
            self.down23 = Down(c2, c3)
            if csff:
                self.csff_enc1 = conv(c1, c1, 1, bias)
                self.csff_enc2 = conv(c2, c2, 1, bias)
                self.csff_enc3 = conv(c3, c3, 1, bias)
                self.csff_dec1 = conv(c1, c1, 1, bias)
                self.csff_dec2 = conv(c2, c2, 1, bias)
                self.csff_dec3 = conv(c3, c3, 1, bias)

        def forward(self, x, encoded=None, decoded=None):
            e1 = self.encoder_level1(x)
            if encoded is not None:
                e1 = e1 + self.csff_enc1(encoded[0]) + self.csff_dec1(decoded[0])
            e2 = self.encoder_level2(self.down12(e1))
            if encoded is not None:
                e2 = e2 + self.csff_enc2(encoded[1]) + self.csff_dec2(decoded[1])
            e3 = self.encoder_level3(self.down23(e2))
            if encoded is not None:
                e3 = e3 + self.csff_enc3(encoded[2]) + self.csff_dec3(decoded[2])
            return e1, e2, e3

    class Decoder(nn.Module):
        def __init__(self, widths, cab):
            super().__init__()
            c1, c2, c3 = widths
            self.decoder_level1 = nn.Sequential(cab(c1), cab(c1))
            self.decoder_level2 = nn.Sequential(cab(c2), cab(c2))
            self.decoder_level3 = nn.Sequential(cab(c3), cab(c3))
            self.skip_attn1 = cab(c1)
            self.skip_attn2 = cab(c2)
            self.up21 = Up(c2, c1)
            self.up32 = Up(c3, c2)

        def forward(self, encoded):
            e1, e2, e3 = encoded
            d3 = self.decoder_level3(e3)
            d2 = self.decoder_level2(self.up32(d3) + self.skip_attn2(e2))
            d1 = self.decoder_level1(self.up21(d2) + self.skip_attn1(e1))
            return d1, d2, d3

    class SAM(nn.Module):
        def __init__(self, c, bias, attends):
            super().__init__()
            self.attends = attends
            if attends:
                self.conv1 = conv(c, c, 1, bias)
            self.conv2 = conv(c, 3, 1, bias)
            if attends:
                self.conv3 = conv(3, c, 1, bias)

        def forward(self, x, image):
            restored = self.conv2(x) + image
            if not self.attends:
                return x, restored
            attended = self.conv1(x) * torch.sigmoid(self.conv3(restored)) + x
            return attended, restored

    class ORB(nn.Module):
        def __init__(self, c, num_cab, cab):
            super().__init__()
            # The last convolution never has a bias.
            self.body = nn.Sequential(*[cab(c) for _ in range(num_cab)], conv(c, c, 3, False))

        def forward(self, x):
            return self.body(x) + x

    class ORSNet(nn.Module):
        """`csff_from` is the subnetwork of the stage before whose features are added, or ""."""

        def __init__(self, widths, c, num_cab, cab, bias, csff_from):
            super().__init__()
            c1, c2, c3 = widths
            self.csff_from = csff_from
            self.orb1 = ORB(c, num_cab, cab)
            self.orb2 = ORB(c, num_cab, cab)
            self.orb3 = ORB(c, num_cab, cab)
            if csff_from == "unet":
                self.up_enc1 = Up(c2, c1)
                self.up_dec1 = Up(c2, c1)
                self.up_enc2 = nn.Sequential(Up(c3, c2), Up(c2, c1))
                self.up_dec2 = nn.Sequential(Up(c3, c2), Up(c2, c1))
                self.conv_enc1 = conv(c1, c, 1, bias)
                self.conv_enc2 = conv(c1, c, 1, bias)
                self.conv_enc3 = conv(c1, c, 1, bias)
                self.conv_dec1 = conv(c1, c, 1, bias)
                self.conv_dec2 = conv(c1, c, 1, bias)
                self.conv_dec3 = conv(c1, c, 1, bias)
            if csff_from == "orsnet":
                self.csff1 = conv(c, c, 1, bias)
                self.csff2 = conv(c, c, 1, bias)
                self.csff3 = conv(c, c, 1, bias)

        def forward(self, x, before):
            x1 = self.orb1(x)
            if self.csff_from == "unet":
                (e1, e2, e3), (d1, d2, d3) = before
                x1 = x1 + self.conv_enc1(e1) + self.conv_dec1(d1)
            if self.csff_from == "orsnet":
                x1 = x1 + self.csff1(before[0])
            x2 = self.orb2(x1)
            if self.csff_from == "unet":
                x2 = x2 + self.conv_enc2(self.up_enc1(e2)) + self.conv_dec2(self.up_dec1(d2))
            if self.csff_from == "orsnet":
                x2 = x2 + self.csff2(before[1])
            x3 = self.orb3(x2)
            if self.csff_from == "unet":
                x3 = x3 + self.conv_enc3(self.up_enc2(e3)) + self.conv_dec3(self.up_dec2(d3))
            if self.csff_from == "orsnet":
                x3 = x3 + self.csff3(before[2])
            return x1, x2, x3

    class MPRNet(nn.Module):
        def __init__(
            self,
            n_feat=40,
            scale_unetfeats=20,
            scale_orsnetfeats=16,
            num_cab=8,
            reduction=4,
            bias=False,
            stages="unet+unet+orsnet",
            supervised_attention=True,
            cross_stage_fusion=True,
        ):
            super().__init__()
            f = n_feat
            channels = {"unet": f, "orsnet": f + scale_orsnetfeats}
            widths = [f + level * scale_unetfeats for level in range(3)]
            act = nn.PReLU()  # one slope: every CAB holds this same object

            def cab(c):
                return CAB(c, reduction, bias, act)

            self.subnets = stages.split("+")
            self.has_csff = cross_stage_fusion
            last = len(self.subnets)
            for i, subnet in enumerate(self.subnets, 1):
                before = self.subnets[i - 2] if i > 1 else ""
                c = channels[subnet]
                shallow = f if before else c
                self.add_module(
                    f"shallow_feat{i}", nn.Sequential(conv(3, shallow, 3, bias), cab(shallow))
                )
                if before:
                    self.add_module(f"concat{i - 1}{i}", conv(f + channels[before], c, 3, bias))
                csff_from = before if cross_stage_fusion else ""
                if subnet == "unet":
                    encoder = Encoder(widths, cab, bias, csff=bool(csff_from))
                    self.add_module(f"stage{i}_encoder", encoder)
                    self.add_module(f"stage{i}_decoder", Decoder(widths, cab))
                else:
                    orsnet = ORSNet(widths, channels["orsnet"], num_cab, cab, bias, csff_from)
                    self.add_module(f"stage{i}_orsnet", orsnet)
                if i < last:
                    self.add_module(f"sam{i}{i + 1}", SAM(c, bias, supervised_attention))
                else:
                    self.tail = conv(c, 3, 3, bias)

        def forward(self, images, stages=None):
            """Patches are lists: the whole image; top, bottom; or the quadrants by rows."""
            whole = [images]
            halves = list(images.chunk(2, dim=2))
            quadrants = [quadrant for half in halves for quadrant in half.chunk(2, dim=3)]
            last = len(self.subnets)
            patches = [whole, halves, *[quadrants] * last][:last][::-1]  # that each stage sees
            patches.append(whole)

            def pairs(items):
                return zip(items[::2], items[1::2], strict=True)

            def join(items, count):
                if len(items) == 4 and count < 4:  # left and right
                    items = [torch.cat(pair, dim=3) for pair in pairs(items)]
                if len(items) == 2 and count < 2:  # top and bottom
                    items = [torch.cat(pair, dim=2) for pair in pairs(items)]
                return items

            def join_each(items, count):
                """The same for patches that have several maps each."""
                return list(zip(*(join(maps, count) for maps in zip(*items)), strict=True))

            results = []
            passed_on = None  # features of the stage before, of each patch
            before = None
            for i, subnet in enumerate(self.subnets[:stages], 1):
                get, seen, count = self.get_submodule, patches[i - 1], len(patches[i])
                features = [get(f"shallow_feat{i}")(patch) for patch in seen]
                if i > 1:
                    concat = get(f"concat{i - 1}{i}")
                    features = [
                        concat(torch.cat(pair, dim=1))
                        for pair in zip(features, passed_on, strict=True)
                    ]
                fused = before if self.has_csff and i > 1 else [None] * len(features)
                if subnet == "unet":
                    encoder, decoder = get(f"stage{i}_encoder"), get(f"stage{i}_decoder")
                    encoded = [
                        encoder(x, *(levels or ()))
                        for x, levels in zip(features, fused, strict=True)
                    ]
                    encoded = join_each(encoded, count)
                    decoded = [decoder(levels) for levels in encoded]
                    features = [levels[0] for levels in decoded]
                    before = list(zip(encoded, decoded, strict=True))
                else:
                    orsnet = get(f"stage{i}_orsnet")
                    before = [orsnet(x, levels) for x, levels in zip(features, fused, strict=True)]
                    before = join_each(before, count)
                    features = [refined[-1] for refined in before]
                if i < last:
                    sam = get(f"sam{i}{i + 1}")
                    passed_on, restored = zip(*map(sam, features, patches[i]), strict=True)
                else:
                    restored = [self.tail(features[0]) + images]
                results.append(join(list(restored), 1)[0])
            return results[::-1]

    return MPRNet
