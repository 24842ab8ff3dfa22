"""Weights from and to a Hub, played by a server on this machine."""

import logging
import pickle
import resource
from pathlib import Path

import jax
import numpy as np
import pytest

import mprnet_jax
from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import files
from mprnet_jax.weights import hub as hub_weights
from mprnet_jax.weights.hub import NOT_PUBLISHED, check_may_publish, fetch, publish

NAME, ADDRESS = "someone/derain", "hf://someone/derain"
TOKEN = "hf_test"  # the one that the server knows


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> list[bytes]:
    """Two weight files of the smallest network."""
    config = ModelConfig(width=4, unet_growth=0, orsnet_growth=2, cabs_per_orb=1, stages="orsnet")
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    found = []
    for seed in (0, 1):
        files.write(path, config, pure_functions(config)[0](seed))
        found.append(path.read_bytes())
    return found


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """The library waits between its attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def same(address: str, content: bytes) -> bool:
    return fetch(address).read_bytes() == content


def test_weights_are_loaded_as_from_a_file(hub, contents, tmp_path):
    hub.add(NAME, {"model.safetensors": contents[0]})
    ours = jax.tree.leaves(files.read(ADDRESS).params)
    theirs = jax.tree.leaves(files.read(write(tmp_path / "w.safetensors", contents[0])).params)
    assert len(ours) == len(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs))
    assert files.read(ADDRESS).origin["source"] == ADDRESS
    assert files.read_official(ADDRESS).keys()
    assert mprnet_jax.load(ADDRESS, dtype="bfloat16").config.subnets == ["orsnet"]


def test_a_commit_in_the_cache_is_used_without_asking(hub, contents, monkeypatch):
    """Not even for what the library wants to know about this process, once in each."""
    commit = hub.add(NAME, {"model.safetensors": contents[0]})
    assert same(f"{ADDRESS}@{commit}", contents[0])
    assert hub.requests
    hub.requests.clear()
    hub.add(NAME, {"model.safetensors": contents[1]})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None, raising=False)
    assert same(f"{ADDRESS}@{commit}", contents[0])
    assert hub.requests == []


def test_the_newest_commit_is_asked_for_and_named(hub, contents, caplog):
    old = hub.add(NAME, {"model.safetensors": contents[0]})
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert same(ADDRESS, contents[0])
    assert f"{ADDRESS}: is commit {old}" in caplog.text
    hub.requests.clear()
    assert same(ADDRESS, contents[0])
    assert hub.requests == [f"HEAD /{NAME}/resolve/main/model.safetensors"]
    new = hub.add(NAME, {"model.safetensors": contents[1]})
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert same(f"{ADDRESS}@main", contents[1])
    assert f"{ADDRESS}@main: is commit {new}" in caplog.text


@pytest.mark.parametrize("down", [503, "drop", "offline"])
def test_the_cache_is_used_where_the_hub_does_not_answer(hub, contents, monkeypatch, down):
    hub.add(NAME, {"model.safetensors": contents[0]})
    fetch(ADDRESS)
    hub.add(NAME, {"model.safetensors": contents[1]})
    hub.requests.clear()
    if down == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        hub.failures[""] = down
    assert same(ADDRESS, contents[0])
    assert bool(hub.requests) == (down != "offline")


def test_a_file_is_named_where_there_are_several(hub, contents):
    hub.add(NAME, {"a/rain.safetensors": contents[0], "blur.safetensors": contents[1]})
    with pytest.raises(
        UserError, match=r"holds no model\.safetensors; .* a/rain.safetensors, blur"
    ):
        fetch(ADDRESS)
    assert same(f"{ADDRESS}/a/rain.safetensors", contents[0])
    assert same(f"{ADDRESS}@main/blur.safetensors", contents[1])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://someone/else", "there is no such repository, or it is private; .*auth login"),
        ("hf://someone/private", "there is no such repository, or it is private; .*auth login"),
        ("hf://someone/gated", "is gated; agree to its conditions .*auth login"),
        (f"{ADDRESS}@v9", "has no such revision"),
        (f"{ADDRESS}@{'1' * 40}", "has no such revision"),
        ("hf://someone/text", r"holds no weights: none of its 1 files"),
        ("hf://someone/pickles", r"holds no .safetensors file, but a/pytorch_model.bin, b.pth; "
         r"`hf download someone/pickles a/pytorch_model.bin --local-dir .` and convert it"),
        ("hf://someone/pickles/b.pth", r"is no .safetensors file; `hf download someone/pickles b"),
        ("hf://someone", r"is not hf://OWNER/NAME\[@REVISION\]\[/FILE\]"),
        ("hf://", "is not hf://OWNER/NAME"),
        ("hf://datasets/someone/derain", "is not hf://OWNER/NAME.*a dataset, no model"),
        ("hf://someone/a b", "is not hf://OWNER/NAME"),
        (f"{ADDRESS}/../../x.safetensors", "derain"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_one_line(hub, contents, address, message):
    hub.add(NAME, {"model.safetensors": contents[0]})
    for kind in ("private", "gated"):
        hub.add(f"someone/{kind}", {"model.safetensors": contents[0]})
        hub.visibility[f"someone/{kind}"] = kind
    hub.add("someone/text", {"README.md": b"nothing"})
    hub.add("someone/pickles", {"a/pytorch_model.bin": b"", "b.pth": b"", "c.txt": b""})
    with pytest.raises(UserError, match=message) as caught:
        files.read(address)
    assert str(caught.value).startswith(address)
    assert "\n" not in str(caught.value)


class Attack:
    def __reduce__(self):
        return (open, ("/attacked", "w"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><p>busy", "it is a web page"),
        ((2**62).to_bytes(8, "little") + b"{}", "its header claims"),
        (pickle.dumps(Attack()), "damaged, or not a .safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("truncated", "damaged, or not a .safetensors file"),
    ],
)
def test_damaged_and_hostile_files_go_through_the_readers(hub, contents, content, message):
    hub.add(NAME, {"model.safetensors": contents[0][:-99] if content == "truncated" else content})
    with pytest.raises(UserError, match=message) as caught:
        files.read(ADDRESS)
    assert "models--someone--derain" in str(caught.value)


def test_an_interrupted_download_goes_on(hub, contents):
    hub.add(NAME, {"model.safetensors": contents[0]})
    hub.failures["GET"] = "cut"
    assert same(ADDRESS, contents[0])


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({"": "drop"}, "the Hub cannot be reached .*check the connection"),
        ({"": 503}, r"is not in the cache, and the Hub refuses it \(503 .*try later"),
        ({"GET": "drop"}, "the Hub cannot be reached"),
        ({"GET": 500}, r"the Hub refuses it \(500 "),
        ({"GET": "flip"}, r"damaged \(another SHA-256 than on the Hub\); remove it"),
    ],
)
def test_a_failed_download_leaves_nothing_in_the_way(hub, contents, caplog, failures, message):
    hub.add(NAME, {"model.safetensors": contents[0]})
    hub.failures |= failures
    with pytest.raises(UserError, match=message) as caught:
        fetch(ADDRESS)
    assert not [record for record in caplog.records if record.name.startswith("huggingface")]
    hub.failures.clear()
    if "remove it" in message:
        Path(str(caught.value).split(": damaged")[0].removeprefix(f"{ADDRESS}: ")).unlink()
    assert same(ADDRESS, contents[0])


def test_a_server_that_is_gone(hub, contents, monkeypatch):
    hub.shutdown()
    hub.socket.close()
    with pytest.raises(UserError, match=r"derain: is not in the cache, and the Hub cannot be reac"):
        fetch(ADDRESS)


def test_a_full_disk(hub, contents):
    hub.add(NAME, {"model.safetensors": contents[0]})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(contents[0]) // 2, hard))
    try:
        with pytest.raises(UserError, match=r"the cache cannot be used \(.*too large.*HF_HOME"):
            fetch(ADDRESS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(ADDRESS, contents[0])


def test_a_cache_that_cannot_be_written(hub, contents, tmp_path, monkeypatch):
    hub.add(NAME, {"model.safetensors": contents[0]})
    file = write(tmp_path / "file", b"")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(file / "hub"))
    with pytest.raises(UserError, match=r"the cache cannot be used \(.*HF_HOME"):
        fetch(ADDRESS)


def test_damage_in_the_cache_is_noticed(hub, contents):
    commit = hub.add(NAME, {"model.safetensors": contents[0]})
    path = fetch(f"{ADDRESS}@{commit}")
    path.write_bytes(contents[1])  # as large
    with pytest.raises(UserError, match=r"blobs/[0-9a-f]{64}: damaged"):
        fetch(f"{ADDRESS}@{commit}")


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf://a/b: .* needs: pip install 'mprnet-jax\[hub\]'"):
        mprnet_jax.load("hf://a/b")


def test_a_path_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        files.find(Path("hf:/a/b")) and files.read(Path("hf:/a/b"))


def publish_all(contents: bytes, *, overwrite: bool = False) -> str:
    check_may_publish(ADDRESS, overwrite=overwrite)
    return publish(ADDRESS, {"model.safetensors": contents, "README.md": b"---\n---\n# A"})


@pytest.fixture
def _logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.mark.usefixtures("_logged_in")
def test_one_commit_in_a_new_private_repository(hub, contents):
    address = publish_all(contents[0])
    assert hub.visibility[NAME] == "private"
    ((commit, found),) = hub.commits[NAME]
    assert address == f"{ADDRESS}@{commit}"
    assert found == {"model.safetensors": contents[0], "README.md": b"---\n---\n# A"}
    assert same(address, contents[0])


@pytest.mark.usefixtures("_logged_in")
def test_weights_are_replaced_on_demand_in_a_commit_of_their_own(hub, contents):
    old = hub.add(NAME, {"model.safetensors": contents[0], "notes.txt": b"kept"})
    with pytest.raises(UserError, match=r"holds weights already; .*--overwrite"):
        publish_all(contents[1])
    publish_all(contents[1], overwrite=True)
    assert len(hub.commits[NAME]) == 2
    assert hub.files(NAME)[1].keys() == {"model.safetensors", "README.md", "notes.txt"}
    assert same(ADDRESS, contents[1])
    assert same(f"{ADDRESS}@{old}", contents[0])


@pytest.mark.usefixtures("_logged_in")
def test_an_upload_that_fails_publishes_nothing(hub, contents, exhaustive):
    """At each of its requests in turn; the same command then publishes all."""
    before = {"model.safetensors": contents[0]}
    hub.add(NAME, before)
    publish_all(contents[1], overwrite=True)
    asked = list(hub.requests)
    assert any("/lfs/" in request for request in asked)
    assert "/commit/" in asked[-1]
    cases = [(kind, count) for kind in ("drop", 500) for count in range(len(asked))]
    for kind, count in cases if exhaustive else cases[: len(asked)]:
        del hub.commits[NAME][1:]
        hub.stored.clear()
        hub.requests.clear()
        if kind == "drop":
            hub.last = count
        else:
            hub.failures = {asked[count]: kind}
        with pytest.raises(UserError, match=f"{NOT_PUBLISHED}|whether it was published") as caught:
            publish_all(contents[1], overwrite=True)
        assert "\n" not in str(caught.value)
        assert hub.files(NAME)[1] == before
        hub.last, hub.failures = 10**6, {}
    assert same(publish_all(contents[1], overwrite=True), contents[1])


@pytest.mark.parametrize(
    ("token", "address", "message"),
    [
        (None, ADDRESS, "publishing needs a token that may write; `hf auth login` first"),
        ("hf_other", ADDRESS, r"the Hub refuses it \(40[13] .*auth login.*nothing was published"),
        (TOKEN, f"{ADDRESS}@main", "published to a repository: hf://OWNER/NAME"),
        (TOKEN, f"{ADDRESS}/a.safetensors", "published to a repository: hf://OWNER/NAME"),
        (TOKEN, "hf://derain", "is not hf://OWNER/NAME"),
    ],
)
def test_who_may_not_publish_is_told_before(hub, monkeypatch, token, address, message):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)

    def attempt():
        check_may_publish(address, overwrite=False)
        publish(address, {"model.safetensors": b"1"})

    with pytest.raises(UserError, match=message):
        attempt()
    assert not hub.commits.get(NAME)


def test_the_library_logs_again_afterwards(hub):
    from huggingface_hub.utils import logging as hub_logging

    before = hub_logging.get_verbosity()
    with pytest.raises(UserError):
        hub_weights.fetch(ADDRESS)
    assert hub_logging.get_verbosity() == before
