import multiprocessing
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from mprnet_jax.config import DataConfig
from mprnet_jax.data.batches import (
    ReplaceUnreadable,
    TrainingBatches,
    training_source,
    validation_batches,
    validation_source,
)
from mprnet_jax.errors import UserError
from mprnet_jax.imageio.photos import Photo, write

mini = runpy.run_path(str(Path(__file__).parent / "miniatures.py"))


@pytest.fixture
def folders(tmp_path):
    """Five pairs; the first colour of pair i is 10 * i, and target = degraded + 100."""
    for part in ("train", "test"):
        for i in range(5):
            image = np.full((20, 24, 3), 10 * i, np.uint8)
            image[..., 1] = np.arange(24)
            for name, picture in (("input", image), ("target", image + 100)):
                path = tmp_path / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    return DataConfig(root=str(tmp_path), published="nothing")


def take(config, count, start=0, batch_size=5, share=None):
    batches = TrainingBatches(
        *training_source(config),
        batch_size=batch_size,
        patch_size=8,
        saturation=config.saturation,
        seed=1,
        start=start,
        num_workers=config.num_workers,
        local_indices=share,
    )
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def same(ours, theirs):
    return all(np.array_equal(a[k], b[k]) for a, b in zip(ours, theirs, strict=True) for k in a)


def test_an_epoch_has_every_pair_once_and_epochs_differ(folders):
    batches = take(folders, 4)
    orders = [tuple(batch["degraded"][:, 0, 0, 0] // 10) for batch in batches]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(orders)) > 1
    for batch in batches:
        assert batch["degraded"].shape == (5, 8, 8, 3)
        np.testing.assert_array_equal(batch["target"], batch["degraded"] + 100)


def test_patches_of_a_pair_differ_between_epochs(folders):
    first, second = (b["degraded"][np.argsort(b["degraded"][:, 0, 0, 0])] for b in take(folders, 2))
    assert sum(np.array_equal(a, b) for a, b in zip(first, second)) <= 1


def test_stream_is_a_function_of_seed_and_position(folders):
    whole = take(folders, 6)
    assert same(whole, take(folders, 6))
    assert same(whole[4:], take(folders, 2, start=4))
    assert not same(whole[:2], whole[2:4])


def test_the_stream_of_one_set_is_that_of_the_first_versions():
    """Runs that they began are resumed: the numbers were read before sets could be mixed."""

    class Marked:
        """Pairs whose pixels are (number of the pair, row, column)."""

        names = ("p0", "p1", "p2", "p3", "p4")

        def __len__(self):
            return 5

        def __getitem__(self, index):
            rows, columns = np.indices((20, 24), np.uint8)
            image = np.stack([np.full_like(rows, index), rows, columns], axis=-1)
            return {"degraded": image, "target": image}

    batches = TrainingBatches(Marked(), batch_size=4, patch_size=8, seed=3, start=1000)
    corners = [next(batches)["degraded"][:, [0, 7], [0, 7]].tolist() for _ in range(2)]
    batches.close()
    assert corners == [
        [
            [[0, 11, 21], [0, 4, 14]],
            [[4, 12, 8], [4, 5, 15]],
            [[1, 13, 8], [1, 6, 15]],
            [[2, 18, 22], [2, 11, 15]],
        ],
        [
            [[3, 8, 13], [3, 15, 20]],
            [[3, 11, 8], [3, 18, 15]],
            [[2, 10, 4], [2, 17, 11]],
            [[1, 19, 16], [1, 12, 9]],
        ],
    ]


def test_worker_processes_change_nothing(folders):
    whole = take(folders, 4)
    folders.num_workers = 2
    assert same(whole[1:], take(folders, 3, start=1))


def test_hosts_load_their_shares_of_each_batch(folders):
    whole = take(folders, 3, start=1, batch_size=4)
    for share in (range(2), range(1, 3), range(3, 4)):
        part = take(folders, 3, start=1, batch_size=4, share=share)
        cut = [{k: v[share.start : share.stop] for k, v in batch.items()} for batch in whole]
        assert same(part, cut)


def test_a_stream_that_starts_late_reads_nothing_of_what_was_before(folders):
    class Counted(list):
        names = ("a",) * 5

        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    reads, source = [], training_source(folders)[0]
    counted = Counted(source[i] for i in range(5))
    batches = TrainingBatches(counted, batch_size=5, patch_size=8, seed=1, start=10_000)
    next(batches)
    batches.close()
    assert len(reads) < 500  # the threads' look-ahead


def test_batches_know_the_names_of_their_examples(folders):
    batches = TrainingBatches(
        *training_source(folders), batch_size=3, patch_size=8, seed=1, start=2
    )
    for number in (2, 3, 4):
        pairs = next(batches)["degraded"][:, 0, 0, 0] // 10
        assert batches.example_names(number) == [str(pair) for pair in pairs]
    batches.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_next_pair_stands_in_for_one_that_cannot_be_read(folders, num_workers):
    sound = take(folders, 3)
    (Path(folders.root) / "train/input/3.png").write_bytes(b"?")
    folders.num_workers = num_workers
    for batch, before in zip(take(folders, 3), sound, strict=True):
        pairs = before["degraded"][:, 0, 0, 0] // 10
        for pair, message in zip(pairs, batch["unreadable"].tolist(), strict=True):
            assert ("input/3.png: is not a PNG" in message) == (pair == 3)
            assert bool(message) == (pair == 3)
        stand_ins = np.where(pairs == 3, 4, pairs)
        np.testing.assert_array_equal(batch["degraded"][:, 0, 0, 0] // 10, stand_ins)


def test_a_stand_in_is_the_next_example_that_can_be_read_and_comes_with_the_first_error():
    class Source(list):
        def __getitem__(self, index):
            if index in (0, 3, 4):
                raise UserError(f"{index} is damaged")
            return super().__getitem__(index)

    readable = ReplaceUnreadable(Source(range(5)))
    assert [readable[index] for index in (1, 3, 4)] == [
        ("", 1),
        ("3 is damaged", 1),
        ("4 is damaged", 1),
    ]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_defect_in_a_source_is_not_taken_for_an_unreadable_example(num_workers):
    class Defective(list):
        names = ("a",) * 5

        def __getitem__(self, index):
            raise TypeError("a defect")

    with pytest.raises(TypeError, match="a defect"):
        TrainingBatches(
            Defective(range(5)), batch_size=2, patch_size=8, seed=1, num_workers=num_workers
        )
    assert not multiprocessing.active_children()


def test_no_pair_that_can_be_read_is_an_error(folders):
    for path in (Path(folders.root) / "train/target").iterdir():
        path.write_bytes(b"?")
    with pytest.raises(UserError, match=r"\.png: is not a PNG"):
        take(folders, 1)


def test_worker_processes_outlive_signals_but_not_their_parent(folders):
    script = (
        "import sys, json, os, time\n"
        "from mprnet_jax.config import DataConfig\n"
        "from mprnet_jax.data.batches import *\n"
        "if __name__ == '__main__':\n"
        "    source = training_source(DataConfig(root=sys.argv[1], num_workers=1))\n"
        "    sizes = dict(batch_size=2, patch_size=8, seed=0, num_workers=1)\n"
        "    batches = TrainingBatches(*source, **sizes)\n"
        "    print(*[c.pid for c in multiprocessing.active_children()], flush=True)\n"
        "    for _ in range(1000):\n"
        "        next(batches)\n"
        "        time.sleep(0.01)\n"
    )
    path = Path(folders.root) / "script.py"
    path.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(path), folders.root], stdout=subprocess.PIPE, text=True
    )
    workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    assert workers
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert all(worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_a_missing_folder_is_an_error_that_says_where_data_go(tmp_path):
    config = DataConfig(root=str(tmp_path / "nowhere"), published="Rain13K")
    for make in (lambda: take(config, 1), lambda: validation_source(config)):
        with pytest.raises(UserError, match=r"nowhere.*Rain13K.*--config.data.root=.*:sample"):
            make()


def test_scenes_and_blocks_of_sidd_are_folders_too(tmp_path):
    mini["write_sidd_scenes"](tmp_path / "SIDD/train")
    mini["write_sidd"](tmp_path / "SIDD/test")
    config = DataConfig(root=str(tmp_path), train="SIDD/train", validation="SIDD/test")
    assert validation_source(config).names[:2] == ["01_01", "01_02"]
    (batch,) = take(config, 1, batch_size=4)
    assert batch["degraded"].shape == (4, 8, 8, 3)


def test_pairs_may_bear_the_names_of_sidds_photos(folders):
    for name in ("input", "target"):
        for path in (Path(folders.root) / "train" / name).iterdir():
            path.rename(path.with_name(f"{path.stem}_NOISY_SRGB.PNG"))
    assert len(take(folders, 1)[0]["target"]) == 5


def test_saturation_is_the_configs_choice(folders):
    plain = take(folders, 4)
    folders.saturation = True
    assert not same(plain, take(folders, 4))


def test_validation_crops_come_in_order_and_the_last_batch_is_filled(folders):
    source = validation_source(folders)
    batches = list(validation_batches(source, batch_size=2, crop=16))
    assert [readable.tolist() for _, readable in batches] == [[True] * 2, [True] * 2, [True]]
    assert {batch["target"].shape for batch, _ in batches} == {(2, 16, 16, 3)}
    assert [b["degraded"][0, 0, 0, 0] for b, _ in batches] == [0, 20, 40]
    np.testing.assert_array_equal(batches[0][0]["degraded"][0, 0, :, 1], np.arange(4, 20))


def test_held_out_pairs_that_cannot_be_read_are_named_and_marked(folders, caplog):
    source = validation_source(folders)
    source.paths[1][0].write_bytes(b"no picture")
    with caplog.at_level("WARNING", logger="absl"):
        (batch, readable), *_ = validation_batches(source, batch_size=2, crop=16)
    assert readable.tolist() == [True, False]
    assert batch["degraded"][0].any()
    assert not batch["degraded"][1].any()
    assert str(source.paths[1][0]) in caplog.text


@pytest.fixture
def photos(tmp_path):
    """Three clean photos to train on and two to validate with."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("validation", 2)):
        for i in range(count):
            path = tmp_path / part / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return DataConfig(
        source="photos",
        root=str(tmp_path),
        validation="validation",
        degradation="blind_noise",
    )


def test_clean_photos_are_degraded_anew_at_each_use(photos):
    batches = take(photos, 4)
    targets = {batch["target"][i].tobytes() for batch in batches for i in range(5)}
    degraded = {batch["degraded"][i].tobytes() for batch in batches for i in range(5)}
    assert len(degraded) == 20
    assert len(targets) > 3
    assert same(take(photos, 2, start=2), batches[2:])


def test_validation_degrades_photos_always_alike(photos):
    source, again = validation_source(photos), validation_source(photos)
    assert list(source.names) == ["0", "1"]
    for i in range(2):
        np.testing.assert_array_equal(source[i]["degraded"], again[i]["degraded"])
        assert source[i]["target"].shape == (20, 24, 3)


def test_a_folder_without_photos_is_named(photos, tmp_path):
    photos.train = "elsewhere"
    with pytest.raises(UserError, match=r"has no folder elsewhere: it must hold elsewhere to"):
        training_source(photos)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"elsewhere: holds no \.png"):
        training_source(photos)


def test_16_bits_reach_the_batches(folders):
    """Through augmentation, worker threads and validation alike; mixed sets too."""
    for part, role in ((p, r) for p in ("train", "test") for r in ("input", "target")):
        path = Path(folders.root) / part / role / "0.png"
        deep = np.full((20, 24, 3), 1001 if role == "input" else 2002, np.uint16)
        write(path, Photo(deep))
    folders.saturation = True
    (batch,) = take(folders, 1)
    deep = batch["degraded"][..., 0] == 1001
    assert batch["degraded"].dtype == batch["target"].dtype == np.uint16
    assert deep.reshape(5, -1).all(axis=1).sum() == 1
    assert (batch["target"][deep] == 2002).all()
    # 8-bit pictures of the set keep their brightness.
    assert set(np.unique(batch["degraded"][..., 0][~deep])) & {257 * 10 * i for i in range(1, 5)}
    ((validation, readable),) = validation_batches(validation_source(folders), 5, 16)
    assert readable.all()
    assert (validation["degraded"][0] == 1001).all()
    assert validation["target"].dtype == np.uint16
