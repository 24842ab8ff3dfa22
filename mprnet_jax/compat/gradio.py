"""Gradio's fetching of addresses, which the page has to turn off."""

from types import ModuleType
from typing import Any

from mprnet_jax.errors import UserError


def refuse_addresses(gradio: ModuleType) -> None:
    """Makes Gradio fetch nothing that a request names by its address (URL).

    Why: Gradio fetches files from any public address that a visitor sends in place of an upload or
    asks for as `/gradio_api/file=ADDRESS`. That would make the machine of the page a proxy for
    everybody who reaches the page. Gradio has no setting against it.

    How: `safehttpx`, through which Gradio fetches, asks `async_validate_url` for each host that is
    not on `PUBLIC_HOSTNAME_WHITELIST`. The former now refuses all hosts, and the latter is empty.

    Tried with: gradio 6.31 and safehttpx 0.1.7.
    Upstream: https://github.com/gradio-app/gradio/pull/13596, which limits the addresses to public
    ones; there is no issue for a setting that allows none.
    Can go: when Gradio has such a setting.

    Args:
        gradio: the module.

    Raises:
        UserError: if Gradio or safehttpx has changed. Without the patch the page would work and
            fetch addresses, so that a warning alone would leave it open.
    """
    try:
        import safehttpx

        if not callable(safehttpx.async_validate_url):
            raise AttributeError("async_validate_url is no function")
        allowed = gradio.processing_utils.PUBLIC_HOSTNAME_WHITELIST
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"gradio {gradio.__version__}: cannot be kept from fetching addresses that visitors "
            f"name ({error}); install one that can: pip install 'gradio==6.31.*' 'safehttpx==0.1.7'"
        ) from error
    safehttpx.async_validate_url = _refuse
    allowed.clear()


async def _refuse(hostname: str, *_: Any) -> str:
    """Stands in for the check of a host, which returns its IP address or raises ValueError."""
    raise ValueError(f"{hostname}: this page fetches nothing from elsewhere")
