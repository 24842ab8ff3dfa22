"""Training on several sets at once: which example comes when, whoever reads it."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mprnet_jax.config import DataConfig
from mprnet_jax.data.batches import TrainingBatches, training_source
from mprnet_jax.data.mixes import Mix, Turns, parse_shares, training_shares
from mprnet_jax.errors import UserError
from mprnet_jax.imageio.photos import Photo, write

BATCH = 20
DRAWS = 10_000
SIZES = {"a": 500, "b": 2000, "c": 700}  # grain takes a millisecond to shuffle an index of few
SHARES = {"a": Fraction(1), "b": Fraction("2.5"), "c": Fraction("0.5")}


class Marked:
    """Pairs that show in each pixel the set (red) and the example's number (green, blue)."""

    def __init__(self, number, count):
        self.names = [f"{number}-{i}" for i in range(count)]
        self._number = number

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        image = np.full((8, 8, 3), (self._number, *divmod(index, 256)), np.uint8)
        return {"degraded": image, "target": image}


def three():
    return Mix({name: Marked(i, size) for i, (name, size) in enumerate(SIZES.items())}, SHARES)


def open_stream(mix, hosts=1, host=0, start=0, num_workers=0, seed=5):
    share = range(host * BATCH // hosts, (host + 1) * BATCH // hosts)
    return TrainingBatches(
        mix,
        batch_size=BATCH,
        patch_size=8,
        seed=seed,
        start=start,
        num_workers=num_workers,
        local_indices=share,
    )


def shown(batch):
    """Names of the examples that a batch of a mix of `Marked` shows."""
    pixels = batch["degraded"][:, 0, 0].tolist()
    return [f"{list(SIZES)[s]}/{s}-{high * 256 + low}" for s, high, low in pixels]


def read(count, **options):
    """Names of the examples of so many batches, as one host reads them."""
    stream = open_stream(three(), **options)
    try:
        return [shown(next(stream)) for _ in range(count)]
    finally:
        stream.close()


@pytest.fixture(scope="module")
def told():
    """The names of 10,000 draws, batch by batch, as the stream tells them without reading."""
    stream = open_stream(three())
    stream.close()
    return [stream.example_names(i) for i in range(DRAWS // BATCH)]


def test_10000_draws_have_the_shares(told):
    drawn = Counter(name.split("/")[0] for name in itertools.chain(*told))
    total = sum(SHARES.values())
    for name, share in SHARES.items():
        assert drawn[name] / DRAWS == pytest.approx(float(share / total), rel=0.01)
    # They hold all along, not only in the end.
    for i, names in enumerate(told):
        drawn = Counter(name.split("/")[0] for name in itertools.chain(*told[: i + 1]))
        assert all(
            abs(drawn[name] - (i + 1) * BATCH * share / total) < 3 for name, share in SHARES.items()
        ), names


def test_hosts_workers_and_resumes_draw_one_sequence(told):
    """Here in samples; the test of kills below reads all of it."""
    half, middle = BATCH // 2, len(told) // 2
    assert read(60) == told[:60]
    assert read(60, hosts=2, host=0, start=middle) == [
        names[:half] for names in told[middle : middle + 60]
    ]
    last = [names[half:] for names in told[-60:]]
    assert read(60, hosts=2, host=1, start=len(told) - 60, num_workers=2) == last


READER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_mixes import open_stream, shown, three

if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    stream = open_stream(three(), **options)
    while True:
        print(json.dumps(shown(next(stream))), flush=True)
"""


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_readers_that_are_killed_go_on_with_the_same_sequence(
    hosts, num_workers, told, exhaustive, tmp_path
):
    if not exhaustive:
        pytest.skip("starts readers and kills them: --exhaustive")
    script = tmp_path / "reader.py"
    script.write_text(READER)
    for host in range(hosts):
        lines = []
        for until in (len(told) // 3, len(told)):
            options = {"hosts": hosts, "host": host, "num_workers": num_workers}
            settings = json.dumps(options | {"start": len(lines)})
            command = [sys.executable, str(script), str(Path(__file__).parent), settings]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                while len(lines) < until:
                    lines.append(json.loads(process.stdout.readline()))
                process.kill()
        share = slice(host * BATCH // hosts, (host + 1) * BATCH // hosts)
        assert lines == [names[share] for names in told]


def test_each_set_has_epochs_and_orders_of_its_own(told):
    names = list(itertools.chain(*told))
    for name in SIZES:
        drawn = [n for n in names if n.startswith(f"{name}/")]
        first, second = drawn[: SIZES[name]], drawn[SIZES[name] : 2 * SIZES[name]]
        assert len(first) == len(set(first)) == SIZES[name]
        assert len(second) == len(set(second)) > SIZES[name] / 2
        assert first[:9] != second[:9]
    # Sets of one size are not drawn from in step.
    twins = {name: Marked(0, 500) for name in "ab"}
    stream = open_stream(Mix(twins, {"a": Fraction(1), "b": Fraction(1)}))
    batch = next(stream)
    stream.close()
    numbers = batch["degraded"][:, 0, 0, 2]
    assert (numbers[::2] != numbers[1::2]).sum() > 5


@pytest.mark.parametrize(
    "shares", [(1,), (1, 1), (3, 7), (7, 3, 1), ("0.1", "0.2", "0.7"), (1, 1000), (2, 2, 2, 5, 9)]
)
def test_turns_are_taken_evenly_and_none_is_left_out(shares):
    shares = [Fraction(share) for share in shares]
    turns, given = Turns(shares), [0] * len(shares)
    for n in range(2100):
        number, before = turns[n]
        assert before == given[number]
        given[number] += 1
        for count, share in zip(given, shares):
            assert abs(count - (n + 1) * share / sum(shares)) < len(shares)
    assert turns[10**15] == Turns([10 * share for share in shares])[10**15]


def test_shares_are_read_from_the_config():
    assert parse_shares("GoPro/train") == {"GoPro/train": 1}
    assert parse_shares("a:2, b:0.5,c") == {"a": 2, "b": Fraction(1, 2), "c": 1}
    assert list(parse_shares("b,a")) == ["b", "a"]
    assert parse_shares("12:30/x:3") == {"12:30/x": 3}


@pytest.mark.parametrize("share", ["0", "-1", "nan", "inf", "1e999", "1e-999", "", "x", "30/train"])
def test_a_share_that_is_no_number_above_0_is_named_with_its_set(share):
    with pytest.raises(UserError, match=f"the share of b/c is '{share}', no number above 0"):
        parse_shares(f"a:2,b/c:{share}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a,a:2", "names a twice"), ("a,", "a set without a name"), (":2", "a set without a name")],
)
def test_a_set_without_a_name_and_one_named_twice_are_reported(text, problem):
    with pytest.raises(UserError, match=f"data.train='{text}': .*{problem}; .*GoPro/train:2"):
        parse_shares(text)


def write_pairs(folder, count, dtype=np.uint8, first=0):
    """Pairs of one grey each, first + the pair's number."""
    for i, role in itertools.product(range(count), ("input", "target")):
        path = folder / role / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, Photo(np.full((16, 16, 3), first + i, dtype)))


def draw(config, count):
    """The examples of so many batches of 6, one after the other, and their names."""
    stream = TrainingBatches(*training_source(config), batch_size=6, patch_size=8, seed=1)
    try:
        batches = [next(stream) for _ in range(count)]
    finally:
        stream.close()
    names = itertools.chain(*(stream.example_names(i) for i in range(count)))
    keys = batches[0]
    return {key: np.concatenate([batch[key] for batch in batches]) for key in keys}, list(names)


def test_folders_of_8_and_16_bits_mix_and_the_examples_names_tell_the_set(tmp_path):
    write_pairs(tmp_path / "one/train", 3, first=10)
    write_pairs(tmp_path / "deep", 2, np.uint16, first=3000)
    config = DataConfig(root=str(tmp_path), train="one/train:2,deep")
    drawn, names = draw(config, 4)
    assert drawn["degraded"].dtype == np.uint16
    greys = {f"one/train/{i}": 257 * (10 + i) for i in range(3)}
    greys |= {f"deep/{i}": 3000 + i for i in range(2)}
    np.testing.assert_array_equal(drawn["degraded"][:, 0, 0, 0], [greys[name] for name in names])
    assert sum(name.startswith("deep/") for name in names) == 8


def test_the_next_example_of_the_same_set_stands_in(tmp_path):
    write_pairs(tmp_path / "a", 3, first=10)
    write_pairs(tmp_path / "b", 4, first=20)
    (tmp_path / "a/input/2.png").write_bytes(b"?")
    config = DataConfig(root=str(tmp_path), train="a,b")
    drawn, names = draw(config, 3)
    unreadable = np.array([name == "a/2" for name in names])
    assert 0 < unreadable.sum() < len(names)
    assert all("a/input/2.png: is not a PNG" in text for text in drawn["unreadable"][unreadable])
    assert not drawn["unreadable"][~unreadable].any()
    assert set(drawn["degraded"][unreadable].flat) == {10}


def test_clean_photos_mix_too(tmp_path):
    for name, grey in (("a", 50), ("b", 100)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(tmp_path / name / "0.png")
    config = DataConfig(source="photos", root=str(tmp_path), train="a,b:2", degradation="noise")
    drawn, names = draw(config, 1)
    greys = [{"a/0": 50, "b/0": 100}[name] for name in names]
    np.testing.assert_array_equal(drawn["target"][:, 0, 0, 0], greys)
    assert (drawn["degraded"] != drawn["target"]).any()


def test_a_set_without_pairs_is_named(tmp_path):
    write_pairs(tmp_path / "full", 2)
    config = DataConfig(root=str(tmp_path), train="full:2,gone:1", validation="held_out")
    message = r"has no folder gone: it must hold full/\{input,target\}, gone/\{input,target\} to"
    with pytest.raises(UserError, match=message):
        training_source(config)
    (tmp_path / "gone").mkdir()
    with pytest.raises(UserError, match=r"/gone: "):
        training_source(config)
    for role in ("input", "target"):
        (tmp_path / "gone" / role).mkdir()
    with pytest.raises(UserError, match=r"/gone/input: "):
        training_source(config)
    config.source = "prepared"
    with pytest.raises(UserError, match=r"mprnet_pairs/full/.*: holds no prepared set"):
        training_source(config)


def test_a_folder_with_all_of_a_mix_as_its_name_is_one_set(tmp_path):
    config = DataConfig(root=str(tmp_path), train="a:2,b")
    assert list(training_shares(config)) == ["a", "b"]
    write_pairs(tmp_path / "a:2,b", 2)
    assert training_shares(config) == {"a:2,b": 1}
    assert draw(config, 1)[1][0] in ("0", "1")
    config.source = "prepared"
    assert list(training_shares(config)) == ["a", "b"]
    (tmp_path / "mprnet_pairs/a:2,b").mkdir(parents=True)
    assert training_shares(config) == {"a:2,b": 1}
    assert len(training_shares(DataConfig(train=",".join(f"set{i}" for i in range(999))))) == 999
