from benchmarks import pictures

RECORD = """# Training

## `small`, 2026-01-01

Words.

| step | loss 1 |
| --- | --- |
| 500 | 0.5 |
| 1000 |  |

Then:

| step | loss 1 |
| --- | --- |
| 10 | 0.25 |
"""


def test_tables_are_read_by_network_and_part():
    assert pictures.tables(RECORD) == {"small": [[[500, 0.5], [1000, None]], [[10, 0.25]]]}


def test_the_picture_shows_the_networks_that_come_with_the_package(tmp_path):
    assert [*pictures.tables(pictures.SOURCE.read_text())] == ["denoise", "derain"]
    pictures.main(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
