"""A patch of Gradio: the page fetches nothing from addresses that visitors name."""

from types import ModuleType
from typing import Any

from mprnet_jax.errors import UserError, one_line


def refuse_urls(gradio: ModuleType) -> None:
    """Makes Gradio fetch nothing that a request names by its URL.

    Reason: Gradio fetches files from any public address that a visitor sends instead of an upload,
        or asks for as `/gradio_api/file=ADDRESS`. So everybody who reaches the page could use its
        machine as a proxy. Gradio has no setting against it. It fetches through `safehttpx`, which
        calls `async_validate_url` for each host that is not in `PUBLIC_HOSTNAME_WHITELIST`. The
        patch replaces the former by a function that refuses all hosts, and empties the latter.
    Tried with: gradio 6.31 and safehttpx 0.1.7.
    Upstream: https://github.com/gradio-app/gradio/pull/13596, which limits the addresses to public
        ones; there is no issue for a setting that allows none.
    Remove when: Gradio has such a setting.

    Args:
        gradio: the module.

    Raises:
        UserError: if Gradio or safehttpx has changed. A warning is not enough: without the patch
            the page would work and fetch addresses.
    """
    try:
        import safehttpx

        if not callable(safehttpx.async_validate_url):
            raise AttributeError("async_validate_url is no function")
        allowed = gradio.processing_utils.PUBLIC_HOSTNAME_WHITELIST
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"gradio {gradio.__version__}: cannot be kept from fetching addresses that visitors "
            f"name ({one_line(error)}); install one that can: pip install 'gradio==6.31.*' "
            "'safehttpx==0.1.7'"
        ) from error
    safehttpx.async_validate_url = _refuse
    allowed.clear()


async def _refuse(hostname: str, *_: Any) -> str:
    """Replaces `async_validate_url`, which returns a host's IP address or raises ValueError."""
    raise ValueError(f"{hostname}: this page fetches nothing from elsewhere")
