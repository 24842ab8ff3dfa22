import re
import shutil
import stat
import struct
import zipfile

import pytest

from mprnet_jax.data import archives
from mprnet_jax.data.archives import find_archive, unpacked
from mprnet_jax.data.datasets import BENCHMARKS, TRAINING_SETS
from mprnet_jax.errors import UserError

GOPRO = [TRAINING_SETS["gopro"], BENCHMARKS["gopro"]]


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def link(name):
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return member


def test_what_belongs_to_no_set_is_not_unpacked(tmp_path):
    archive = write(
        tmp_path / "a.zip",
        [
            *[("top/1.PNG", b"1"), ("top\\2.jpg", b"2"), ("list.txt", b"3"), ("x.mat", b"4")],
            *[("__MACOSX/top/1.PNG", b""), ("top/._1.PNG", b""), ("readme", b""), ("a.exe", b"")],
            ("top/sub/", b""),
        ],
    )
    with unpacked(archive, "name", tmp_path / "new") as result:
        assert result.left_out == []
        assert result.folder.name == "name"
        assert result.folder.parent.parent == tmp_path / "new"
        assert files(result.folder) == {
            "top/1.PNG": b"1",
            "top/2.jpg": b"2",
            "list.txt": b"3",
            "x.mat": b"4",
        }
    assert list((tmp_path / "new").iterdir()) == []


OUTSIDE = "would lie outside"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../1.png", OUTSIDE),
        ("a/../../1.png", OUTSIDE),
        ("/tmp/1.png", OUTSIDE),
        ("\\1.png", OUTSIDE),
        ("..\\1.png", OUTSIDE),
        ("C:\\1.png", OUTSIDE),
        ("c:1.png", OUTSIDE),
        (link("a/1.png"), "is a link"),
        ("a/good.png", "is in the archive twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_no_plain_files_inside_are_refused(tmp_path, name, why):
    members = [("a/good.png", b"good"), (name, b"/etc/passwd"), ("a/last.png", b"last")]
    archive = write(tmp_path / "a.zip", members)
    with unpacked(archive, "name", tmp_path / "new") as result:
        (line,) = result.left_out
        assert why in line
        assert line.startswith(f"{archive}: left out ")
        assert files(result.folder) == {"a/good.png": b"good", "a/last.png": b"last"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "new"]


def test_damaged_and_encrypted_members_are_named_and_the_rest_goes_on(tmp_path):
    names = [f"{n}.png" for n in range(4)]
    archive = write(tmp_path / "a.zip", [(name, name.encode() * 100) for name in names])
    with zipfile.ZipFile(archive) as opened:
        offsets = [member.header_offset for member in opened.infolist()]
        directory = opened.start_dir
    data = bytearray(archive.read_bytes())
    data[offsets[1] + 40] ^= 1  # in the picture
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", data) if m.start() >= directory]
    data[entries[2] + 8] |= 1  # the flag of encryption
    archive.write_bytes(data)
    with unpacked(archive, "name", tmp_path) as result:
        damaged, encrypted = result.left_out
        assert "1.png, which is damaged (Bad CRC-32" in damaged
        assert "2.png, which is encrypted" in encrypted
        assert files(result.folder) == {
            "0.png": b"0.png" * 100,
            "1.png": b"",
            "3.png": b"3.png" * 100,
        }


def test_bombs_are_refused(tmp_path, monkeypatch):
    grown = [("1.png", bytes(20 << 20)), ("2.png", bytes(1 << 20)), ("3.png", b"3")]
    archive = write(tmp_path / "a.zip", grown, zipfile.ZIP_DEFLATED)
    with unpacked(archive, "name", tmp_path) as result:
        (line,) = result.left_out
        assert "1.png, which would grow to more than 200 times" in line
        assert sorted(files(result.folder)) == ["2.png", "3.png"]
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    with unpacked(archive, "name", tmp_path) as result:
        assert len(result.left_out) == 2
        assert all("is larger than" in line for line in result.left_out)


def test_members_that_lie_about_their_size_or_place_are_refused(tmp_path):
    archive = write(tmp_path / "a.zip", [(f"{n}.png", bytes([n]) * 5000) for n in range(3)])
    original = bytearray(archive.read_bytes())
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", original)]
    data = bytearray(original)  # the second and third member are the first once more
    for entry in entries[1:]:
        struct.pack_into("<I", data, entry + 20, 15_000)
    archive.write_bytes(data)
    with (
        pytest.raises(UserError, match="its members overlap, as in bombs"),
        unpacked(archive, "name", tmp_path),
    ):
        pass
    data = bytearray(original)
    struct.pack_into("<I", data, entries[0] + 24, 10)  # the size of the first
    archive.write_bytes(data)
    with unpacked(archive, "name", tmp_path) as result:
        assert "0.png, which is damaged" in result.left_out[0]
        assert files(result.folder)["2.png"] == bytes([2]) * 5000


def test_an_archive_that_does_not_fit_is_told_before(tmp_path, monkeypatch):
    archive = write(tmp_path / "a.zip", [("1.png", bytes(5000))])
    usage = shutil.disk_usage(tmp_path)._replace(free=4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(UserError, match=r"unpacks to 0\.0 GB, and .* has 0\.0 GB free"),
        unpacked(archive, "name", tmp_path),
    ):
        pass


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x05\x06", None])
def test_what_is_no_archive_is_named(tmp_path, data):
    archive = write(tmp_path / "a.zip", [("1.png", bytes(5000))])
    archive.write_bytes(archive.read_bytes()[:3000] if data is None else data)
    with (
        pytest.raises(UserError, match=r"a\.zip: is no whole \.zip archive"),
        unpacked(archive, "name", tmp_path),
    ):
        pass


def test_errors_name_the_archive_and_not_the_folder_that_is_gone(tmp_path):
    archive = write(tmp_path / "a.zip", [("x/1.png", b"")])
    with (
        pytest.raises(UserError, match=rf"^{archive}/x/1\.png: is empty$"),
        unpacked(archive, "name", tmp_path) as result,
    ):
        raise UserError(f"{result.folder}/x/1.png: is empty")


def test_archives_are_found_by_the_names_of_the_set(tmp_path):
    assert find_archive(GOPRO, tmp_path) is None
    for name in ("Other.zip", "gopro.ZIP", "GoPro_large.zip", "GOPRO_Large.tar"):
        (tmp_path / name).write_bytes(b"")
    assert find_archive(GOPRO, tmp_path) == (tmp_path / "GoPro_large.zip", "GoPro_large")
    other = tmp_path / "Other.zip"
    assert find_archive(GOPRO, other) == (other, "GOPRO_Large")
    with pytest.raises(UserError, match=r"GOPRO_Large\.tar: is neither a folder nor a \.zip"):
        find_archive(GOPRO, tmp_path / "GOPRO_Large.tar")
