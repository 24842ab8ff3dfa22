"""The page fetches nothing from elsewhere, or does not start."""

import asyncio
import sys

import pytest

from mprnet_jax.compat.gradio import refuse_urls
from mprnet_jax.errors import UserError

gradio = pytest.importorskip("gradio")
safehttpx = pytest.importorskip("safehttpx")


@pytest.fixture(autouse=True)
def _unpatched(monkeypatch):
    """Both libraries are as they were again after each test."""
    monkeypatch.setattr(safehttpx, "async_validate_url", safehttpx.async_validate_url)
    hosts = list(gradio.processing_utils.PUBLIC_HOSTNAME_WHITELIST)
    monkeypatch.setattr(gradio.processing_utils, "PUBLIC_HOSTNAME_WHITELIST", hosts)


@pytest.mark.parametrize("host", ["93.184.215.14", "hf.co", "localhost"])
def test_gradio_fetches_no_address(tmp_path, host):
    refuse_urls(gradio)
    fetch = gradio.processing_utils.async_ssrf_protected_download
    with pytest.raises(ValueError, match="fetches nothing from elsewhere"):
        asyncio.run(fetch(f"https://{host}/photo.png", str(tmp_path)))


@pytest.mark.parametrize(
    ("library", "name"),
    [
        (safehttpx, "async_validate_url"),
        (gradio.processing_utils, "PUBLIC_HOSTNAME_WHITELIST"),
        (gradio, "processing_utils"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_page_does_not_start_where_that_cannot_be_prevented(monkeypatch, library, name):
    monkeypatch.delattr(library, name)
    with pytest.raises(UserError, match=rf"^gradio {gradio.__version__}: .*{name}"):
        refuse_urls(gradio)
    assert not hasattr(library, name)


def test_nor_where_gradio_fetches_through_another_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "safehttpx", None)
    with pytest.raises(UserError, match="cannot be kept from fetching"):
        refuse_urls(gradio)


def test_the_hub_is_closed_when_the_page_starts(hub, monkeypatch):
    """Also where --weights=hf://... was fetched before, so that its library is open."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    from mprnet_jax import demo

    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
    assert get_session().get(f"{hub.url}/a").status_code == 404
    demo.import_gradio()
    with pytest.raises(OfflineModeIsEnabled):
        get_session().get(f"{hub.url}/a")
