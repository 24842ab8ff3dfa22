from benchmarks import pictures
from mprnet_jax.weights import parity

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


def test_diagrams_are_drawn(tmp_path):
    found = pictures.tables(pictures.SOURCE.read_text())
    assert [*found] == ["denoise", "derain"]
    blocks = [parity.Difference(name, 1e-6, 1e-7, 140, 1) for name in ("a.0", "a.1", "b[0]")]
    report = parity.Report([], blocks, None)
    planned = pictures.plan_folder()
    figures = {
        "curves": pictures.draw_curves(found),
        "parity": pictures.draw_parity({"denoise": report, "derain": report}),
        "plan": pictures.draw_plan(planned),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / name, format="png")
        assert (tmp_path / name).stat().st_size > 10_000
    labels = [text.get_text() for text in figures["plan"].axes[0].get_legend().get_texts()]
    assert len(labels) == len(planned.order)
    assert sum(int(label.split(": ")[1]) for label in labels) == 40
