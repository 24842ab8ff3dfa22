"""Restores videos frame by frame with PyAV; copies other tracks and keeps timestamps.

Frames of more than 8 bits are restored as 16 bits. The rotation that phones record is applied.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mprnet_jax import paths
from mprnet_jax.atomic import replacing
from mprnet_jax.errors import UserError, one_line
from mprnet_jax.imageio.photos import MAX_PIXELS
from mprnet_jax.restoration import tracks
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


class Restored(NamedTuple):
    """What became of a video."""

    frames: int
    left_out: list[str]  # what the result lacks


def restore_video(
    source: Path, target: Path, restorer: Restorer, max_pixels: int = MAX_PIXELS
) -> Restored:
    """Restores a video; the result is written whole or not at all.

    Args:
        source: the video, with an extension of `VIDEOS`.
        target: the file for the restored video, with the same extension; missing folders are made.
        restorer: restores pixels.
        max_pixels: videos with larger frames are refused.

    Returns:
        The number of frames, and what of the source the target lacks.

    Raises:
        UserError: if PyAV is missing, the source is damaged or not a video, its frames have more
            than `max_pixels` pixels, or the target cannot be written.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"{source}: videos need PyAV: pip install 'mprnet-jax[video]'") from error

    # FFmpeg takes a relative path with a colon for an address, and may connect to it.
    source, target = paths.absolute(source), paths.anywhere(target)
    demuxer, encoder = VIDEOS[source.suffix.lower()]
    try:
        with open_video(source, demuxer) as reader:
            limit_frames(reader, max_pixels)
            first = first_frame(reader)
            frames = reader.streams.video[0].frames or ASSUMED_FRAMES
        restorer.plan({to_pixels(first).shape[:2]: frames})
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            open_video(source, demuxer) as reader,
            replacing(target) as temporary,
        ):
            limit_frames(reader, max_pixels)
            side_data: set[str] = set()
            # QuickTime's own names for metadata; in MP4 they would take the place of common ones.
            options = {"movflags": "use_metadata_tags"} if target.suffix.lower() == ".mov" else {}
            with av.open(str(temporary), "w", options=options) as writer:
                output = add_stream(writer, encoder, reader, first)
                tracks.copy_descriptions(reader, writer, output)
                copied = tracks.copy_tracks(reader, writer, target.suffix.lower())
                count = restore_frames(reader, writer, output, copied, restorer, side_data)
            before = tracks.facts_of(reader, first, side_data)
            with open_video(temporary, demuxer) as result:
                after = tracks.facts_of(result, first_frame(result))
            return Restored(count, tracks.describe_lost(before, after))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (av.FFmpegError, OSError) as error:
        # Errors of decoders and encoders name no file; other errors name the file at fault.
        filename = getattr(error, "filename", None)
        if filename is not None and str(filename) != str(source):
            reason = getattr(error, "strerror", None) or one_line(error)
            raise UserError(f"{target}: cannot be written ({reason})") from error
        raise UserError(f"{source}: cannot be restored as a video ({one_line(error)})") from error


def open_video(path: Path, demuxer: str) -> Any:
    """Opens a video; damaged metadata must not cost its pictures."""
    import av

    return av.open(str(path), format=demuxer, metadata_errors="replace")


def limit_frames(reader: Any, max_pixels: int) -> None:
    """Raises UserError for frames with too many pixels, and makes the decoder refuse later ones."""
    if not reader.streams.video:
        raise UserError(f"has no pictures{', only sound' if reader.streams.audio else ''}")
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
    options = QUALITY | (tracks.hdr_options(first) if encoder == "libx264" else {})
    output = writer.add_stream(encoder, rate=stream.average_rate, options=options)
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
    return output


def restore_frames(
    reader: Any,
    writer: Any,
    output: Any,
    copied: dict[int, Any],
    restorer: Restorer,
    side_data: set[str],
) -> int:
    """Restores all frames of a video, copies other tracks, and returns the number of frames.

    Args:
        reader: the opened video.
        writer: the file to write.
        output: its track for restored frames.
        copied: its track for the index of each track to copy.
        restorer: restores pixels.
        side_data: gets the names of the types of side data of all frames.
    """
    stream = reader.streams.video[0]

    def frames() -> Iterator:
        for packet in reader.demux([stream, *(reader.streams[index] for index in copied)]):
            if packet.stream.index == stream.index:
                for frame in packet.decode():
                    side_data.update(tracks.side_data_of(frame))
                    yield frame
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
