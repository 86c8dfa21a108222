"""TLS before servers that have none in tests: certificates of an authority of their own, and a port that unwraps."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What a client of PostgreSQL sends before TLS, in plain."""
T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Certificate(NamedTuple):
    """The files of a certificate and its key."""

    cert: str
    key: str


class Authority:
    """Signs certificates. `cert` is the file of the trusted authority."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name = folder, _named(f"prebuilds tests {name}")
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.BasicConstraints(ca=True, path_length=None)
        made = _begun(self._name, self._name, self._key, days=1).add_extension(usage, critical=True)
        self.cert = str(_written(folder / f"{name}.pem", made.sign(self._key, hashes.SHA256())))

    def sign(self, name: str, *, host: str = "localhost", days: int = 1) -> Certificate:
        """Make a certificate of *host* and 127.0.0.1. It expires in *days* days, in the past if negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = _begun(_named(name), self._name, key, days).add_extension(x509.SubjectAlternativeName(hosts), False)
        cert = _written(self._folder / f"{name}.pem", made.sign(self._key, hashes.SHA256()))
        key_file = self._folder / f"{name}.key"
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Certificate(str(cert), str(key_file))


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _begun(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    end = datetime.now(UTC) + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=2))
        .not_valid_after(end)
    )


def _written(path: Path, made: x509.Certificate) -> Path:
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


def server_context(own: Certificate, clients: Authority | None = None) -> ssl.SSLContext:
    """Return a server's context; *clients* signs the required client certificates, None requires none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients.cert if clients else None)
    context.load_cert_chain(own.cert, own.key)
    context.verify_mode = ssl.CERT_REQUIRED if clients else ssl.CERT_NONE
    return context


@contextmanager
def tls_before_temporal(address: str, context: ssl.SSLContext) -> Iterator[str]:
    """The address of a port that unwraps TLS for the server at *address*."""
    host, _, port = address.rpartition(":")
    context.set_alpn_protocols(["h2"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join((reader, writer), await asyncio.open_connection(host, int(port)))

    with _listening(serve, context) as own:
        yield f"127.0.0.1:{own}"


@contextmanager
def tls_before_postgres(socket: Path, context: ssl.SSLContext) -> Iterator[int]:
    """A port that unwraps TLS for the server at the Unix socket; it refuses plain connections as `hostssl` does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
            writer.close()
            return
        writer.write(b"S")
        await writer.start_tls(context)
        await _join((reader, writer), await asyncio.open_unix_connection(str(socket)))

    with _listening(serve) as own:
        yield own


@contextmanager
def _listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Serve connections in a separate loop and thread: the client may block the test's loop."""
    loop = asyncio.new_event_loop()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client who does not trust us leaves. Cancelled at the end: asyncio would print it.
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.transport.abort()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    server = run(asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        run(_end(server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # else the transports' own ends would not run


async def _join(one: Streams, other: Streams) -> None:
    """Carry bytes both ways, until either side ends."""
    ways = {asyncio.create_task(_carry(one[0], other[1])), asyncio.create_task(_carry(other[0], one[1]))}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        other[1].transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while got := await reader.read(65_536):
        writer.write(got)
        await writer.drain()
