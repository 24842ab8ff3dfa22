"""Restores videos frame by frame with PyAV; copies audio and keeps timestamps.

Frames of more than 8 bits are restored as 16 bits. The rotation that phones record is applied.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mprnet_jax import paths
from mprnet_jax.atomic import replacing
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.photos import MAX_PIXELS
from mprnet_jax.restoration.pipeline import PREFETCHED
from mprnet_jax.restoration.restorer import Restorer
from mprnet_jax.threads import prefetch

# File extension -> (the only demuxer that may read it, the encoder that writes it).
VIDEOS = {
    ".mp4": ("mov", "libx264"),
    ".m4v": ("mov", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("matroska", "libvpx-vp9"),
}
ASSUMED_FRAMES = 1000  # if a file does not say how many it has
BT709, LIMITED_RANGE = 1, 1  # FFmpeg's constants AVCOL_SPC_BT709 and AVCOL_RANGE_MPEG
QUALITY = {"crf": "16"}  # visually lossless
COLOURS = ("color_range", "colorspace", "color_primaries", "color_trc")


def restore_video(
    source: Path, target: Path, restorer: Restorer, max_pixels: int = MAX_PIXELS
) -> int:
    """Restores a video; the result is written whole or not at all.

    Args:
        source: the video, with an extension of `VIDEOS`.
        target: the file for the restored video, with the same extension; missing folders are made.
        restorer: restores pixels.
        max_pixels: videos with larger frames are refused.

    Returns:
        The number of frames.

    Raises:
        UserError: if PyAV is missing, the source is damaged or not a video, its frames have more
            than `max_pixels` pixels, or the target cannot be written.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"{source}: videos need PyAV: pip install 'mprnet-jax[video]'") from error

    # FFmpeg takes a relative path with a colon for an address, and may connect to it.
    source, target = paths.absolute(source), paths.absolute(target)
    demuxer, encoder = VIDEOS[source.suffix.lower()]
    try:
        with av.open(str(source), format=demuxer) as reader:
            limit_frames(reader, max_pixels)
            first = first_frame(reader)
            frames = reader.streams.video[0].frames or ASSUMED_FRAMES
        restorer.plan({to_pixels(first).shape[:2]: frames})
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            av.open(str(source), format=demuxer) as reader,
            replacing(target) as temporary,
            av.open(str(temporary), "w") as writer,
        ):
            limit_frames(reader, max_pixels)
            output = add_stream(writer, encoder, reader, first)
            return restore_frames(reader, writer, output, restorer)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:  # the last one: of metadata
        # Errors of decoders and encoders name no file; other errors name the file at fault.
        filename = getattr(error, "filename", None)
        if filename is not None and str(filename) != str(source):
            reason = getattr(error, "strerror", None) or one_line(error)
            raise UserError(f"{target}: cannot be written ({reason})") from error
        raise UserError(f"{source}: cannot be restored as a video ({one_line(error)})") from error


def limit_frames(reader: Any, max_pixels: int) -> None:
    """Raises UserError for frames with too many pixels, and makes the decoder refuse later ones."""
    if not reader.streams.video:
        raise UserError("has no video stream")
    stream = reader.streams.video[0]
    if stream.codec_context is None:
        raise UserError("has a video stream of a kind that FFmpeg cannot decode")
    if stream.width * stream.height > max_pixels:
        raise UserError(
            f"has {stream.width}x{stream.height} pixels, more than {max_pixels / 1e6:g} million; "
            "scale it down or raise --max_megapixels"
        )
    stream.codec_context.options = {"max_pixels": str(max_pixels)}


def first_frame(reader: Any) -> Any:
    """Returns the first frame of an opened video."""
    frame = next(reader.decode(reader.streams.video[0]), None)
    if frame is None:
        raise UserError("has no frames")
    return frame


def add_stream(writer: Any, encoder: str, reader: Any, first: Any) -> Any:
    """Adds the stream for restored frames, with the size and colours of the first frame."""
    stream = reader.streams.video[0]
    height, width, _ = to_pixels(first).shape
    output = writer.add_stream(encoder, rate=stream.average_rate, options=QUALITY)
    output.width, output.height = width, height
    known = {pixel_format.name for pixel_format in output.codec.video_formats}
    output.pix_fmt = first.format.name
    if output.pix_fmt not in known or not is_yuv(first):
        output.pix_fmt = "yuv420p10le" if is_deep(first) else "yuv420p"
    if width % 2 or height % 2:  # chroma of half the size needs even sides
        output.pix_fmt = "yuv444p10le" if is_deep(first) else "yuv444p"
    output.codec_context.time_base = stream.time_base
    if shape := stream.sample_aspect_ratio:  # of pixels that are not square
        transposed = first.rotation // 90 % 2
        output.codec_context.sample_aspect_ratio = 1 / shape if transposed else shape
    for name, value in colours_of(first).items():
        setattr(output.codec_context, name, value)
    writer.metadata.update(reader.metadata)
    return output


def restore_frames(reader: Any, writer: Any, output: Any, restorer: Restorer) -> int:
    """Restores all frames of a video, copies its audio, and returns the number of frames.

    Audio that FFmpeg cannot decode, such as spatial audio of phones, is left out.
    """
    stream = reader.streams.video[0]
    known = [audio for audio in reader.streams.audio if audio.codec_context is not None]
    copied = {audio.index: writer.add_stream_from_template(audio) for audio in known}

    def frames() -> Iterator:
        for packet in reader.demux([stream, *known]):
            if packet.stream.index == stream.index:
                yield from packet.decode()
            elif packet.dts is not None:
                packet.stream = copied[packet.stream.index]
                writer.mux(packet)

    def restore(batch: list) -> list[tuple]:
        return list(zip(batch, restorer.batch([to_pixels(frame) for frame in batch])))

    decoded, count = frames(), 0
    batches = iter(lambda: list(itertools.islice(decoded, restorer.batch_size)), [])
    with (
        ThreadPoolExecutor(1) as pool,
        tqdm(total=stream.frames or None, unit="frame", disable=None) as bar,
    ):
        for batch in prefetch(pool, restore, batches, PREFETCHED):
            for frame, pixels in batch:
                writer.mux(output.encode(to_frame(pixels, frame, output.pix_fmt)))
            bar.update(len(batch))
            count += len(batch)
    writer.mux(output.encode(None))
    return count


def is_yuv(frame: Any) -> bool:
    """Returns whether a frame has luma and chroma; other frames are grey, RGB or have a palette."""
    return len(frame.format.components) > 2 and not frame.format.is_rgb


def colours_of(frame: Any) -> dict[str, int]:
    """Returns the colour space and range of a frame after conversion to YUV."""
    colours = {name: getattr(frame, name) for name in COLOURS}
    if not is_yuv(frame):
        colours |= {"colorspace": BT709, "color_range": LIMITED_RANGE}
    return colours


def is_deep(frame: Any) -> bool:
    """Returns whether a frame has more than 8 bits per channel."""
    return frame.format.components[0].bits > 8


def to_pixels(frame: Any) -> np.ndarray:
    """Converts a frame to upright RGB [H, W, 3], uint8 or uint16."""
    pixels = frame.to_ndarray(format="rgb48le" if is_deep(frame) else "rgb24")
    return np.rot90(pixels, frame.rotation // 90)


def to_frame(pixels: np.ndarray, original: Any, pixel_format: str) -> Any:
    """Converts RGB [H, W, 3] to a frame with the timestamps and colour space of the original."""
    import av

    rgb = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=rgb)
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
