"""When certificates in files expire. The standard library tells it of a peer's certificate only."""

import re
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from meshbridge.config.load import Settings
from meshbridge.exporter import WebConfigError, WebConfigFile
from meshbridge.fields import Tls
from meshbridge.model.status import Grade, Verdict

__all__ = ["check_certificates", "check_client_certificate", "check_expiry", "expires_at"]

_DAY_SECONDS = 86_400.0
_WARNING_DAYS = 30
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# Of RFC 5280, 4.1: what a certificate is made of, in DER (X.690).
_VERSION, _UTC_TIME = 0xA0, 0x17
_VALIDITY = 3  # behind serial number, signature and issuer
_LONG_LENGTH = 0x80


def check_certificates(settings: Settings) -> Iterator[Verdict]:
    """Of each certificate in a file that the configuration names."""
    if settings.admin.tls is not None:
        yield check_expiry("admin", settings.admin.tls.cert_file)
    if settings.exporter.web_config is not None:
        try:
            config, _ = WebConfigFile(settings.exporter.web_config).load()
        except WebConfigError:
            pass  # the exporter reports it
        else:
            if config.tls_server_config is not None:
                yield check_expiry("exporter", settings.exporter.web_config.parent / config.tls_server_config.cert_file)
    for name, daemon in settings.daemons.items():
        yield from check_client_certificate(f"daemon {name}", daemon.tls)
    for name, sink in settings.sinks.items():
        yield from check_client_certificate(f"sink {name}", getattr(sink, "tls", None))


def check_client_certificate(subject: str, tls: object) -> Iterator[Verdict]:
    """Of a part's ``tls``, where it has one that names a client certificate."""
    if isinstance(tls, Tls) and tls.client_cert is not None:
        yield check_expiry(subject, tls.client_cert, aspect="client certificate")


def check_expiry(subject: str, file: Path, *, aspect: str = "certificate") -> Verdict:
    """Of the certificates in a file the one that expires first."""
    try:
        moment = expires_at(file)
    except (OSError, ValueError) as error:
        return Verdict(subject, aspect, Grade.FAILED, f"{file}: {error}", "set it to a PEM file with a certificate")
    date = f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
    remedy = f"renew {file}; it is read again then"
    if moment <= time.time():
        return Verdict(subject, aspect, Grade.FAILED, f"{aspect} expired on {date}", remedy)
    days = int((moment - time.time()) / _DAY_SECONDS)
    text = f"{aspect} good until {date} ({days} {'day' if days == 1 else 'days'})"
    if days < _WARNING_DAYS:
        return Verdict(subject, aspect, Grade.WARNING, text, remedy)
    return Verdict(subject, aspect, Grade.OK, text)


def expires_at(file: Path) -> float:
    """Unix seconds of the first expiry among the certificates in a PEM file.

    Raises:
        OSError: it can't be read.
        ValueError: there is no certificate in it.

    """
    blocks = _PEM.findall(file.read_text(encoding="ascii", errors="replace"))
    if not blocks:
        raise ValueError("no certificate in it")
    try:
        return min(_not_after(ssl.PEM_cert_to_DER_cert(block)) for block in blocks)
    except (IndexError, ValueError) as error:
        raise ValueError("a certificate in it is damaged") from error


def _not_after(der: bytes) -> float:
    (_, certificate), *_ = _elements(der)
    (_, signed), *_ = _elements(certificate)
    fields = list(_elements(signed))
    if fields[0][0] == _VERSION:
        del fields[0]
    _, (tag, end) = _elements(fields[_VALIDITY][1])
    text = end.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year, up to 2049
        text = f"{'19' if text >= '50' else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each element in a row."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & _LONG_LENGTH:
            size = length & ~_LONG_LENGTH
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        yield tag, der[at : at + length]
        at += length
