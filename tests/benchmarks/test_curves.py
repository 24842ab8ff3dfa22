from tensorboardX import SummaryWriter

from benchmarks import curves


def test_a_table_of_means_and_of_the_last_scores(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (1, 2, 3, 4):
            for tag in ("loss", *curves.LOSSES):
                writer.add_scalar(tag, step / 8, step)
        for step, score in ((1, 20.0), (3, 30.0)):
            for tag in curves.SCORES:
                writer.add_scalar(tag, score, step)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-1])  # the last event is still being written
    found = list(curves.rows(curves.read_curves(tmp_path), points=2))
    assert found == [
        ["2", *["0.1875"] * 3, *["20.00"] * 4],
        ["4", *["0.4375"] * 3, *["30.00"] * 3, "20.00"],
    ]
