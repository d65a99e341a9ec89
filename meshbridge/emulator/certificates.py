"""The daemon's own throw-away authority and the server certificate that it signs."""

import ipaddress
import ssl
from pathlib import Path

from meshbridge.emulator.errors import NotInstalled

NAMES = ("localhost", "127.0.0.1", "::1")


def certificates(directory: Path, host: str) -> Path:
    """Makes ``ca.pem``, ``server.pem``, ``client.pem`` and their keys where they are missing; gives the CA's file.

    The authority stays for good: clients have its file. A new server certificate is made for a host that the
    present one does not name.

    Raises:
        NotInstalled: there is no ``trustme``.

    """
    try:
        import trustme  # noqa: PLC0415 only the extra `demo` has it
    except ImportError as error:
        raise NotInstalled(error.name or "trustme") from error
    ca_file, ca_key, named = directory / "ca.pem", directory / "ca-key.pem", directory / "server.names"
    if ca_file.exists():
        ca = trustme.CA.from_pem(ca_file.read_bytes(), ca_key.read_bytes())
    else:
        ca = trustme.CA(organization_name="meshbridge emulator", organization_unit_name="throw-away authority")
        ca.cert_pem.write_to_path(str(ca_file))
        _write_private(ca_key, ca.private_key_pem.bytes())
    names = sorted({*NAMES, *_extra_names(host)})
    if not named.exists() or named.read_text().split() != names:
        leaf = ca.issue_cert(*names)
        (directory / "server.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        _write_private(directory / "server-key.pem", leaf.private_key_pem.bytes())
        named.write_text("\n".join(names))
    if not (directory / "client.pem").exists():
        client = ca.issue_cert("client@appmesh.example")
        (directory / "client.pem").write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))
        _write_private(directory / "client-key.pem", client.private_key_pem.bytes())
    return ca_file


def server_context(directory: Path, *, verify_client: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
    if verify_client:
        context.load_verify_locations(directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _extra_names(host: str) -> list[str]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return [host]
    return [] if address.is_unspecified else [str(address)]


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
