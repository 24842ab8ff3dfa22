"""Restores videos frame by frame through PyAV; sound is copied, times are kept.

Frames of more than 8 bits are restored as 16 bits. They stand upright in the result: a telephone's
rotation is applied.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mprnet_jax.atomic import replacing
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.photos import MAX_PIXELS
from mprnet_jax.restoration.pipeline import AHEAD
from mprnet_jax.restoration.restorer import Restorer
from mprnet_jax.threads import map_ahead

# Extension -> (the one demuxer that may read it, the encoder that writes it).
VIDEOS = {
    ".mp4": ("mov", "libx264"),
    ".m4v": ("mov", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("matroska", "libvpx-vp9"),
}
MANY = 1000  # frames, where a file does not say
BT709, LIMITED_RANGE = 1, 1  # FFmpeg's numbers
QUALITY = {"crf": "16"}  # constant quality, hard to tell from lossless
COLOURS = ("color_range", "colorspace", "color_primaries", "color_trc")


def restore_video(
    source: Path, target: Path, restorer: Restorer, max_pixels: int = MAX_PIXELS
) -> int:
    """Restores a video; the file appears whole or not at all.

    Returns:
        The number of frames.

    Raises:
        UserError: if PyAV is missing, the file is no whole video of one of `VIDEOS`, or its frames
            have too many pixels.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"{source}: videos need PyAV: pip install 'mprnet-jax[video]'") from error

    demuxer, encoder = VIDEOS[source.suffix.lower()]
    try:
        with av.open(str(source), format=demuxer) as reader:
            limit_frames(reader, max_pixels)
            first = first_frame(reader)
            frames = reader.streams.video[0].frames or MANY
        restorer.plan({to_pixels(first).shape[:2]: frames})
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            av.open(str(source), format=demuxer) as reader,
            replacing(target) as temporary,
            av.open(str(temporary), "w") as writer,
        ):
            limit_frames(reader, max_pixels)
            return copy(reader, writer, add_stream(writer, encoder, reader, first), restorer)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be restored as a video ({one_line(error)})") from error


def limit_frames(reader, max_pixels: int) -> None:
    """Raises UserError for too large frames, and lets the decoder refuse those that turn up."""
    if not reader.streams.video:
        raise UserError("has no pictures")
    stream = reader.streams.video[0]
    if stream.codec_context is None:
        raise UserError("has pictures of a kind that FFmpeg cannot decode")
    if stream.width * stream.height > max_pixels:
        raise UserError(
            f"has {stream.width}x{stream.height} pixels, more than {max_pixels / 1e6:g} million; "
            "scale it down or raise --max_megapixels"
        )
    stream.codec_context.options = {"max_pixels": str(max_pixels)}


def first_frame(reader):
    """The first frame of an opened video."""
    frame = next(reader.decode(reader.streams.video[0]), None)
    if frame is None:
        raise UserError("has no frames")
    return frame


def add_stream(writer, encoder: str, reader, first):
    """The stream for restored frames that are like the first: its size, rate and colours."""
    stream = reader.streams.video[0]
    height, width, _ = to_pixels(first).shape
    output = writer.add_stream(encoder, rate=stream.average_rate, options=QUALITY)
    output.width, output.height = width, height
    known = {pixel_format.name for pixel_format in output.codec.video_formats}
    output.pix_fmt = first.format.name
    if output.pix_fmt not in known or not is_yuv(first):
        output.pix_fmt = "yuv420p10le" if is_deep(first) else "yuv420p"
    if width % 2 or height % 2:  # colours of half the size need even sides
        output.pix_fmt = "yuv444p10le" if is_deep(first) else "yuv444p"
    output.codec_context.time_base = stream.time_base
    if shape := stream.sample_aspect_ratio:  # of pixels that are not square
        turned = first.rotation // 90 % 2
        output.codec_context.sample_aspect_ratio = 1 / shape if turned else shape
    for name, value in colours_of(first).items():
        setattr(output.codec_context, name, value)
    writer.metadata.update(reader.metadata)
    return output


def copy(reader, writer, output, restorer: Restorer) -> int:
    """Restores all frames of one video into another, and copies the sound; returns their number.

    Sound of a kind that FFmpeg does not know, as telephones' spatial one, is left out.
    """
    stream = reader.streams.video[0]
    known = [sound for sound in reader.streams.audio if sound.codec_context is not None]
    sounds = {sound.index: writer.add_stream_from_template(sound) for sound in known}

    def frames() -> Iterator:
        for packet in reader.demux([stream, *known]):
            if packet.stream.index == stream.index:
                yield from packet.decode()
            elif packet.dts is not None:
                packet.stream = sounds[packet.stream.index]
                writer.mux(packet)

    def restore(batch: list) -> list[tuple]:
        return list(zip(batch, restorer.batch([to_pixels(frame) for frame in batch])))

    decoded, count = frames(), 0
    batches = iter(lambda: list(itertools.islice(decoded, restorer.batch_size)), [])
    with (
        ThreadPoolExecutor(1) as device,
        tqdm(total=stream.frames or None, unit="frame", disable=None) as bar,
    ):
        for batch in map_ahead(device, restore, batches, AHEAD):
            for frame, pixels in batch:
                writer.mux(output.encode(to_frame(pixels, frame, output.pix_fmt)))
            bar.update(len(batch))
            count += len(batch)
    writer.mux(output.encode(None))
    return count


def is_yuv(frame) -> bool:
    """Whether a frame's colours are luma and chroma; others are grey, RGB or a palette."""
    return len(frame.format.components) > 2 and not frame.format.is_rgb


def colours_of(frame) -> dict[str, int]:
    """How the numbers of a frame, once it is YUV, are to be understood."""
    colours = {name: getattr(frame, name) for name in COLOURS}
    if not is_yuv(frame):
        colours |= {"colorspace": BT709, "color_range": LIMITED_RANGE}
    return colours


def is_deep(frame) -> bool:
    """Whether a frame has more than 8 bits a channel."""
    return frame.format.components[0].bits > 8


def to_pixels(frame) -> np.ndarray:
    """A frame, upright, as RGB [H, W, 3], uint8 or uint16."""
    pixels = frame.to_ndarray(format="rgb48le" if is_deep(frame) else "rgb24")
    return np.rot90(pixels, frame.rotation // 90)


def to_frame(pixels: np.ndarray, original, pixel_format: str):
    """A frame with the time and the kind of colours of the original one."""
    import av

    kind = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
    colours = colours_of(original)
    frame = frame.reformat(
        format=pixel_format,
        dst_colorspace=colours["colorspace"],
        dst_color_range=colours["color_range"],
    )
    for name, value in colours.items():
        setattr(frame, name, value)
    for name in ("pts", "time_base", "duration"):
        setattr(frame, name, getattr(original, name))
    return frame
