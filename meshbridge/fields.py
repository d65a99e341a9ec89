"""Settings that many parts share: durations, sizes, secrets, TLS, retry, what a sink wants.

Each part keeps its own settings model and puts it together from these.
"""

import random
import re
import ssl
import stat
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr, model_validator

from meshbridge.outside import remember_secret

__all__ = [
    "Batch",
    "Duration",
    "EncryptedKeyError",
    "Format",
    "Options",
    "Reshape",
    "RetryWaits",
    "Secret",
    "SecretFileError",
    "SecretFiles",
    "Selection",
    "Size",
    "TextList",
    "Tls",
    "When",
    "chance_of_jitter",
    "doubts_about",
    "duration_text",
    "load_key_pair",
    "matches",
    "parse_duration",
    "parse_size",
    "read_secret_file",
    "strict_certificate_hint",
]

EVENT_NAMES = ("start", "exit", "stdout", "health", "status", "removed", "gap")


class Options(BaseModel):
    """A settings model: unknown keys are refused, values don't change once read."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="after")
    def _remember_secrets(self) -> Self:
        """So that they are masked wherever a stranger repeats them."""
        for value in self.__dict__.values():
            inner = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
            )
            for one in inner:
                if isinstance(one, SecretStr):
                    remember_secret(one.get_secret_value(), getattr(self, "username", None))
        return self


# --- durations and sizes -------------------------------------------------------------------------------------------

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_LONGEST_SECONDS = 36_525 * 86_400.0  # a thread can wait so long; clocks and tables can count it
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_ISO_DURATION = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_NO_SIZE = 2**63  # bytes beyond what files and tables count
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


def parse_duration(value: object) -> float:
    """Seconds of ``30``, ``1.5``, ``250ms``, ``10s``, ``5m``, ``1h30m``, ``7d`` or ISO 8601 (``P1D``, ``PT90S``).

    Raises:
        ValueError: it is none of these.

    """
    seconds = _seconds(value)
    if seconds is None:
        raise ValueError(f"not a duration: {value!r} (use 250ms, 10s, 5m, 1h30m, 7d, or ISO 8601 such as P1D)")
    if seconds > _LONGEST_SECONDS:
        raise ValueError(f"longer than a hundred years: {value!r}")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if _DURATION.sub("", text) == "" and text:
        return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    iso = _ISO_DURATION.fullmatch(text)
    if iso and any(iso.groups()):
        return sum(float(number) * _UNITS[unit] for unit, number in iso.groupdict().items() if number)
    return None


def parse_size(value: object) -> int:
    """Bytes of ``4096``, ``256KiB``, ``4GiB``, ``10MB``.

    Raises:
        ValueError: it is none of these.

    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _NO_SIZE:
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if match and match[2].lower() in _SIZES:
        size = float(match[1]) * _SIZES[match[2].lower()]
        if size < _NO_SIZE:
            return int(size)
    raise ValueError(f"not a size: {value!r} (use a number of bytes, or 256KiB, 100MB, 4GiB)")


def duration_text(seconds: float) -> str:
    for unit in ("d", "h", "m", "s"):
        count = seconds / _UNITS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{seconds:g}s"


def _size_text(size: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        count, rest = divmod(size, _SIZES[unit.lower()])
        if count and not rest:
            return f"{count}{unit}"
    return str(size)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration, json_schema_input_type=str | float),
    PlainSerializer(duration_text, return_type=str),
]
"""Seconds, written like ``10s``, ``5m`` or ``P1D``."""

Size = Annotated[
    int, BeforeValidator(parse_size, json_schema_input_type=str | int), PlainSerializer(_size_text, return_type=str)
]
"""Bytes, written like ``256KiB`` or ``4GiB``."""

Secret = SecretStr
"""A value that never shows in a log, an error or ``config show``."""


class SecretFileError(OSError):
    """A file holds no secret that can be used. ``why`` tells it in a few words, the text names the file too."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.why = why


_MOST_SECRET_BYTES = 2**20
_BYTE_ORDER_MARK = "\ufeff"
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read_secret_file(path: Path) -> str:
    """The content of a file, less a byte order mark and the line ends at its end. Never waits for a writer.

    Raises:
        SecretFileError: it cannot be read, is not a regular file, or is empty.

    """
    try:
        mode = path.stat().st_mode
        content = _first_bytes(path) if stat.S_ISREG(mode) else b""  # to open a FIFO waits for its writer
        text = content.decode().removeprefix(_BYTE_ORDER_MARK).rstrip("\r\n")
    except UnicodeDecodeError:
        raise SecretFileError(path, "it is not UTF-8 text") from None
    except OSError as error:
        raise SecretFileError(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(mode):
        raise SecretFileError(path, f"it is {_KINDS.get(stat.S_IFMT(mode), 'special')}, not a regular file")
    if len(content) > _MOST_SECRET_BYTES:
        raise SecretFileError(path, f"it is larger than {_size_text(_MOST_SECRET_BYTES)}")
    if not text.strip():
        raise SecretFileError(path, "it is empty")
    return text


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_SECRET_BYTES + 1)


def doubts_about(path: Path) -> list[str]:
    """What is odd about a secret's file that can be used. Nothing of its content is shown.

    Raises:
        SecretFileError: as :func:`read_secret_file`.

    """
    text = read_secret_file(path)
    raw = path.read_bytes()
    found = {
        "every user of this host can read it": path.stat().st_mode & stat.S_IROTH,
        "it begins with a byte order mark, which is left out": raw.startswith(_BYTE_ORDER_MARK.encode()),
        "it has line ends of Windows (CRLF)": b"\r" in raw,
        "it begins or ends with white space, which is part of the secret": text != text.strip(),
        "it has several lines, which are all part of the secret": "\n" in text,
    }
    return [doubt for doubt, true in found.items() if true]


class SecretFiles(Options):
    """Gives each ``<key>`` in ``secret_keys`` a twin ``<key>_file``: a file whose content, less its last line
    end, is the secret. The file is read when the secret is needed (:meth:`secret`), so that a rotated one is seen.
    """

    @classmethod
    def secret_keys(cls) -> tuple[str, ...]:
        names = cls.model_fields
        return tuple(name for name in names if f"{name}_file" in names)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        for key in self.secret_keys():
            if getattr(self, key) is not None and getattr(self, f"{key}_file") is not None:
                raise ValueError(f"{key} and {key}_file are both set: keep one")
        return self

    def secret(self, key: str) -> str | None:
        """The secret as it is now, from the value or the file; None where neither is set.

        Raises:
            SecretFileError: the file cannot be used.

        """
        path: Path | None = getattr(self, f"{key}_file")
        if path is not None:
            secret = read_secret_file(path)
        else:
            value: SecretStr | None = getattr(self, key)
            if value is None:
                return None
            secret = value.get_secret_value()
        remember_secret(secret, getattr(self, "username", None))
        return secret


# --- shared fragments ----------------------------------------------------------------------------------------------


# OpenSSL's codes (x509_vfy.h) for certificates against RFC 5280, which Python checks from 3.13 on.
_STRICT_CODES = range(79, 95)


def strict_certificate_hint(error: ssl.SSLCertVerificationError) -> str | None:
    """What to do about a certificate whose form alone is wrong; None where that is not the cause."""
    if error.verify_code not in _STRICT_CODES:
        return None
    return (
        "issue the certificate again: Python 3.13 and newer refuse one that is not as RFC 5280 requires (a CA: "
        "keyUsage with keyCertSign, critical basicConstraints, subjectKeyIdentifier); ca_file is not the cause"
    )


class Tls(SecretFiles):
    """How a connection is secured. Verified by default, against the system's authorities or ``ca_file``."""

    verify: bool = Field(default=True, description="check the peer's certificate and name")
    ca_file: Path | None = Field(
        default=None, description="PEM file of the authorities to trust instead of the system's"
    )
    client_cert: Path | None = Field(default=None, description="PEM file of the client certificate")
    client_key: Path | None = Field(default=None, description="PEM file of its key, where not in client_cert")
    client_key_password: SecretStr | None = Field(default=None, description="of the key, where that is encrypted")
    client_key_password_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A client context of TLS 1.2 or newer.

        Raises:
            OSError: a file is missing or not PEM (``ssl.SSLError`` is one), or the key cannot be decrypted.

        """
        context = ssl.create_default_context(cafile=self.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.load_client_certificate(context)
        return context

    def load_client_certificate(self, context: ssl.SSLContext) -> None:
        """Has a context show the client certificate, where there is one. Raises as :meth:`context`."""
        if self.client_cert is not None:
            key = "client_key_password"
            load_key_pair(context, self.client_cert, self.client_key, lambda: self.secret(key), setting=key)


def load_key_pair(
    context: ssl.SSLContext, certificate: Path, key: Path | None, password: Callable[[], str | None], *, setting: str
) -> None:
    """Loads a certificate and its key, which may be encrypted. Never asks for the password on the terminal.

    ``setting`` is the key of the settings that gives the password, for errors.

    Raises:
        OSError: a file is missing or not PEM (``ssl.SSLError`` is one), or the key cannot be decrypted.

    """
    given: list[str] = []

    def give() -> str:
        text = password()
        if not text:
            raise EncryptedKeyError(f"the private key in {key or certificate} is encrypted: set {setting}_file")
        given.append(text)
        return text

    try:
        context.load_cert_chain(certificate, key, give)
    except ssl.SSLError as error:
        if given:
            raise EncryptedKeyError(f"{setting} does not open the private key in {key or certificate}") from error
        raise
    except ValueError as error:  # OpenSSL takes at most 1,023 bytes of a password
        raise EncryptedKeyError(f"{setting} is not usable: {error}") from error


class EncryptedKeyError(OSError):
    """A private key is encrypted, and no password or the wrong one is set."""


chance_of_jitter = random.SystemRandom().random
"""A number in [0, 1) for :meth:`RetryWaits.delay`; no seed makes two bridges draw the same."""


class RetryWaits(Options):
    """Waits between attempts: exponential with jitter, from ``initial`` to ``max``."""

    initial: Duration = Field(
        default=1.0, gt=0, description="wait after the first failure; doubled after each, less jitter"
    )
    max: Duration = Field(default=300.0, gt=0, description="the longest wait")
    give_up_after: Duration | None = Field(
        default=None, description="age at which an undelivered event becomes a dead letter; null: never"
    )

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait before retry number ``attempt`` (from 1), ``chance`` being uniform in [0, 1).

        Between half and the whole of an exponentially growing wait: never a hot loop, and no two bridges in step.
        """
        longest = min(self.max, self.initial * 2.0 ** min(attempt - 1, 60))
        return longest * (0.5 + chance / 2)


class Batch(Options):
    """How many events go to a sink in one write."""

    max_events: int = Field(default=500, ge=1, le=10_000, description="events in one write, at most")
    max_wait: Duration = Field(default=0.0, ge=0, description="wait this long for a batch to fill")


class Format(StrEnum):
    """The shape of a published event."""

    CLOUDEVENTS = "cloudevents"
    BINARY = "binary"
    RAW = "raw"


def split_list(value: Any) -> Any:
    """``a,b`` as a list, so that a list can be written plainly in an environment variable."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _texts(value: Any) -> Any:
    """As :func:`split_list`; numbers, which YAML makes of what looks like one, are texts again."""
    value = [value] if isinstance(value, int) and not isinstance(value, bool) else split_list(value)
    if not isinstance(value, list | tuple):
        return value
    return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value]


TextList = Annotated[tuple[str, ...], BeforeValidator(_texts)]
"""Several strings; in the environment also separated by commas."""


def _lower_names(value: Any) -> Any:
    value = split_list(value)
    return [str(item).lower() for item in value] if isinstance(value, list | tuple | set) else value


def _known_event_names(value: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in value if name not in EVENT_NAMES]
    if unknown:
        raise ValueError(f"unknown event {unknown[0]!r}: use {', '.join(EVENT_NAMES)}")
    return value


EventNames = Annotated[tuple[str, ...], BeforeValidator(_lower_names)]


class When(Options):
    """Which events a sink wants. An empty list asks for all; ``not_apps`` wins over ``apps``."""

    events: EventNames = Field(default=(), description="event names, in either case; empty: all")
    apps: TextList = Field(default=(), description="shell patterns of app names; empty: all")
    not_apps: TextList = Field(default=(), description="shell patterns of app names to leave out")
    owners: TextList = Field(default=(), description="shell patterns of the users who own the app; empty: all")
    exit_codes: TextList = Field(
        default=(),
        description="of EXIT events, only these codes: 0, 1-255, !0; empty: all",
    )
    labels: dict[str, str] = Field(
        default={}, description="labels of the daemon, each with a shell pattern that its value must match"
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        _known_event_names(self.events)
        for text in self.exit_codes:
            match = _EXIT_CODES.fullmatch(text)
            if match is None or int(match[2]) > int(match[3] or match[2]):
                raise ValueError(f"not an exit code: {text!r} (use 0, 1-255 or !0)")
        return self

    def wants(self, event: str, app: str) -> bool:
        """Whether an event with this lower-case name, of this app, is wanted, as far as names tell."""
        return self.refusal(event, app) is None

    def refusal(self, event: str, app: str) -> str | None:
        """Which rule leaves such an event out; None where none does."""
        if self.events and event not in self.events:
            return f"when.events: {event} is not in it"
        if self.apps and not matches(app, self.apps):
            return f"when.apps: no pattern matches {app}"
        if matches(app, self.not_apps):
            return f"when.not_apps: a pattern matches {app}"
        return None

    def wants_exit(self, code: int) -> bool:
        """Whether an EXIT with this code is wanted."""
        return not self.exit_codes or any(_covers(text, code) for text in self.exit_codes)


def matches(text: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the shell patterns fits."""
    return any(fnmatchcase(text, pattern) for pattern in patterns)


_EXIT_CODES = re.compile(r"(!?)(-?\d+)(?:-(\d+))?")


def _covers(text: str, code: int) -> bool:
    match = _EXIT_CODES.fullmatch(text)
    assert match is not None
    low = int(match[2])
    return (low <= code <= int(match[3] or low)) != bool(match[1])


class Reshape(Options):
    """How the ``data`` of an event is changed on its way to a sink."""

    drop: TextList = Field(default=(), description="fields to leave out; a.b is b inside a")
    add: dict[str, Any] = Field(default={}, description="fields to set, with their values")


class Selection(Options):
    """What of all events a sink gets, and in what shape."""

    when: When = Field(default=When(), description="which events this sink gets")
    reshape: Reshape | None = Field(default=None, description="fields of an event's data to drop or to add")
    sample: float = Field(default=1.0, ge=0, le=1, description="share of STDOUT events that this sink gets")
    rate_limit: float | None = Field(
        default=None, gt=0, description="STDOUT events a second of each app; what is above is left out; null: all"
    )
