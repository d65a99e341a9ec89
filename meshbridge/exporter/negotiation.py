"""Which format and encoding a scrape asked for (RFC 9110, section 12). Pure."""

from enum import StrEnum

__all__ = ["OPENMETRICS_VERSIONS", "ContentType", "accepts_gzip", "choose_format"]

OPENMETRICS_VERSIONS = ("1.0.0", "0.0.1")


class ContentType(StrEnum):
    """The formats that are spoken."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    OPENMETRICS_0_0_1 = "application/openmetrics-text; version=0.0.1; charset=utf-8"

    @property
    def openmetrics(self) -> bool:
        return self is not ContentType.TEXT


def choose_format(accept: str) -> ContentType:
    """The format that is wanted most; text 0.0.4 where nothing on offer is, as Prometheus's own libraries answer."""
    best, best_quality = ContentType.TEXT, 0.0
    for media_type, parameters, quality in _items(accept):
        version = parameters.get("version")
        if media_type == "application/openmetrics-text" and version in (None, *OPENMETRICS_VERSIONS):
            found = ContentType.OPENMETRICS_0_0_1 if version == "0.0.1" else ContentType.OPENMETRICS
        elif media_type in ("text/plain", "text/*", "*/*") and version in (None, "0.0.4"):
            found = ContentType.TEXT
        else:
            continue
        if quality > best_quality:
            best, best_quality = found, quality
    return best


def accepts_gzip(accept_encoding: str) -> bool:
    qualities = {coding: quality for coding, _, quality in _items(accept_encoding)}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def _items(header: str) -> list[tuple[str, dict[str, str], float]]:
    """Each item of the list, with its parameters and quality, in the order given."""
    items = []
    for item in header.split(","):
        name, *rest = (part.strip() for part in item.split(";"))
        parameters = {}
        for part in rest:
            key, _, value = part.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"')
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if name:
            items.append((name.lower(), parameters, quality if 0 <= quality <= 1 else 0.0))
    return items
