"""What a video holds besides its pictures: other tracks, chapters, names, and HDR's metadata.

What can be copied is copied. What got lost is found by comparing the result with its source.
"""

import io
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

# What the old container says of itself, and what held of the old pictures only.
OUTDATED = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate"}
OUTDATED |= {"handler_name", "vendor_id", "creation_time", "alpha_mode", "timecode", "name"}
STATISTICS = ("bps", "number_of_", "_statistics_")  # how their names begin in Matroska
# Words for side data of frames that matter to viewers.
SIDE_DATA = {
    "MASTERING_DISPLAY_METADATA": "HDR10's mastering display",
    "CONTENT_LIGHT_LEVEL": "HDR10's light levels",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient light",
    "A53_CC": "closed captions",
    "ICC_PROFILE": "colour profile",
    "SPHERICAL": "360 degrees",
    "STEREO3D": "3D",
    "S12M_TIMECODE": "timecodes",
    "GOP_TIMECODE": "timecodes",
}
CONTAINERS = {".m4v": "mp4", ".mkv": "matroska"}  # names of muxers that differ from extensions


def copy_tracks(reader: Any, writer: Any, extension: str) -> dict[int, Any]:
    """Adds a track to `writer` for each other track of `reader` that it can hold.

    Args:
        reader: an opened video.
        writer: the file to write, with the track for restored frames.
        extension: of both.

    Returns:
        The new track for the index of each old one whose packets are to be copied.
    """
    copied = {}
    for track in reader.streams:
        if track.index == reader.streams.video[0].index:
            continue
        if track.type == "attachment":  # such as fonts
            if extension == ".mkv" and track.data:
                name, kind = track.metadata.get("filename", "attachment"), track.mimetype
                writer.add_attachment(name, kind or "application/octet-stream", track.data)
        elif track.type in ("audio", "subtitle") and can_hold(track, extension):
            copy = writer.add_stream_from_template(track, opaque=True)
            copy.metadata.update(describing(track.metadata))
            copy.disposition = track.disposition
            copied[track.index] = copy
    return copied


def can_hold(track: Any, extension: str) -> bool:
    """Whether a container takes a copy of a track: tries it, in memory."""
    import av

    if track.codec_context is None:  # FFmpeg does not know it
        return False
    try:
        name = CONTAINERS.get(extension, extension[1:])
        with av.open(io.BytesIO(), "w", format=name) as trial:
            trial.add_stream_from_template(track, opaque=True)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def copy_descriptions(reader: Any, writer: Any, output: Any) -> None:
    """Copies chapters, and metadata of the file and of its pictures."""
    writer.metadata.update(describing(reader.metadata))
    output.metadata.update(describing(reader.streams.video[0].metadata))
    if chapters := reader.chapters():
        writer.set_chapters(chapters)


def describing(metadata: dict[str, str]) -> dict[str, str]:
    """Returns the entries that hold of the new file too, under names that containers share."""
    kept = {
        key: value
        for key, value in metadata.items()
        if key.lower() not in OUTDATED - {"creation_time", "timecode"}
        and not key.lower().startswith(STATISTICS)
    }
    if title := metadata.get("name"):  # as MP4 calls it
        kept.setdefault("title", title)
    return kept


def side_data_of(frame: Any) -> dict[str, bytes]:
    """Returns the side data of a frame by the name of their type."""
    all_data = frame.side_data
    return {data.type.name: bytes(data) for data in map(all_data.__getitem__, range(len(all_data)))}


def hdr_options(frame: Any) -> dict[str, str]:
    """Returns options with which x264 writes HDR10's metadata of a frame; none if it has none."""
    data, parameters = side_data_of(frame), []
    if mastering := data.get("MASTERING_DISPLAY_METADATA"):
        # FFmpeg's AVMasteringDisplayMetadata: red, green, blue and white as x and y, then the
        # smallest and the largest luminance, as fractions; whether there are colours, luminances.
        numbers = struct.unpack_from("=22i", mastering)
        values = [a / b if b else 0 for a, b in zip(numbers[:20:2], numbers[1:20:2])]
        if all(numbers[20:]):
            xy = [round(value * 50_000) for value in values[:8]]
            smallest, largest = (round(value * 10_000) for value in values[8:])
            parameters.append(
                f"mastering-display=G({xy[2]},{xy[3]})B({xy[4]},{xy[5]})R({xy[0]},{xy[1]})"
                f"WP({xy[6]},{xy[7]})L({largest},{smallest})"
            )
    if light := data.get("CONTENT_LIGHT_LEVEL"):
        parameters.append("cll={},{}".format(*struct.unpack_from("=2I", light)))
    return {"x264-params": ":".join(parameters)} if parameters else {}


def facts_of(reader: Any, frame: Any, side_data: Iterable[str] = ()) -> Counter[str]:
    """Returns what a viewer may miss in a video, counted in words.

    Args:
        reader: an opened video.
        frame: its first frame.
        side_data: names of the types of side data of other frames.
    """
    facts: Counter[str] = Counter()
    main = reader.streams.video[0]
    for track in reader.streams:
        kind = "" if track.index == main.index else f"{track.type} track"
        if kind:
            codec = track.codec_context.name if track.codec_context else "unknown"
            facts[f"{kind} ({codec})"] += 1
        for key, value in describing(track.metadata).items():
            if key.lower() in ("language", "title") and value != "und":
                facts[f"{key.lower()} of the {kind or 'pictures'}"] += 1
    for key in describing(reader.metadata):
        if key.lower() not in OUTDATED:
            facts[f"metadata {key.lower()}"] += 1
    if reader.chapters():
        facts["chapters"] += 1
    pixels = frame.format
    facts[f"{pixels.components[0].bits} bits a channel"] += 1
    if len(pixels.components) in (2, 4) or "alpha_mode" in {k.lower() for k in main.metadata}:
        facts["transparency"] += 1
    if len(pixels.components) > 2 and pixels.chroma_width(64) == 64:
        facts["colours at full resolution"] += 1
    seen = {*side_data, *side_data_of(frame)}
    facts.update({SIDE_DATA[name] for name in seen & SIDE_DATA.keys()})
    return facts


def describe_lost(before: Counter[str], after: Counter[str]) -> list[str]:
    """Returns which facts of a video do not hold of its restored version."""
    return [fact if n == 1 else f"{n} x {fact}" for fact, n in sorted((before - after).items())]
