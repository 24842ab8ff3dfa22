"""The subnetworks of stages: encoder-decoders (U-Nets) and ORSNet (paper, section 3).

Maps are [b, h, w, channels], where b counts the patches of all images. `before` are the features of
the stage before that cross-stage feature fusion (CSFF) adds inside of a subnetwork: the encoded and
the decoded levels of a U-Net, or those after each ORB of an ORSNet.
"""

import jax
from flax import nnx

from mprnet_jax.config import ModelConfig
from mprnet_jax.model.layers import (
    CAB,
    ORB,
    CABs,
    Down,
    Shared,
    Up,
    conv1x1,
    fused_conv1x1,
    upsample2x,
)

# Features of levels 1, 2 and 3: [b, h, w, c1], [b, h/2, w/2, c2] and [b, h/4, w/4, c3]; or those
# after each of three ORBs, which all have one shape.
Levels = tuple[jax.Array, ...]


class CSFF(nnx.Module):
    """Cross-stage feature fusion at one level (paper, section 3.3)."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.encoder = conv1x1(channels, channels, config, rngs)
        self.decoder = conv1x1(channels, channels, config, rngs)

    def __call__(self, encoded: jax.Array, decoded: jax.Array) -> jax.Array:
        """Fuses an encoder's and a decoder's features of the stage before; all are [B, h, w, C]."""
        return self.encoder(encoded) + self.decoder(decoded)


class Encoder(nnx.Module):
    """The contracting half of a U-Net, with CSFF at each level if `csff`."""

    def __init__(self, config: ModelConfig, *, csff: bool = False, rngs: nnx.Rngs):
        c1, c2, c3 = widths = config.level_widths
        self.level1 = CABs(2, c1, config, rngs=rngs)
        self.level2 = CABs(2, c2, config, rngs=rngs)
        self.level3 = CABs(2, c3, config, rngs=rngs)
        self.down12 = Down(c1, c2, config, rngs=rngs)
        self.down23 = Down(c2, c3, config, rngs=rngs)
        self.csff = nnx.List([CSFF(c, config, rngs=rngs) for c in widths] if csff else [])

    def __call__(self, x: jax.Array, shared: Shared, before: tuple[Levels, ...] = ()) -> Levels:
        """Encodes features [b, h, w, width].

        `before` must be given if and only if the encoder has CSFF.
        """
        assert bool(self.csff) == bool(before), "before if and only if there is CSFF"

        def fuse(x: jax.Array, index: int) -> jax.Array:
            if not before:
                return x
            encoded, decoded = before
            return x + shared.canvas.mask(self.csff[index](encoded[index], decoded[index]))

        e1 = fuse(self.level1(x, shared), 0)
        e2 = fuse(self.level2(self.down12(e1), shared), 1)
        e3 = fuse(self.level3(self.down23(e2), shared), 2)
        return e1, e2, e3


class Decoder(nnx.Module):
    """The expanding half of a U-Net, with a CAB on each skip connection."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c1, c2, c3 = config.level_widths
        self.level1 = CABs(2, c1, config, rngs=rngs)
        self.level2 = CABs(2, c2, config, rngs=rngs)
        self.level3 = CABs(2, c3, config, rngs=rngs)
        self.skip1 = CAB(c1, config, rngs=rngs)
        self.skip2 = CAB(c2, config, rngs=rngs)
        self.up21 = Up(c2, c1, config, rngs=rngs)
        self.up32 = Up(c3, c2, config, rngs=rngs)

    def __call__(self, encoded: Levels, shared: Shared) -> Levels:
        """Decodes the levels of an encoder; the result has their shapes."""
        e1, e2, e3 = encoded
        d3 = self.level3(e3, shared)
        d2 = self.level2(self.up32(d3, shared) + self.skip2(e2, shared), shared)
        d1 = self.level1(self.up21(d2, shared) + self.skip1(e1, shared), shared)
        return d1, d2, d3


class Lift(nnx.Module):
    """Projects one level of an earlier stage to ORSNet's width, at the level's resolution.

    In the paper, levels 2 and 3 are resized by 2 once and twice, with a 1x1 convolution after each,
    and a last 1x1 convolution follows. They commute with resizing, so `__call__` applies them
    before, as a single one, and the caller resizes the sum of several results.
    """

    def __init__(self, level: int, config: ModelConfig, *, rngs: nnx.Rngs):
        widths = config.level_widths
        self.ups = nnx.List(
            [
                conv1x1(widths[i], widths[i - 1], config, rngs, bias=False)
                for i in range(level - 1, 0, -1)
            ]
        )
        self.conv = conv1x1(config.width, config.stage_width("orsnet"), config, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Projects features [b, h, w, C] of the level to [b, h, w, width + orsnet_growth]."""
        return fused_conv1x1(x, *self.ups, self.conv)


class ORSNet(nnx.Module):
    """Original-resolution subnetwork: three ORBs, with features of the stage before added to each.

    After a U-Net, those are of one level for each ORB (paper, section 3.3). After an ORSNet, of
    which the paper says nothing, they are those of the same ORB.
    """

    def __init__(self, config: ModelConfig, *, csff_from: str = "", rngs: nnx.Rngs):
        """`csff_from` is the subnetwork of the stage before, "" without CSFF."""
        channels = config.stage_width("orsnet")
        self.orbs = nnx.List([ORB(channels, config, rngs=rngs) for _ in range(3)])
        self.csff_from = csff_from
        if csff_from == "unet":
            self.encoder_lifts = nnx.List([Lift(level, config, rngs=rngs) for level in (1, 2, 3)])
            self.decoder_lifts = nnx.List([Lift(level, config, rngs=rngs) for level in (1, 2, 3)])
        if csff_from == "orsnet":
            self.csff = nnx.List([conv1x1(channels, channels, config, rngs) for _ in range(3)])

    def __call__(self, x: jax.Array, shared: Shared, before: tuple[Levels, ...] = ()) -> Levels:
        """Refines features [B, H, W, width + orsnet_growth].

        Returns:
            The features after each ORB; all have the shape of `x`.
        """

        def fusion(index: int) -> jax.Array | None:
            if self.csff_from == "unet":
                encoded, decoded = before
                fused = self.encoder_lifts[index](encoded[index])
                fused += self.decoder_lifts[index](decoded[index])
                fused = shared.canvas.mask(fused)
                for _ in range(index):
                    fused = upsample2x(fused, shared.canvas)
                return fused
            if self.csff_from == "orsnet":
                (refined,) = before
                return shared.canvas.mask(self.csff[index](refined[index]))
            return None

        features = []
        for index, orb in enumerate(self.orbs):
            fused = fusion(index)
            x = orb(x, shared)
            x = x if fused is None else x + fused
            features.append(x)
        return tuple(features)
