"""The server's address, its token, and the trusted certificates."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from prebuilds.api import (
    InvalidInput,
    StackUnreachable,
)
from prebuilds.client.over_http import HttpClient
from prebuilds.remote import address, routes
from prebuilds.remote.address import read_address
from prebuilds.remote.routes import ROUTES
from prebuilds.remote.transport import Transport, open_transport

TOKEN = "pbt_secret"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_warned_addresses", set())
    monkeypatch.delenv("PREBUILDS_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://example.com/", "https://example.com"),
        (" http://127.0.0.1:8080/prebuilds// ", "http://127.0.0.1:8080/prebuilds"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
    ],
)
def test_an_address_keeps_its_path_and_loses_its_slash(url: str, base: str) -> None:
    assert read_address(url, "t").url == base


@pytest.mark.parametrize(
    "url", ["", "example.com", "ftp://x", "http://", "http://x:99999", "http://a:s3cret@x", "http://x/?s3cret", "//x#y"]
)
def test_another_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_address(url, "t")
    assert list(refused.value.details) == ["PREBUILDS_URL"]
    assert "s3cret" not in str(refused.value)


def test_a_token_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PREBUILDS_TOKEN", TOKEN)
    with caplog.at_level("WARNING"):
        for _ in range(2):
            server = read_address("http://example.com")
        read_address("http://localhost:1")
        read_address("http://[::1]:1")
        read_address("https://example.com")
    assert server.token == TOKEN
    assert [record.getMessage() for record in caplog.records] == [
        "The token travels readable to http://example.com: use https"
    ]
    assert TOKEN not in repr(server) + repr(Transport(server)) + repr(HttpClient(Transport(server))) + caplog.text
    monkeypatch.setenv("PREBUILDS_TOKEN", "pbt_se\ncret")
    with pytest.raises(InvalidInput) as refused:
        read_address("http://localhost:1")
    assert "se" not in refused.value.message.replace("PREBUILDS", "").replace("spaces", "")


def test_dots_alone_are_no_folder() -> None:
    assert routes.GET_CLAIM.address({"claim_id": ".."}) == "/v1/claims/%2E%2E"
    assert routes.GET_CLAIM.address({"claim_id": "a.b/ü"}) == "/v1/claims/a.b%2F%C3%BC"
    assert len(ROUTES) > 40


async def test_another_authority_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ours")]), datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    certificate = made.add_extension(address, critical=False).sign(key, hashes.SHA256())
    (tmp_path / "cert").write_bytes(certificate.public_bytes(Encoding.PEM))
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{"status": "ok"}')
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(StackUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await open_transport(url, TOKEN)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        await (await open_transport(url, TOKEN)).close()
