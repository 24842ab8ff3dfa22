"""Hook of mkdocs: README is the first page, and what pages link to outside of docs/ joins the site.

So each link is written once, as it works in the repository, and `mkdocs build --strict` checks it.
The page that restores photos in the browser gets its network.
"""

import functools
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[1]
NETWORK = "browser/denoise.onnx"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def in_site(path: str) -> str:
    """Returns where a file of the repository lies in the site."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def linked(path: str) -> list[str]:
    """Returns the files of the repository that a page of it links to."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = (
        posixpath.normpath(posixpath.join(posixpath.dirname(path), x)) for x in LINK.findall(text)
    )
    return [other for other in found if (ROOT / other).is_file()]


@functools.cache
def exported_network() -> bytes:
    """Returns the network of the page in the browser, as an .onnx file."""
    from mprnet_jax.export import formats
    from mprnet_jax.weights import files

    return formats.encode(".onnx", files.read("denoise"))


def on_files(files, config):
    """Adds the network, README and all that is linked to, from page to page."""
    if by_hand := files.get_file_from_path(NETWORK):
        files.remove(by_hand)
    files.append(File.generated(config, NETWORK, content=exported_network()))
    waiting = ["README.md", *(f"docs/{f.src_uri}" for f in files.documentation_pages())]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if files.get_file_from_path(in_site(path)) is None:
            source = str(ROOT / path)
            file = File.generated(config, in_site(path), abs_src_path=source)
            file.inclusion = InclusionLevel.NOT_IN_NAV if path != "README.md" else file.inclusion
            files.append(file)
        if path.endswith(".md"):
            new = [other for other in linked(path) if other not in seen]
            seen.update(new)
            waiting += new
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links at where their files lie in the site."""
    here = page.file.src_uri
    source = "README.md" if here == "index.md" else f"docs/{here}"
    if here.startswith("repository/"):
        source = here.removeprefix("repository/")

    def move(link):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if not (ROOT / path).exists():
            return link[1]  # mkdocs tells of it
        return posixpath.relpath(in_site(path), posixpath.dirname(here) or ".")

    return LINK.sub(move, markdown)
