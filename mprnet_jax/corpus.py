"""Makes the corpus: clean photos under free licences, to train networks that anyone may use.

Example, on Debian and Ubuntu:

    python -m mprnet_jax.corpus --output corpus

The photos come from Debian packages, which apt downloads into a temporary folder; nothing is
installed. Elsewhere unpack the packages (`dpkg-deb -x FILE.deb DIR`, or `ar` and `tar`) into one
folder and name it with --packages. mprnet_jax/data/corpus.csv lists the photos with their authors
and licences; it is copied into the corpus.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mprnet_jax import paths
from mprnet_jax.command import run
from mprnet_jax.errors import UserError

OUTPUT = flags.DEFINE_string("output", "", "Folder for the corpus.")
PACKAGES = flags.DEFINE_string(
    "packages", "", "Folder in which the packages were unpacked; by default apt downloads them."
)
MAX_SHOWN = 200  # characters of another program's message


def main() -> None:
    """Runs the command."""
    from mprnet_jax.data.corpus import INSTALLED, read_list, write_corpus

    photos, output = read_list(), paths.absolute(OUTPUT.value)
    if PACKAGES.value:
        counts = write_corpus(photos, paths.absolute(PACKAGES.value), output)
    else:
        with tempfile.TemporaryDirectory() as folder:
            download(sorted({photo.package for photo in photos} - {INSTALLED}), Path(folder))
            counts = write_corpus(photos, Path(folder), output)
    print(f"{OUTPUT.value}: {', '.join(f'{count} {split}' for split, count in counts.items())}")


def download(packages: Sequence[str], folder: Path) -> None:
    """Downloads and unpacks Debian packages into a folder.

    Raises:
        UserError: where there is no apt, or a package cannot be downloaded.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UserError(
            "there is no apt here to download the packages with: unpack "
            f"{', '.join(packages)} into a folder and name it with --packages"
        )
    for package in packages:
        print(f"downloading {package}", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            _call(["apt-get", "download", package], Path(temporary), package)
            for file in Path(temporary).glob("*.deb"):
                _call(["dpkg-deb", "-x", str(file), str(folder)], Path(temporary), package)


def _call(command: Sequence[str], folder: Path, package: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())[:MAX_SHOWN]
        raise UserError(
            f"{package}: cannot be downloaded ({reason}); is apt's list of packages up to date "
            "(apt-get update)?"
        ) from error


if __name__ == "__main__":
    run(main, required=(OUTPUT,))
