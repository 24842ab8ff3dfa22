"""Videos: times, sound, colours, rotation, and files that are none."""

import resource
import signal
import socket
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from mprnet_jax.errors import UserError
from mprnet_jax.restoration import video
from mprnet_jax.restoration.restorer import Restorer

av = pytest.importorskip("av")

TIMES = [0, 40, 80, 200, 210, 400]  # milliseconds, not evenly spaced
BT709, LIMITED_RANGE, FULL_RANGE = 1, 1, 2


class Copier:
    """Stands in for a restorer: gives frames back as they are."""

    batch_size = 4

    def plan(self, sizes):
        pass

    def batch(self, photos):
        return list(photos)


def clip(
    path: Path,
    pixel_format="yuv420p",
    size=(120, 160),
    colourspace=None,
    colour_range=None,
    shape=None,
):
    """Writes a short clip with sound."""
    picture = np.ascontiguousarray(skimage.data.chelsea()[: size[0], : size[1]])
    with av.open(str(path), "w") as container:
        encoder = video.VIDEOS[path.suffix][1]
        pictures = container.add_stream(encoder, rate=25, options={"crf": "10"})
        pictures.height, pictures.width = size
        pictures.pix_fmt = pixel_format
        pictures.codec_context.time_base = Fraction(1, 1000)
        if shape:
            pictures.codec_context.sample_aspect_ratio = shape
        if colourspace is not None:
            pictures.codec_context.colorspace = colourspace
            pictures.codec_context.color_range = colour_range
        codec = "libopus" if path.suffix == ".webm" else "aac"
        sound = container.add_stream(codec, rate=48000, layout="mono")
        for i, time in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 4 * i, axis=1)).reformat(
                format=pixel_format, dst_colorspace=colourspace, dst_color_range=colour_range
            )
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(pictures.encode(frame))
        for i in range(20):
            tone = np.sin(np.arange(960) / 17 * 2 * np.pi).astype(np.float32)[None] / 4
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, i * 960, Fraction(1, 48000)
            container.mux(sound.encode(frame))
        for stream in (pictures, sound):
            container.mux(stream.encode(None))


def frames(path: Path) -> list:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.dts is not None]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mp4", {"colourspace": BT709, "colour_range": FULL_RANGE}),
        ("a.mov", {"pixel_format": "yuv420p10le"}),
        ("a.mkv", {"pixel_format": "yuv444p", "size": (119, 159)}),
        ("a.webm", {}),
    ],
)
def test_times_sound_and_colours_are_kept(tmp_path: Path, name: str, options: dict):
    source, target = tmp_path / name, tmp_path / "out" / name
    clip(source, **options)
    assert video.restore_video(source, target, Copier()).frames == len(TIMES)
    before, after = frames(source), frames(target)
    # Matroska rounds to milliseconds, MP4 to ticks of its own
    np.testing.assert_allclose([f.time for f in after], [t / 1000 for t in TIMES], atol=1e-3)
    assert len(sound(source)) > 10
    assert sound(target) == sound(source)
    for one, other in zip(before, after):
        assert one.format.name == other.format.name
        assert (one.colorspace, one.color_range) == (other.colorspace, other.color_range)
        difference = one.to_ndarray().astype(int) - other.to_ndarray()
        unit = 4 if "10le" in one.format.name else 1
        assert np.abs(difference).mean() < 1.5 * unit  # two conversions and one compression
    assert [p.name for p in target.parent.iterdir()] == [name]


@pytest.mark.parametrize("pixel_format", ["gray", "gray10le", "gray16le", "bgr0", "gbrp10le"])
def test_grey_and_rgb_become_yuv_of_the_same_colours(tmp_path: Path, pixel_format: str):
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    ramp = np.broadcast_to(np.arange(160, dtype=np.uint8)[:, None] + 40, (120, 160, 3)).copy()
    with av.open(str(source), "w") as container:
        pictures = container.add_stream("ffv1", rate=25)
        pictures.height, pictures.width, pictures.pix_fmt = 120, 160, pixel_format
        frame = av.VideoFrame.from_ndarray(ramp).reformat(format=pixel_format)
        container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
    video.restore_video(source, target, Copier())
    (after,) = frames(target)
    assert after.format.name.startswith("yuv420p")
    assert (after.colorspace, after.color_range) == (BT709, LIMITED_RANGE)
    difference = after.to_ndarray(format="rgb24").astype(int) - ramp
    assert np.abs(difference).max() <= 3  # rounded for YUV, and compression


def test_frames_go_through_the_restorer_in_order(tmp_path: Path, stub):
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    clip(source)
    restorer = Restorer(stub, batch_size=4)
    assert video.restore_video(source, target, restorer).frames == len(TIMES)
    for before, after in zip(frames(source), frames(target)):
        expected = restorer(before.to_ndarray(format="rgb24"))
        difference = after.to_ndarray(format="rgb24").astype(int) - expected
        assert np.abs(difference).mean() < 4  # colours of half the size, and compression


def test_a_telephones_rotation_is_applied(tmp_path: Path):
    source, target = tmp_path / "a.mp4", tmp_path / "b.mp4"
    clip(source)
    data = source.read_bytes()
    one = 1 << 16  # in 16.16 fixed point; the matrix ends in 1 in 2.30
    identity = np.array([one, 0, 0, 0, one, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, one, 0, -one, 0, 0, 120 * one, 0, 1 << 30], ">i4").tobytes()
    track = data.index(identity, data.index(b"tkhd"))
    source.write_bytes(data[:track] + turned + data[track + len(turned) :])
    before = frames(source)[0]
    assert before.rotation == -90  # clockwise
    video.restore_video(source, target, Copier())
    after = frames(target)[0]
    assert (after.width, after.height, after.rotation) == (120, 160, 0)
    upright = np.rot90(before.to_ndarray(format="rgb24"), -1)
    assert np.abs(after.to_ndarray(format="rgb24").astype(int) - upright).mean() < 4


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])  # VP9 does not know of it
def test_pixels_that_are_not_square_stay_so(tmp_path: Path, name: str):
    source, target = tmp_path / name, tmp_path / "out" / name
    clip(source, shape=Fraction(4, 3))
    video.restore_video(source, target, Copier())
    with av.open(str(target)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_a_header_that_claims_small_frames_is_not_believed(tmp_path: Path):
    source, target = tmp_path / "a.mp4", tmp_path / "b.mp4"
    clip(source)
    data = bytearray(source.read_bytes())
    sizes = data.index(b"avc1", data.index(b"stsd")) + 28  # of the entry, after its type
    assert data[sizes : sizes + 4] == bytes([0, 160, 0, 120])
    data[sizes : sizes + 4] = bytes([0, 16, 0, 16])
    source.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.mp4"):
        video.restore_video(source, target, Copier(), max_pixels=1000)
    assert not target.exists()


def test_streams_of_a_kind_that_nobody_knows(tmp_path: Path):
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    clip(source)
    whole = source.read_bytes()
    source.write_bytes(whole.replace(b"A_AAC", b"A_NEW"))
    assert video.restore_video(source, target, Copier()).frames == len(TIMES)
    with av.open(str(target)) as container:
        assert not container.streams.audio
    source.write_bytes(whole.replace(b"V_MPEG4/ISO/AVC", b"V_NEW/NEWER/NEW"))
    with pytest.raises(UserError, match=r"a\.mkv: has a video stream of a kind that FFmpeg cannot"):
        video.restore_video(source, target, Copier())


def test_files_that_are_no_videos_are_refused(tmp_path: Path):
    target = tmp_path / "out.mp4"
    clip(tmp_path / "other.mp4")
    playlist = b"ffconcat version 1.0\nfile other.mp4\n"  # must not lead to other files
    for name, data in (("text.mp4", b"no video"), ("empty.mkv", b""), ("list.mp4", playlist)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}: cannot be restored as a video"):
            video.restore_video(tmp_path / name, target, Copier())
    clip(tmp_path / "cut.mp4")
    data = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.mp4: cannot be restored"):
        video.restore_video(tmp_path / "cut.mp4", target, Copier())
    clip(tmp_path / "large.mp4")
    with pytest.raises(UserError, match=r"large\.mp4: has 160x120 pixels, more than"):
        video.restore_video(tmp_path / "large.mp4", target, Copier(), max_pixels=100)
    assert not target.exists()


def test_damaged_metadata_cost_no_video(tmp_path: Path):
    """PyAV decodes metadata as UTF-8."""
    source = tmp_path / "a.mkv"
    clip(source)
    source.write_bytes(source.read_bytes().replace(b"ENCODER", b"ENC\xff\xffER"))
    assert video.restore_video(source, tmp_path / "b.mkv", Copier()).frames == len(TIMES)


@pytest.fixture
def small_files():
    """Files end after 2000 bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    clip(tmp_path / "a.mp4")
    return tmp_path / "a.mp4"


@pytest.mark.usefixtures("source", "small_files")
def test_a_full_disk_is_not_blamed_on_the_source(tmp_path: Path):
    with pytest.raises(UserError, match=r"out/b\.mp4: cannot be written \(File too large\)"):
        video.restore_video(tmp_path / "a.mp4", tmp_path / "out/b.mp4", Copier())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_not_blamed_on_the_source(source: Path, tmp_path: Path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"out/b\.mp4: cannot be written"):
        video.restore_video(source, tmp_path / "out/b.mp4", Copier())


def test_a_bug_while_restoring_keeps_its_type(source: Path, tmp_path: Path):
    class Buggy(Copier):
        def batch(self, photos):
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        video.restore_video(source, tmp_path / "b.mp4", Buggy())
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize("folder", ["", "2024:05", "[a] %d"])
def test_a_name_is_no_address(folder, tmp_path, monkeypatch):
    """FFmpeg takes what stands before a colon for a protocol; the test listens where it says."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"tcp:127.0.0.1:{server.getsockname()[1]}.mp4"
        clip(tmp_path / "clip.mp4")
        (tmp_path / "clip.mp4").rename(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert video.restore_video(Path(name), Path(folder, "12:30.mp4"), Copier()).frames == len(
            TIMES
        )
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has asked for a connection
            server.accept()
    assert (tmp_path / folder / "12:30.mp4").is_file()
