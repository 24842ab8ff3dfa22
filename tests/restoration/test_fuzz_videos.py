"""Mutated videos are restored or refused in our words, and nothing else is written.

Thousands with --exhaustive, by hand.
"""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from mprnet_jax.restoration import video

pytest.importorskip("av")
tracks = runpy.run_path(str(Path(__file__).parent / "test_tracks.py"))
fuzz = runpy.run_path(str(Path(__file__).parents[1] / "imageio/test_fuzz.py"))


def restore(source: Path, target: Path) -> None:
    result = video.restore_video(source, target, tracks["Copier"](), 10**5)
    assert result.frames > 0


def test_mutated_videos(tmp_path: Path, exhaustive):
    random = np.random.default_rng(0)
    files = []
    for name, options in (
        ("a.mp4", {}),
        ("a.mov", {}),
        ("a.mkv", {"pixel_format": "yuv420p10le", "parameters": tracks["HDR10"]}),
        ("b.mkv", {"codec": "ffv1", "pixel_format": "bgr0"}),
        ("a.webm", {"codec": "libvpx-vp9"}),
    ):
        tracks["clip"](tmp_path / name, **options)
        files.append((Path(name).suffix, (tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    count = int(os.environ.get("FUZZ", "3000")) if exhaustive else 25
    restored = 0
    for number in range(count):
        extension, file = files[number % len(files)]
        source, target = tmp_path / f"in{extension}", tmp_path / "out" / f"in{extension}"
        source.write_bytes(fuzz["mutate"](file, random))
        message = fuzz["refusal"](lambda s=source, t=target: restore(s, t))
        if message:
            assert message.startswith((f"{source}: ", f"{target}: ")), message
            assert "\n" not in message
        else:
            restored += 1
            target.unlink()
        source.unlink()
        assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert restored > count / 20  # not all are refused
    print(f"{count} mutated videos, {restored} of them restored")
