"""Settings: addresses and defaults."""

import pytest
from pydantic import ValidationError

from meshbridge.exporter import Collectors, ExporterOptions
from meshbridge.web.addresses import split_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:9665", ("0.0.0.0", 9665)),
        ("[::]:9665", ("::", 9665)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        (":0", ("0.0.0.0", 0)),
        ("node-a.example:80", ("node-a.example", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address
    assert ExporterOptions(listen=text).listen == text


@pytest.mark.parametrize("text", ["", "9665", "host", "host:", "host:port", "host:70000", "::1:80", "[::1]", "a b:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="not an address"):
        ExporterOptions(listen=text)


def test_everything_is_on_by_default() -> None:
    assert ExporterOptions().collectors.names() == ("daemon", "host", "apps")
    assert Collectors(host=False).names() == ("daemon", "apps")
