from tensorboardX import SummaryWriter

from benchmarks import curves


def test_a_table_of_means_and_of_the_last_scores(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (1, 2, 3, 4):
            for tag in ("loss", "loss_stage2", "loss_stage1"):
                writer.add_scalar(tag, step / 8, step)
        for step, score in ((1, 20.0), (3, 30.0)):
            for tag in ("stage2", "stage1", "degraded"):
                writer.add_scalar(f"validation_psnr/{tag}", score, step)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-1])  # the last event is still being written
    found = curves.read_curves(tmp_path)
    assert curves.columns(found) == ["step", "loss 1", "loss 2"] + [
        f"PSNR of {image}, dB" for image in ("degraded", "stage1", "stage2")
    ]
    assert list(curves.rows(found, points=2)) == [
        ["2", *["0.1875"] * 2, *["20.00"] * 3],
        ["4", *["0.4375"] * 2, "20.00", "30.00", "30.00"],
    ]
