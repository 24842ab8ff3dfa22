"""What README and docs say holds: their commands parse, and their figures were measured."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mprnet_jax import recipes
from mprnet_jax.config import flatten

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_ALL_COMMANDS = ("debug", "help", "verbosity")
FLAG = re.compile(r"""(?:DEFINE_\w+\(\s*|add_argument\(\s*)"(?:--)?(\w+)\"""")

# A figure: a number, or several of one unit, that is no part of a version or of a power.
NUMBER = r"(?<![\w.,^/-])\d(?:[\d,]*\d)?(?:\.\d+)?(?![\d.]*\d|e-)"
UNIT = r"(?:dB|ms|s|GB|GiB|MB|pairs/s|%|million cycles|lines)(?![\w/])"
SEVERAL = re.compile(rf"((?:{NUMBER}(?: ±| to|, | and| of|,)? ?)+){UNIT}")
RECORD = re.compile(r"\]\(([./]*benchmarks/(?:results/\w+|NOTES)\.md)")
# What is in dB or ms and no measurement of this project's: page -> the source.
NOT_OURS = {
    "README.md": {"39.96": "MAXIM's README", "32.86": "MAXIM's README"},
    "docs/score.md": {"0.01": "tests/evaluation", "1e-4": "tests/evaluation"},
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of each command of this project's in README and docs."""
    found = []
    for path in PAGES:
        text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
        for line in re.findall(r"python\d? -m ((?:mprnet_jax|benchmarks)[^\n`]*)", text):
            words = shlex.split(re.split(r" > | < |&& |\"$", line)[0], posix=True)
            found.append((relative(path), words))
    return found


def flags_of(module: str) -> set[str]:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    text = path.read_text()
    more = flags_of("mprnet_jax.train") if "from mprnet_jax.train import CONFIG" in text else ()
    return {*FLAG.findall(text), *OF_ALL_COMMANDS, *more}


def test_commands_parse():
    found = commands()
    assert len(found) > 40
    fields = flatten(recipes.load("derain"))
    for page, (module, *words) in found:
        known = flags_of(module)
        for word, following in zip(words, [*words[1:], ""]):
            name, _, value = word.removeprefix("--").partition("=")
            if not word.startswith("--"):
                continue
            where = f"{page}: {module} {word}"
            if name.startswith("config."):
                assert name.removeprefix("config.") in fields, where
            else:
                assert name in known, where
            if name == "config" and "TASK" not in word + following:
                recipes.load(value or following)  # from the repository's root
    # Fields that stand alone, as in `--config.batch_size=8`.
    for path in PAGES:
        for name in re.findall(r"--config\.([\w.]*\w)", path.read_text(encoding="utf-8")):
            assert name in fields or name == "FIELD", f"{relative(path)}: --config.{name}"


def numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in re.findall(NUMBER, text)}


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Paragraphs, items and rows of tables, each with the records that it links to.

    Where it links to none, those that its section's paragraphs link to.
    """
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for section in re.split(r"^#+ .*$", text, flags=re.M):
        parts = re.split(r"\n\n+|\n(?=[-|*] |\|)", section)
        shared = [r for part in parts if not part.startswith("|") for r in RECORD.findall(part)]
        for part in parts:
            yield part, RECORD.findall(part) or shared


def figures(block: str) -> set[str]:
    """The numbers with a unit; of a table's row all that have a decimal point, too."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", block)
    found = {n for several in SEVERAL.findall(text) for n in numbers(several)}
    if block.startswith("|"):
        found |= {number for number in numbers(text) if "." in number}
    return found


def test_figures_are_those_of_the_records():
    checked = 0
    for path in PAGES:
        for block, records in blocks(path.read_text(encoding="utf-8")):
            text = "".join((path.parent / record).read_text(encoding="utf-8") for record in records)
            missing = figures(block) - numbers(text) if records else set()
            assert not missing, f"{relative(path)}: {missing} in none of {records}: {block}"
            checked += len(figures(block)) if records else 0
    assert checked > 150


def test_decibels_and_milliseconds_have_a_record():
    for path in PAGES:
        known = NOT_OURS.get(relative(path), {})
        for block, records in blocks(path.read_text(encoding="utf-8")):
            text = re.sub(r"`[^`]*`", "", block)
            found = re.findall(r"([\d.]+(?:e-\d)?) (?:dB|ms)\b", text) if not records else []
            assert set(found) <= set(known), f"{relative(path)}: {block}"


def test_each_row_of_the_results_says_how_it_was_measured():
    text = README.read_text(encoding="utf-8")
    results = text[text.index("| what | mprnet_jax |") :].split("\n\n")[0].splitlines()[2:]
    assert len(results) > 10
    for row in results:
        assert RECORD.search(row) or "](tests/" in row, row
        *_, ours, _, _, _ = row.split("|")
        assert len(re.findall(NUMBER + "|1e-5", ours)) == 1, row


def test_the_readme_fits_a_screen_or_two():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("it has 34.41, 32.21 and 28.83 dB, of 3 photos", {"34.41", "32.21", "28.83"}),
        ("| `width=5.5` | 19,700.5 | 3 | jax 0.10.2 |", {"19700.5"}),
        ("takes 1,024 MB with `a 5 MB`", {"1024"}),
    ],
)
def test_figures_are_found(block, expected):
    assert figures(block) == expected
