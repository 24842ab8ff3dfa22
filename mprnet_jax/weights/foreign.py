"""Says what a file is that was given, or saved, as a weight file and is none."""

from pathlib import Path

REMEDIES = {  # first bytes -> what the file is, and what to do
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
    b"<!doctype": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"\x1f\x8b": "a compressed file; unpack it first",
    b"7z\xbc\xaf": "an archive; unpack it first",
    b"\x89hdf": "an HDF5 file; save the weights with PyTorch or as .safetensors",
}
TAR = b"ustar"  # at byte 257
PYTORCH = (b"PK\x03\x04", b"\x80\x02\x8a")


def recognize(path: Path) -> str | None:
    """Returns what a file is that cannot be read by its extension; None if that is not known."""
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "it is empty; copy or download it again"
    for magic, what in REMEDIES.items():
        if start.lstrip().lower().startswith(magic):
            return f"it is {what}"
    if start[257:262] == TAR:
        return "it is an archive; unpack it first"
    named_safetensors = path.suffix.lower() == ".safetensors"
    if start.startswith(PYTORCH) and named_safetensors:
        return "it seems to be a PyTorch file; name it .pth then"
    if start[8:9] == b"{" and not named_safetensors:
        return "it seems to be a .safetensors file; name it so then"
    return None
