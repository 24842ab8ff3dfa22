import functools
import sys

import pytest

from mprnet_jax.data.corpus import INSTALLED, read_list


@pytest.fixture
def command(run_python):
    return functools.partial(run_python, "-m", "mprnet_jax.corpus")


def test_without_apt_the_packages_to_unpack_are_named(command, tmp_path):
    result = command(f"--output={tmp_path}/corpus", PATH=str(tmp_path))
    assert result.returncode == 2
    assert "there is no apt here" in result.stderr
    assert "mate-backgrounds" in result.stderr
    assert INSTALLED not in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", ["apt-get", "dpkg-deb"])
def test_a_package_that_cannot_be_had_is_named(command, tmp_path, failing):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("apt-get", "dpkg-deb"):
        (tools / tool).write_text(
            f"#!{sys.executable}\nimport sys\n"
            + ("sys.exit('no such\\nthing')" if tool == failing else "open('a.deb', 'w')")
        )
        (tools / tool).chmod(0o755)
    result = command(f"--output={tmp_path}/corpus", PATH=str(tools))
    assert result.returncode == 2
    first = min({photo.package for photo in read_list()} - {INSTALLED})
    assert f"{first}: cannot be downloaded (no such thing)" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tools"]


def test_an_empty_folder_of_packages_is_told(command, tmp_path):
    (tmp_path / "packages").mkdir()
    result = command(f"--output={tmp_path}/corpus", f"--packages={tmp_path}/packages")
    assert result.returncode == 2
    assert "photos are wrong" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "corpus").exists()
