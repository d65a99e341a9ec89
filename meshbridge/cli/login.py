"""``meshbridge login``."""

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshbridge.cli.options import ConfigOption, JsonOption, load_settings
from meshbridge.cli.output import FAILED, WRONG_USAGE, complain, fail, show, show_json

if TYPE_CHECKING:
    from pathlib import Path

    from meshbridge.appmesh.oauth import OAuthClient
    from meshbridge.link import DaemonOptions

__all__ = ["login"]

_SECONDS = 30.0
_AGENT_PORT = 6060


def login(
    daemon: Annotated[str, typer.Argument(help="A daemon of the configuration, of App Mesh 3.x.")],
    access_url: Annotated[
        str | None,
        typer.Option(help="Where the issuer is reached; by default as the configuration or the daemon's host says."),
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write the token to the daemon's token_file.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Log in at a daemon's issuer in a browser, and print the token, for example for curl.

    It is yours, not the bridge's, and good for a few minutes. Prompts go to standard error. Exit code 1 where the login
    is refused or not confirmed in time.
    """
    options = load_settings(config).daemons.get(daemon)
    if options is None:
        fail(f"there is no daemon {daemon!r} in the configuration", WRONG_USAGE)
    if save and options.token_file is None:
        fail(f"--save needs daemons.{daemon}.token_file in the configuration", WRONG_USAGE)
    from meshbridge.appmesh import AppMeshError, AppMeshNotOfferedError

    try:
        with contextlib.closing(_issuer_of(options, access_url)) as issuer:
            tokens = issuer.wait_for_device_authorization(issuer.device_authorization(), _prompt)
    except AppMeshNotOfferedError:
        fail(f"{daemon} is of App Mesh 2.x, which has no issuer: log in with username and password", FAILED)
    except (AppMeshError, ValueError) as error:
        fail(f"login refused: {error}", FAILED)
    if save and options.token_file is not None:
        _write(options.token_file, str(tokens["access_token"]))
        complain(f"token written to {options.token_file}")
    elif as_json:
        show_json({"access_token": tokens["access_token"], "expires_in": tokens.get("expires_in")})
    else:
        show(tokens["access_token"])


def _issuer_of(options: "DaemonOptions", access_url: str | None) -> "OAuthClient":
    """The issuer of the settings, or the one that comes with the daemon: reached at the daemon's host, which is known.

    Raises:
        AppMeshError: the daemon cannot be asked.
        ValueError: the daemon names an issuer that the settings don't.

    """
    from urllib.parse import urlsplit

    from meshbridge.appmesh import AppMeshClient, OAuthClient
    from meshbridge.appmesh.addresses import is_loopback
    from meshbridge.link.connections import new_login_exchange
    from meshbridge.link.options import ssl_verify

    with AppMeshClient(exchange=new_login_exchange(options, _SECONDS), request_timeout=(_SECONDS, _SECONDS)) as client:
        told = client.get_auth_config()
    issuer = str(told.get("issuer") or "")
    oidc = options.oidc
    if access_url is None and oidc is not None:
        access_url = oidc.access_url or (oidc.issuer if oidc.issuer and not is_loopback(oidc.issuer) else None)
    host = options.address[0]
    place = f"[{host}]" if ":" in host else host
    if access_url is None and is_loopback(issuer):
        local = is_loopback(f"//{place}")
        access_url = issuer if local else f"https://{place}:{_AGENT_PORT}{urlsplit(issuer).path}"
    if access_url is None:
        raise ValueError(f"the daemon names the issuer {issuer!r}: if it is yours, give --access-url {issuer}")
    tls = oidc.tls if oidc is not None else options.tls
    scopes: Any = told.get("scopes")
    return OAuthClient(
        None,
        issuer,
        access_url,
        str(told.get("public_client_id") or "appmesh-cli"),
        scopes=scopes.split() if isinstance(scopes, str) else scopes,
        ssl_verify=ssl_verify(tls),
        refresh_token=False,
    )


def _prompt(device: dict[str, Any]) -> None:
    address = device.get("verification_uri_complete") or device.get("verification_uri")
    complain(f"open {address} and confirm the code {device.get('user_code')}")


def _write(path: "Path", token: str) -> None:
    """A new file of mode 0600 in its place: a bridge that reads it sees all of it or none."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 needs the mode
            file.write(f"{token}\n")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
