"""Infers a network's configuration from the names and shapes of its official tensors."""

import re
from collections import Counter
from collections.abc import Collection, Mapping

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    """Returns the network with official tensors of these names and shapes.

    Each size is a majority vote, so that one wrong tensor is reported instead of changing the size.
    What no tensor shows, such as the growth of ORSNets where there are none, is 0 or the default.

    Raises:
        UserError: if there is no tensor that shows one of the sizes.
    """

    def matching(pattern: str) -> list[str]:
        pattern = re.escape(pattern).replace(r"\*", "[0-9]+")
        return [name for name in shapes if re.fullmatch(pattern, name)]

    def channels(pattern: str) -> int:
        convs = [shapes[name] for name in matching(pattern) if len(shapes[name]) == 4]
        sizes = Counter(shape[0] for shape in convs if 0 not in shape)
        if not sizes:
            raise UserError(f"not the weights of an MPRNet: it has no convolution {pattern}")
        return sizes.most_common(1)[0][0]

    subnets = infer_subnets(shapes)
    # The first stage's shallow features are as wide as its subnetwork, the others as U-Nets.
    first_is_wider = subnets[0] == "orsnet" and len(subnets) > 1
    cabs = ["shallow_feat2.1" if first_is_wider else "shallow_feat*.1"]  # one for each width
    if "unet" in subnets:
        cabs += ["stage*_encoder.encoder_level2.*", "stage*_encoder.encoder_level3.*"]
    if "orsnet" in subnets:
        cabs.append("stage*_orsnet.orb*.body.*")
    widths = [channels(f"{cab}.body.*.weight") for cab in cabs]
    squeezed = [channels(f"{cab}.CA.conv_du.0.weight") for cab in cabs]
    fitting = (  # several may fit; the official value is tried first
        r for r in (4, *range(1, widths[0] + 1)) if [c // r for c in widths] == squeezed
    )
    squeezes = "body.*.CA.conv_du.0.weight"
    orbs = [
        matching(f"stage{i}_orsnet.orb{orb}.{squeezes}")
        for i, subnet in enumerate(subnets, 1)
        for orb in (1, 2, 3)
        if subnet == "orsnet"
    ]
    gates = [*matching("sam*.conv1.weight"), *matching("sam*.conv3.weight")]
    fusing = re.compile(r"stage[0-9]+_[a-z]+\.(csff|conv_|up_)")
    return ModelConfig(
        width=widths[0],
        unet_growth=widths[1] - widths[0] if "unet" in subnets else 0,
        orsnet_growth=widths[-1] - widths[0] if "orsnet" in subnets else 0,
        reduction=next(fitting, 4),
        cabs_per_orb=max(map(len, orbs), default=1),
        bias=2 * len(matching("shallow_feat*.0.bias")) > len(subnets),
        stages="+".join(subnets),
        supervised_attention=bool(gates) or len(subnets) == 1,
        cross_stage_fusion=any(map(fusing.match, shapes)) or len(subnets) == 1,
    )


def infer_subnets(names: Collection[str]) -> list[str]:
    """Returns the subnetwork of each stage, "unet" or "orsnet", given official names.

    Raises:
        UserError: if there is no first stage.
    """
    cab = re.compile(r"stage([0-9]+)_(encoder|decoder|orsnet)\..+\.body\.[0-9]+\.weight")
    found = Counter((match[1], match[2] == "orsnet") for match in map(cab.match, names) if match)
    subnets: list[str] = []
    # An odd name or two is no stage.
    while sum(count := [found[str(len(subnets) + 1), kind] for kind in (False, True)]) > 2:
        subnets.append("orsnet" if count[True] > count[False] else "unet")
    if not subnets:
        raise UserError("not the weights of an MPRNet: it has no convolution stage1_encoder.*")
    return subnets
