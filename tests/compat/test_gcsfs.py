"""What gcsfs does with a bucket, to which the emulator answers."""

import os

import fsspec
import pytest

from mprnet_jax import atomic, paths
from mprnet_jax.compat import gcsfs
from mprnet_jax.errors import UserError


@pytest.fixture
def folder(bucket):
    return paths.anywhere(bucket)


def test_etils_uses_it(folder):
    (folder / "a.txt").write_text("text")
    assert type(fsspec.filesystem("gcs")) is gcsfs.FileSystem
    assert gcsfs.FileSystem in {type(fs) for fs in gcsfs.FileSystem._cache.values()}
    assert (folder / "a.txt").read_text() == "text"
    assert [path.name for path in folder.iterdir()] == ["a.txt"]


def test_what_others_write_and_remove_is_seen_at_once(folder, emulator):
    (folder / "a").write_text("")
    assert [path.name for path in folder.iterdir()] == ["a"]
    key = str(folder / "b").removeprefix("gs://bucket/")
    content = dict(emulator.storage.get_file_obj("bucket", key.replace("/b", "/a")), name=key)
    emulator.storage.create_file("bucket", key, b"", content)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    emulator.storage.delete_file("bucket", key)
    assert not (folder / "b").exists()


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\0"])
def test_last_bytes_that_look_like_the_end_of_a_line_are_kept(folder, tmp_path, end):
    content = b"some" + end
    gcsfs.write(folder / "written", content)
    (tmp_path / "file").write_bytes(content)
    gcsfs.upload(tmp_path / "file", folder / "uploaded")
    (folder / "by_etils").write_bytes(content)
    for name in ("written", "uploaded", "by_etils"):
        assert (folder / name).read_bytes() == content


def test_a_missing_bucket_is_not_made(emulator, bucket):
    with pytest.raises(UserError, match=r"gs://other/run: .*there is no bucket other"):
        atomic.make_folder(paths.anywhere("gs://other/run"))
    assert not any(
        request.startswith("POST") and request.endswith("/b") for request in emulator.requests
    )
    with pytest.raises(FileNotFoundError):
        paths.anywhere("gs://other/run/x").read_bytes()


@pytest.mark.parametrize(("status", "text"), [("401", "gcloud auth"), ("403", "Forbidden")])
def test_no_permission_is_not_taken_for_no_such_file(folder, emulator, status, text):
    (folder / "a").write_text("")
    emulator.fault = lambda *_: status
    for ask in (folder.exists, folder.is_dir, (folder / "a").read_bytes, (folder / "a").stat):
        with pytest.raises(OSError, match=text):
            ask()
    with pytest.raises(UserError, match=f"cannot be looked up .*{text}"):
        paths.exists(folder)
    with pytest.raises(UserError, match=f"cannot be made a folder .*{text}"):
        atomic.make_folder(folder)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("fault", ["503", "cut", "gone"])
def test_each_request_may_fail_once(folder, emulator, tmp_path, fault, exhaustive):
    content = os.urandom(3000)
    (tmp_path / "file").write_bytes(content)

    def use():
        gcsfs.upload(tmp_path / "file", folder / "a")
        gcsfs.write(folder / "b", content)
        gcsfs.download(folder / "a", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == (folder / "b").read_bytes() == content
        assert len(list(folder.iterdir())) == 2

    emulator.requests.clear()
    use()
    for at in range(len(emulator.requests))[:: 1 if exhaustive else 4]:
        emulator.clear()
        emulator.fault = lambda number, *_, at=at: fault if number == at else ""
        use()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("fault", ["503", "cut", "gone"])
def test_a_request_that_always_fails_leaves_what_was_there(folder, emulator, fault):
    path = folder / "weights.txt"
    path.write_text("before")
    emulator.fault = lambda number, method, _: fault if method == "POST" else ""
    with (
        pytest.raises(UserError, match=rf"{path}: cannot be written"),
        atomic.writing(path) as temporary,
    ):
        temporary.write_text("after")
    assert not temporary.exists()
    emulator.clear()
    if fault != "cut":  # there the object is written, and only the answer is lost
        assert path.read_text() == "before"
    assert [found.name for found in folder.iterdir()] == ["weights.txt"]


def test_a_folder_is_copied_before_it_is_removed(folder, emulator):
    for name in ("a", "b/c"):
        (folder / "old" / name).write_text(name)
    emulator.requests.clear()
    atomic.move_folder(folder / "old", folder / "new")
    assert (folder / "new/b/c").read_text() == "b/c"
    assert (folder / "new/a").read_text() == "a"
    assert not (folder / "old").exists()
    removed = [number for number, request in enumerate(emulator.requests) if "DELETE" in request]
    copied = [number for number, request in enumerate(emulator.requests) if "rewriteTo" in request]
    assert max(copied) < min(removed)


@pytest.mark.parametrize(
    "typed", ["gs://", "gs:///run", "gs://bucket/a?b", "gs://bucket/a*", "gs://B/a"]
)
def test_what_is_no_address_is_refused(typed):
    with pytest.raises(UserError, match="is no address in a bucket"):
        paths.anywhere(typed)
