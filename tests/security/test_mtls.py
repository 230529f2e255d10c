"""Client certificates as callers: real handshakes, through both doors, and which certificate is whose."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509

from handlers.local.peers import certified
from handlers.local.protocol_h11 import StrictH11Protocol
from handlers.local.server import ServeOptions, check_exposure, make_config
from router_core.errors import Misconfigured, Unauthorized
from router_core.http.message import Request
from router_core.identity import Identity
from router_core.security.certificates import PEER, ClientCertificates, Peer
from router_core.settings import Settings
from router_core.stores.state_memory import MemoryStateStore
from router_core.telemetry.events import Events
from router_core.testing.clock import FakeClock
from tests.local.tiny_app import TinyApp, served
from tests.security.keys_parts import asking

KEY = "0123456789abcdef-ann"
MAPPING = "spiffe://corp/ns/*/batch=admin@ws-1, *.jobs.internal=admin, cn:legacy box*=admin"
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server is, and who signs certificates that it verifies."""

    port: int
    authority: trustme.CA
    folder: Path


def app(**settings: Any) -> TinyApp:
    """Return an app whose callers are known by the settings."""
    given = Settings(client_certificates=MAPPING, api_keys=f"ann:{KEY}", **settings)
    clock = FakeClock(time.time())
    identity = Identity(given, clock, Events(), lambda: MemoryStateStore(clock))
    return TinyApp(
        authenticator=identity.authenticator, taskless=["/echo"], client_certificates=MAPPING, **settings
    )


@pytest.fixture(scope="module", params=["direct", "asgi", "h11"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server that asks for certificates, by each of its doors."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    own = authority.issue_cert("localhost")
    own.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    options = ServeOptions(
        certfile=str(folder / "server.pem"), client_ca=str(folder / "ca.pem"),
        direct=request.param == "direct",
    )  # fmt: skip
    protocol = certified(StrictH11Protocol) if request.param == "h11" else None
    with served(app(tls_min="1.3"), options=options, protocol=protocol) as port:
        yield Place(port, authority, folder)


def ask(
    place: Place, leaf: trustme.LeafCert | None, headers: dict[str, str] | None = None, times: int = 3
) -> tuple[int, str]:
    """Ask over one connection, several times; return status and caller, the same each time."""
    context = ssl.create_default_context()
    place.authority.configure_trust(context)
    if leaf is not None:
        leaf.configure_cert(context)
    connection = http.client.HTTPSConnection("localhost", place.port, context=context, timeout=10)
    seen = set()
    try:
        for _ in range(times):
            connection.request(
                "POST", "/echo", b"{}", {"content-type": "application/json", **(headers or {})}
            )
            answer = connection.getresponse()
            seen.add((answer.status, json.loads(answer.read()).get("principal", "")))
    finally:
        connection.close()
    assert len(seen) == 1
    status, caller = seen.pop()
    return status, caller


def leaf(place: Place, uri: str = "", dns: str = "", common: str = "") -> trustme.LeafCert:
    """Return a certificate of the authority with these names."""
    names = [dns] if dns else []
    if not uri:
        return place.authority.issue_cert(*names, common_name=common or None)
    return _with_uri(place.authority, uri, dns)


def _with_uri(authority: trustme.CA, uri: str, dns: str) -> trustme.LeafCert:
    """trustme issues DNS names, addresses and mail alone: say a URI where it would say mail."""
    import trustme as library

    kept = library._identity_string_to_x509
    library._identity_string_to_x509 = lambda identity: (
        x509.UniformResourceIdentifier(identity) if "://" in identity else kept(identity)
    )
    try:
        return authority.issue_cert(*([dns] if dns else []), uri)
    finally:
        library._identity_string_to_x509 = kept


def test_a_certificate_is_its_holder(place: Place) -> None:
    """By a URI, a DNS name, or a common name where there is no other."""
    assert ask(place, leaf(place, uri="spiffe://corp/ns/blue/batch")) == (
        200,
        "cert:spiffe://corp/ns/blue/batch",
    )
    assert ask(place, leaf(place, dns="one.jobs.internal")) == (200, "cert:one.jobs.internal")


def test_one_that_nothing_fits_is_nobody(place: Place) -> None:
    """A name inside another, of another kind, or with one part too many."""
    for other in (
        leaf(place, dns="jobs.internal"), leaf(place, dns="a.b.jobs.internal"),
        leaf(place, dns="one.jobs.internal.evil.example"), leaf(place, uri="spiffe://corp/ns/a/b/batch"),
        leaf(place, dns="other.example", common="legacy box"),
    ):  # fmt: skip
        assert ask(place, other) == (401, "")


def test_a_key_decides_for_a_certificate_of_nobody(place: Place) -> None:
    """It has been verified, and says nothing."""
    headers = {"authorization": f"Bearer {KEY}"}
    assert ask(place, leaf(place, dns="other.example"), headers) == (200, "ann")


def test_a_key_beside_a_certificate_is_refused(place: Place) -> None:
    """Which of them is meant would be a guess; also where the key is wrong."""
    for key in (KEY, "wrong-wrong-wrong-wrong"):
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            assert ask(place, leaf(place, dns="one.jobs.internal"), headers) == (401, "")


def test_headers_are_no_certificates(place: Place) -> None:
    """Whatever a proxy might call them."""
    for name in ("x-forwarded-client-cert", "x-client-cert", "x-ssl-client-s-dn", "ssl-client-cert"):
        headers = {name: 'By=x;URI=spiffe://corp/ns/blue/batch;Subject="CN=legacy box"'}
        assert ask(place, leaf(place, dns="other.example"), headers) == (401, "")


def test_without_a_certificate_there_is_no_connection(place: Place) -> None:
    """Nor with one of another authority."""
    for other in (None, trustme.CA().issue_cert("one.jobs.internal")):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
            ask(place, other)


def test_old_versions_of_tls_are_refused(place: Place) -> None:
    """With the setting even 1.2."""
    context = ssl.create_default_context()
    place.authority.configure_trust(context)
    leaf(place, dns="one.jobs.internal").configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = http.client.HTTPSConnection("localhost", place.port, context=context, timeout=10)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connection.request("GET", "/echo")
    connection.close()


FOUND: list[tuple[str, Peer, str]] = [
    ("*=viewer", Peer(dns=("a.example",)), "cert:a.example"),
    ("*=viewer", Peer(common_name="box"), "cert:box"), ("*=viewer", Peer(), ""),
    ("*=viewer", Peer(common_name="a\nb"), ""),
    ("a.example=viewer", Peer(dns=("A.Example",)), "cert:a.example"),
    ("a.example=viewer", Peer(uris=("a.example",)), ""),
    ("a.example=viewer", Peer(common_name="a.example"), ""),
    ("cn:box=viewer", Peer(common_name="box"), "cert:box"),
    ("cn:box=viewer", Peer(dns=("b.example",), common_name="box"), ""),
    ("**.example=viewer", Peer(dns=("a.b.example",)), "cert:a.b.example"),
    ("*.example=viewer", Peer(dns=(".example",)), ""), ("*.example=viewer", Peer(dns=("a-example",)), ""),
    ("spiffe://x/**=viewer", Peer(uris=("spiffe://x/a/b",)), "cert:spiffe://x/a/b"),
    ("spiffe://x/*=viewer", Peer(uris=("spiffe://x/a/b",)), ""),
    ("spiffe://x/a?b=1=viewer", Peer(uris=("spiffe://x/a?b=1",)), "cert:spiffe://x/a?b=1"),
    ("b.example=viewer, a.example=admin", Peer(dns=("a.example", "b.example")), "cert:b.example"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "peer", "who"), FOUND, ids=range(len(FOUND)))
def test_which_certificate_is_whose(setting: str, peer: Peer, who: str) -> None:
    """Names of one kind are never taken for another, and a star stays within its part."""
    clock = FakeClock()
    valid = Peer(peer.uris, peer.dns, peer.common_name, clock.now() + HOUR)
    found = ClientCertificates.from_setting(setting, clock).holder(
        Request("GET", "/", native={"extensions": {PEER: valid}})
    )
    assert (found[0].id if found is not None else "") == who
    if found is not None:
        assert found[1] == clock.monotonic() + HOUR
        assert found[0].kind == "certificate"


@pytest.mark.parametrize(("rooms", "usual"), [("a|b", ""), ("a", "a")], ids=["two", "one"])
def test_a_certificate_for_several_workspaces_has_no_usual_one(rooms: str, usual: str) -> None:
    """A call names its own."""
    clock = FakeClock()
    peer = Peer(dns=("a.example",), until=clock.now() + HOUR)
    certificates = ClientCertificates.from_setting(f"*=viewer@{rooms}", clock)
    found = certificates.holder(Request("GET", "/", native={"extensions": {PEER: peer}}))
    assert found is not None
    assert found[0].workspace == usual


def test_it_ends_with_its_certificate() -> None:
    """Also on a connection that was made before."""
    clock = FakeClock()
    certificates = ClientCertificates.from_setting("*=viewer", clock)
    peer = Peer(dns=("a.example",), until=clock.now() + 10)
    request = Request("GET", "/", native={"extensions": {PEER: peer}})
    assert certificates.holder(request) is not None
    clock.advance(10)
    assert certificates.holder(request) is None


async def test_what_a_platform_says_in_its_event_is_none() -> None:
    """Only what our own server has made of a handshake is."""
    clock = FakeClock()
    settings = Settings(client_certificates="*=admin")
    identity = Identity(settings, clock, Events(), lambda: MemoryStateStore(clock))
    assert identity.authenticator is not None
    for native in ({}, {"extensions": None}, {"extensions": {PEER: {"dns": ["a"]}}}, {"extensions": "x"}):
        with pytest.raises(Unauthorized):
            await identity.authenticator.authenticate(Request("GET", "/", native=native))
    with pytest.raises(Unauthorized):
        await identity.authenticator.authenticate(asking(KEY))


@pytest.mark.parametrize(
    "setting", ["x", "=viewer", "a.example=", "a.example=viewer@", "a.example=viewer@/x", " , ", "@/no/such"]
)
def test_a_mapping_that_cannot_be_read_is_refused(setting: str) -> None:
    """At the start."""
    with pytest.raises(Misconfigured, match="ROUTER_CLIENT_CERTIFICATES"):
        ClientCertificates.from_setting(setting, FakeClock())


def test_a_file_of_mappings(tmp_path: Path) -> None:
    """One a line, with comments."""
    path = tmp_path / "certificates"
    path.write_text("# ours\n*.jobs.internal = developer  # workers\n\n")
    clock = FakeClock()
    peer = Peer(dns=("a.jobs.internal",), until=clock.now() + HOUR)
    found = ClientCertificates.from_setting(f"@{path}", clock).holder(
        Request("GET", "/", native={"extensions": {PEER: peer}})
    )
    assert found is not None
    assert found[0].may("models:call")


def test_a_mapping_needs_somebody_who_asks_for_certificates() -> None:
    """A server without --client-ca would never see one."""
    app = TinyApp(client_certificates=MAPPING)
    with pytest.raises(Misconfigured, match="--client-ca"):
        make_config(None, app, ServeOptions())


@pytest.mark.parametrize(
    "settings",
    [{"keys": "state"}, {"jwt_issuer": "x"}, {"client_certificates": "*=viewer"}, {"api_keys": f"a:{KEY}"}],
    ids=["state", "jwt", "certificates", "keys"],
)
def test_an_address_may_be_public_where_callers_have_to_say_who_they_are(settings: dict[str, str]) -> None:
    """In whichever way; without any it is refused as ever."""
    check_exposure(Settings(**{"host": "0.0.0.0", **settings}), ServeOptions())  # type: ignore[arg-type]
    with pytest.raises(Misconfigured, match="refusing to serve"):
        check_exposure(Settings(host="0.0.0.0"), ServeOptions())
