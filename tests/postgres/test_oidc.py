"""People who come with an identity provider's token. The provider is a real HTTP server with keys of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import DatabaseRestored, InvalidInput, StackUnreachable, Unauthenticated
from prebuilds.operations.access import CACHE_S, Gate
from prebuilds.operations.oidc import LEEWAY_S, LOOK_AGAIN_S, IdentityProvider
from prebuilds.settings import load_settings
from prebuilds.settings.oidc import OidcRules, parse_group_scopes
from prebuilds.vocabulary.scopes import parse_scope
from tests.builders import make_preset
from tests.rows import do, one

LAST_REFUSAL = "SELECT data ->> 'why' AS why FROM events WHERE kind = 'token_refused' ORDER BY id DESC LIMIT 1"
SCOPES = "*=claim; operators=read operate:acme; owners=admin"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Provider:
    """An identity provider with some keys, which counts how often they are read."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"first": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.read = 0
        self.issuer_in_document: str | None = None
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/keys":
                    provider.read += 1
                    document = {"keys": [provider.published(name) for name in provider.keys]}
                else:
                    document = {
                        "issuer": provider.issuer_in_document or provider.issuer,
                        "jwks_uri": f"{provider.issuer}/keys",
                    }
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def published(self, name: str) -> dict[str, Any]:
        key = self.keys[name]
        kind: Any = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        return kind.to_jwk(key.public_key(), as_dict=True) | {"kid": name, "use": "sig"}

    def token(self, key: str = "first", algorithm: str = "RS256", header: Any = None, **claims: Any) -> str:
        now = int(time.time())
        payload = {"iss": self.issuer, "aud": "prebuilds", "sub": "alice", "iat": now, "exp": now + 300} | claims
        payload = {name: value for name, value in payload.items() if value is not ...}
        return jwt.encode(
            payload, self.keys.get(key, key), algorithm, headers={"kid": key} if header is None else header
        )

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


GateOf = Callable[..., Gate]


@pytest.fixture
def gate_of(engine: AsyncEngine, provider: Provider, clock: Clock) -> GateOf:
    def make(user_claim: str = "sub", issuer: str | None = None) -> Gate:
        rules = OidcRules(issuer or provider.issuer, "prebuilds", user_claim, "groups", parse_group_scopes(SCOPES))
        return Gate(engine, clock, IdentityProvider(rules, clock))

    return make


async def why_refused(engine: AsyncEngine, gate: Gate, token: str) -> str:
    with pytest.raises(Unauthenticated):
        await gate.authenticate(token)
    await gate.drain()
    gate._refusals.clear()  # otherwise the next reason would only be counted
    return str((await one(engine, LAST_REFUSAL)).why)


async def test_a_person_has_the_scopes_of_their_groups_and_their_own_name(
    engine: AsyncEngine, gate_of: GateOf, provider: Provider
) -> None:
    await make_preset(engine)  # alice is a member
    gate = gate_of()
    actor = await gate.authenticate(provider.token(groups=["operators", "others"]))
    assert (actor.name, actor.user, actor.token_id) == ("alice", "alice", None)
    assert {str(scope) for scope in actor.scopes} == {"claim", "read", "operate:acme"}
    assert {str(s) for s in (await gate.authenticate(provider.token(sub="Alice", groups="owners"))).scopes} == {
        "claim",
        "admin",
    }
    assert (await gate.authenticate(provider.token(sub="Alice"))).name == "alice", "as she is known here"
    assert (await gate.authenticate(provider.token(sub="stranger"))).user == "stranger", (
        "a claim names the unknown user"
    )
    assert provider.read == 1, "the keys are read once"


async def test_only_the_providers_own_valid_token_is_accepted(
    engine: AsyncEngine, gate_of: GateOf, provider: Provider
) -> None:
    gate = gate_of()
    await gate.authenticate(provider.token())
    now = int(time.time())
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    payload = {"iss": provider.issuer, "aud": "prebuilds", "sub": "alice", "iat": now, "exp": now + 60}
    forged = jwt.encode(payload, other, "RS256", headers={"kid": "first"})
    for token, why in {
        provider.token(aud="somebody-else"): "Audience",
        provider.token(iss="http://evil.example"): "issuer",
        provider.token(exp=now - LEEWAY_S - 5): "expired",
        provider.token(exp=...): "exp",
        provider.token(nbf=now + LEEWAY_S + 60): "not yet valid",
        provider.token(sub=...): "sub",
        provider.token(sub="prebuilds"): "its sub",
        provider.token(sub="a b/c"): "its sub",
        provider.token(groups={"a": 1}): "groups is no list",
        forged: "Signature",
        jwt.encode({"sub": "alice"}, "x" * 32, "HS256", headers={"kid": "first"}): "alg",
        jwt.encode({"sub": "alice"}, None, "none", headers={"kid": "first"}): "malformed",
        "a.b.c": "not the identity provider's",
        "not-a-token": "malformed",
    }.items():
        assert why.lower() in (await why_refused(engine, gate, token)).lower()


async def test_an_address_counts_only_where_the_provider_has_verified_it(
    engine: AsyncEngine, gate_of: GateOf, provider: Provider
) -> None:
    gate = gate_of("email")
    good = provider.token(email="alice@example.com", email_verified=True)
    assert (await gate.authenticate(good)).name == "alice@example.com"
    assert "not verified" in await why_refused(engine, gate, provider.token(email="alice@example.com"))


async def test_a_new_key_is_found_and_invented_ones_make_no_requests(
    engine: AsyncEngine, gate_of: GateOf, provider: Provider, clock: Clock
) -> None:
    gate = gate_of()
    await gate.authenticate(provider.token())
    provider.keys["second"] = ec.generate_private_key(ec.SECP256R1())
    signed = provider.token("second", "ES256")
    assert "none of the provider's keys" in await why_refused(engine, gate, signed), "read a moment ago"
    clock.now += LOOK_AGAIN_S + 1
    assert (await gate.authenticate(signed)).name == "alice"
    for n in range(20):
        await why_refused(engine, gate, provider.token("second", "ES256", {"kid": f"invented-{n}"}))
    assert provider.read == 2


async def test_cached_keys_serve_during_an_outage_of_the_provider(
    engine: AsyncEngine, gate_of: GateOf, provider: Provider, clock: Clock
) -> None:
    gate, late = gate_of(), gate_of()
    token, again = provider.token(), provider.token(sub="bob")
    await gate.authenticate(token)
    provider.issuer_in_document = "http://another.example"
    clock.now += 4000
    assert (await gate.authenticate(again)).name == "bob"
    with pytest.raises(StackUnreachable, match="keys of the identity provider"):
        await late.authenticate(token)


async def test_a_disabled_user_and_a_restored_database_refuse(
    engine: AsyncEngine, gate_of: GateOf, provider: Provider, clock: Clock
) -> None:
    await make_preset(engine)
    gate = gate_of()
    token = provider.token()
    await gate.authenticate(token)
    await do(engine, "UPDATE users SET disabled_at = now() WHERE name = 'alice'")
    clock.now += CACHE_S
    assert await why_refused(engine, gate, token) == "user_disabled"
    await do(engine, "UPDATE settings SET restore_found_at = now(), restore_found = 'host h1'")
    clock.now += CACHE_S
    with pytest.raises(DatabaseRestored):
        await gate.authenticate(token)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"ISSUER": "http://idp.example"}, "ISSUER"),
        ({"ISSUER": "https://idp.example", "SCOPES": "*=claim"}, "AUDIENCE"),
        ({"ISSUER": "https://idp.example", "AUDIENCE": "x"}, "SCOPES"),
        ({"ISSUER": "https://idp.example", "AUDIENCE": "x", "SCOPES": "owners"}, "SCOPES"),
        ({"ISSUER": "https://idp.example", "AUDIENCE": "x", "SCOPES": "owners=root"}, "SCOPES"),
        ({"ISSUER": "https://idp.example", "AUDIENCE": "x", "SCOPES": "a=claim; a=read"}, "SCOPES"),
    ],
)
def test_conflicting_settings_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], name: str
) -> None:
    for key, value in settings.items():
        monkeypatch.setenv(f"PREBUILDS_OIDC_{key}", value)
    with pytest.raises(InvalidInput) as wrong:
        load_settings()
    assert list(wrong.value.details) == [f"PREBUILDS_OIDC_{name}"]


def test_a_group_may_have_any_name() -> None:
    read = parse_group_scopes("cn=owners,dc=example=admin; *=claim read:acme;")
    assert read.scopes_of(["cn=owners,dc=example"]) == set(map(parse_scope, ("admin", "claim", "read:acme")))
    assert read.scopes_of([]) == set(map(parse_scope, ("claim", "read:acme")))
