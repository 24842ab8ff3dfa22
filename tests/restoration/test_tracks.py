"""What a video holds besides its pictures is copied, or named."""

import runpy
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mprnet_jax.restoration import tracks, video

av = pytest.importorskip("av")

# Primaries, white point and luminances of a common mastering display, and the light levels.
HDR10 = "mastering-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
HDR10 += ":cll=1000,400"
CHAPTERS = [
    {"id": i, "start": i, "end": i + 1, "time_base": Fraction(1, 5), "metadata": {"title": title}}
    for i, title in enumerate(("One", "Two"))
]
Copier = runpy.run_path(str(Path(__file__).parent / "test_video.py"))["Copier"]
# Container, codec of its subtitles, and a packet of them.
SUBTITLES = {
    ".mkv": ("subrip", b"Hello"),
    ".mp4": ("mov_text", b"\0\5Hello"),
    ".mov": ("mov_text", b"\0\5Hello"),
}


def clip(path: Path, codec="libx264", pixel_format="yuv420p", parameters="", metadata=()):
    """Writes ten frames, with subtitles, chapters, names and languages."""
    with av.open(str(path), "w") as file:
        options = {"x264-params": parameters} if parameters else {}
        pictures = file.add_stream(codec, rate=25, options=options)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, pixel_format
        pictures.metadata.update(language="fra", title="Film")
        file.metadata.update({"title": "A title", "artist": "An artist", **dict(metadata)})
        subtitles = None
        if path.suffix in SUBTITLES:
            name, text = SUBTITLES[path.suffix]
            subtitles = file.add_mux_stream(name)
            subtitles.time_base = Fraction(1, 1000)
            subtitles.metadata.update(language="ita", title="For the deaf")
            subtitles.disposition = av.stream.Disposition.forced
        if path.suffix == ".mkv":
            file.add_attachment("font.ttf", "font/ttf", b"a font")
        file.set_chapters(CHAPTERS)
        file.start_encoding()
        if subtitles:
            packet = av.Packet(text)
            packet.stream, packet.time_base = subtitles, Fraction(1, 1000)
            packet.pts = packet.dts = 40
            packet.duration = 200
            file.mux(packet)
        for i in range(10):
            pixels = np.full((48, 64, 3), 20 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels).reformat(format=pixel_format)
            frame.pts, frame.time_base = i, Fraction(1, 25)
            file.mux(pictures.encode(frame))
        file.mux(pictures.encode(None))


def subtitles_of(path: Path) -> list[tuple]:
    with av.open(str(path)) as file:
        track = file.streams.subtitles[0]
        packets = [(p.pts * p.time_base, bytes(p)) for p in file.demux(track) if p.size > 2]
        return [track.metadata.get("language"), track.disposition, packets]


@pytest.mark.parametrize("extension", SUBTITLES)
def test_subtitles_chapters_names_and_languages_are_kept(tmp_path: Path, extension: str):
    source, target = tmp_path / f"a{extension}", tmp_path / f"b{extension}"
    clip(source)
    assert video.restore_video(source, target, Copier()).left_out == []
    assert subtitles_of(target) == subtitles_of(source)
    assert subtitles_of(target)[2][-1][1].endswith(b"Hello")
    with av.open(str(source)) as before, av.open(str(target)) as after:
        titles = [chapter["metadata"]["title"] for chapter in after.chapters()]
        assert titles == ["One", "Two"]
        assert [c["start"] for c in after.chapters()] == [c["start"] for c in before.chapters()]
        for old, new in zip(before.streams, after.streams):
            assert tracks.describing(old.metadata) == tracks.describing(new.metadata)
        assert after.metadata["title"] == "A title"
        if extension == ".mkv":
            assert after.streams.attachments[0].data == b"a font"


def test_metadata_of_hdr10_are_kept(tmp_path: Path):
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    clip(source, pixel_format="yuv420p10le", parameters=HDR10)
    assert video.restore_video(source, target, Copier()).left_out == []
    frames = []
    for path in (source, target):
        with av.open(str(path)) as file:
            frames.append(tracks.side_data_of(next(file.decode(video=0))))
    for name in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"):
        assert frames[0][name] == frames[1][name]


def test_quicktimes_own_metadata_are_kept(tmp_path: Path):
    source, target = tmp_path / "a.mov", tmp_path / "b.mov"
    clip(source)
    with (
        av.open(str(source)) as file,
        av.open(str(tmp_path / "c.mov"), "w", options={"movflags": "use_metadata_tags"}) as copy,
    ):
        stream = copy.add_stream_from_template(file.streams.video[0])
        copy.metadata.update({"com.apple.quicktime.make": "Apple", "title": "A title"})
        for packet in file.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    assert video.restore_video(tmp_path / "c.mov", target, Copier()).left_out == []
    with av.open(str(target)) as file:
        assert file.metadata["com.apple.quicktime.make"] == "Apple"
        assert file.metadata["title"] == "A title"


@pytest.mark.parametrize(
    ("name", "options", "lost"),
    [
        ("a.mkv", {"codec": "ffv1", "pixel_format": "yuv420p16le"}, ["16 bits a channel"]),
        ("a.mkv", {"codec": "ffv1", "pixel_format": "yuva420p"}, ["transparency"]),
        ("a.mkv", {"codec": "ffv1", "pixel_format": "bgr0"}, ["colours at full resolution"]),
        ("a.webm", {"codec": "libvpx-vp9", "metadata": {"alpha_mode": "1"}}, ["transparency"]),
    ],
)
def test_what_the_new_video_lacks_is_named(tmp_path: Path, name: str, options: dict, lost: list):
    clip(tmp_path / name, **options)
    result = video.restore_video(tmp_path / name, tmp_path / "out" / name, Copier())
    assert result.left_out == lost


def test_a_second_picture_track_and_unknown_sound_are_named(tmp_path: Path):
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as file:
        pictures = [file.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in pictures:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = file.add_stream("aac", rate=48000, layout="mono")
        for stream in pictures:
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
            frame.pts, frame.time_base = 0, Fraction(1, 25)
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 48000
        file.mux(sound.encode(samples))
        file.mux(sound.encode(None))
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_NEW"))
    left_out = video.restore_video(source, tmp_path / "b.mkv", Copier()).left_out
    assert left_out == ["audio track (unknown)", "video track (h264)"]


def test_differences_are_counted():
    before = Counter({"audio track (aac)": 3, "chapters": 1})
    assert tracks.describe_lost(before, Counter({"audio track (aac)": 1, "new": 1})) == [
        "2 x audio track (aac)",
        "chapters",
    ]


def test_a_video_without_pictures_says_so(tmp_path: Path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        sound = file.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    with pytest.raises(video.UserError, match=r"a\.mp4: has no pictures, only sound"):
        video.restore_video(tmp_path / "a.mp4", tmp_path / "b.mp4", Copier())
