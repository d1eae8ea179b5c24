"""A hub on loopback with one repository, in plain HTTP or, as any web server, in TLS."""

import hashlib
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typing_extensions import override

__all__ = ["COMMIT", "Hub", "certified", "hub"]

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What it holds as ``owner/name``, and how it answers; tests change both."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}
        """What is sent in place of a file, while the listing tells the truth."""
        self.redirects: dict[str, str] = {}
        self.status = 200
        self.paths: list[str] = []

    def listing(self) -> bytes:
        """Return what the hub's API says of the repository."""
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "lfs": {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 1,
                },
            }
            for name, data in self.files.items()
        ]
        return json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode()

    def content(self, path: str) -> bytes | None:
        """Return what lies at a path, None if nothing does."""
        path = path.partition("?")[0]
        if path.startswith("/api/models/owner/name/revision/"):
            return self.listing()
        name = path.removeprefix(f"/owner/name/resolve/{COMMIT}/").removeprefix("/")
        return self.sent.get(name, self.files.get(name))


@contextmanager
def hub(context: ssl.SSLContext | None = None) -> Iterator[Hub]:
    """Run the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.paths.append(self.path)
            content = running.content(self.path)
            if location := running.redirects.get(self.path):
                self.send_response_only(302)
                self.send_header("Location", location)
            elif content is None:
                self.send_response_only(404)
                self.send_header("X-Error-Code", "RepoNotFound")
            else:
                self.send_response_only(running.status)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        @override
        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    running = Hub(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of a server on 127.0.0.1 and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    day = timedelta(days=1)
    now = datetime.now(UTC)
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=str(folder / "certificate.pem"))
