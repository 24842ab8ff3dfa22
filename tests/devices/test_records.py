"""Numbers kept on disk, whatever happens to the file, and word of long compiles."""

import errno
import json
import time

import jax
import pytest

from mprnet_jax.devices import records


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file, in a folder that is not there yet."""
    folder = tmp_path / "cache"
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(folder))
    monkeypatch.setattr(records, "_warned", set())
    yield folder / records.FILE
    jax.config.update("jax_compilation_cache_dir", before)


def test_numbers_are_kept_by_key(file):
    assert records.read("a") == {}
    records.update("a", seconds=1.5, sizes=[[1, 2]])
    records.update("b", seconds=3)
    records.update("a", seconds=2.5)
    assert records.read("a") == {"seconds": 2.5, "sizes": [[1, 2]]}
    assert records.read("b") == {"seconds": 3}
    assert [path.name for path in file.parent.iterdir()] == [records.FILE]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version": 1}',
        '{"version": 0, "records": {}}',
        '{"version": 1, "records": 3}',
    ],
)
def test_a_file_that_is_damaged_or_of_another_version_is_ignored_and_reported_once(
    file, content, capsys
):
    file.parent.mkdir()
    file.write_text(content)
    assert records.read("a") == records.read("a") == {}
    assert capsys.readouterr().err.count(f"{file}: is ") == 1
    records.update("a", seconds=1)
    assert records.read("a") == {"seconds": 1}
    assert json.loads(file.read_text())["version"] == records.VERSION


def test_a_full_disk_is_reported_once_and_the_work_goes_on(file, monkeypatch, capsys):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "replacing", full)
    for _ in range(2):
        records.update("a", seconds=1)
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert records.read("a") == {}


def test_without_a_folder_nothing_is_kept(monkeypatch):
    for folder in (None, "gs://bucket/cache"):
        before = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", folder)
        try:
            records.update("a", seconds=1)
            assert records.read("a") == {}
        finally:
            jax.config.update("jax_compilation_cache_dir", before)


def test_long_compiles_are_announced_with_the_time_of_the_last_one(file, monkeypatch, capsys):
    monkeypatch.setattr(records, "LONG", 0.05)
    with records.announced("nothing"):
        pass
    assert capsys.readouterr().out == ""
    with records.announced("the step"):
        time.sleep(0.2)
    assert capsys.readouterr().out == "Compiling the step ...\n"
    with records.announced("the step"):
        time.sleep(0.2)
    assert capsys.readouterr().out == "Compiling the step, which took 0 s the last time ...\n"
    before = file.read_text()
    with records.announced("the step", last_seconds=40):
        time.sleep(0.2)
    assert "took 40 s the last time" in capsys.readouterr().out
    with records.announced("the program", last_seconds=0):
        time.sleep(0.2)
    assert capsys.readouterr().out == "Compiling the program ...\n"
    assert file.read_text() == before  # the caller records the time
