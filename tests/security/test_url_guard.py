"""Which URLs may be connected to: a table of those that may and those that must not."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from router_core.security.url_guard import Target, UrlGuard, UrlRefused, is_public, system_resolve

PUBLIC = "93.184.216.34"

NAMES: dict[str, Sequence[str]] = {
    "example.com": [PUBLIC],
    "dual.example.com": ["2606:2800:220:1:248:1893:25c8:1946", PUBLIC],
    "under_score.example.com": [PUBLIC],
    "xn--bcher-kva.example": [PUBLIC],
    "loop.example.com": ["127.0.0.1"],
    "mixed.example.com": [PUBLIC, "10.0.0.7"],
    "mapped.example.com": ["::ffff:169.254.169.254"],
    "nat64.example.com": ["64:ff9b::5db8:d822"],
    "nat64-private.example.com": ["64:ff9b::a00:1"],
    "scoped.example.com": ["2606:4700::1111%eth0"],
    "nothing.example.com": [],
    "rubbish.example.com": ["not an address"],
    "intranet": ["10.0.0.7"],
}


async def resolve(host: str, port: int) -> Sequence[str]:
    """Answer from the table above. Any other name is public, so that only the guard can refuse it."""
    if host == "unknown.example.com":
        raise OSError("no such name")
    return NAMES.get(host, [PUBLIC])


GUARD = UrlGuard(resolve=resolve)

ALLOWED = [
    ("http://example.com", "http://example.com/"),
    ("https://example.com/", "https://example.com/"),
    ("HTTPS://EXAMPLE.COM/A?b=C#frag", "https://example.com/A?b=C"),
    ("https://example.com.:443/", "https://example.com/"),
    ("https://example.com:8443/x", "https://example.com:8443/x"),
    ("http://example.com:8080/x", "http://example.com:8080/x"),
    ("http://example.com?q=1", "http://example.com/?q=1"),
    ("https://example.com/ä/%20?q=ü", "https://example.com/%C3%A4/%20?q=%C3%BC"),
    ("https://example.com//double?u=http://127.0.0.1/", "https://example.com//double?u=http://127.0.0.1/"),
    ("https://example.com/a@b", "https://example.com/a@b"),
    ("https://dual.example.com/", "https://dual.example.com/"),
    ("https://under_score.example.com/", "https://under_score.example.com/"),
    ("https://bücher.example/", "https://xn--bcher-kva.example/"),
    ("https://\uff45\uff58\uff41mple\u3002com/", "https://example.com/"),
    ("https://nat64.example.com/", "https://nat64.example.com/"),
    (f"http://{PUBLIC}/", f"http://{PUBLIC}/"),
    ("http://[2606:2800:220:1:248:1893:25C8:1946]/", "http://[2606:2800:220:1:248:1893:25c8:1946]/"),
    ("http://[2606:4700::1111]:8080/", "http://[2606:4700::1111]:8080/"),
]

REFUSED = [
    # addresses of this machine and of private networks
    "http://127.0.0.1/",
    "http://127.255.255.254/",
    "http://0.0.0.0/",
    "http://0.1.2.3/",
    "http://10.1.2.3/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/",
    "http://192.0.0.192/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    # other spellings of addresses
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0x/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0/",
    "http://127.0.0.1./",
    "http://127.0.0.01/",
    "http://93.184.216.034/",
    "http://1.2.3.4.5/",
    "http://example.com.1/",
    "http://256.1.1.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://%31%32%37.0.0.1/",
    # IPv6
    "http://[::]/",
    "http://[::1]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:5db8:d822::1]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[100::1]/",
    "http://[5f00::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[2606:4700::1111%25eth0]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[2606:4700::5efe:7f00:1]/",
    "http://[2606:4700::200:5efe:a00:1]/",
    "http://[::1",
    "http://[::1]evil.example/",
    "http://[2606:4700::1111]evil.example/",
    "http://[2606:4700::1111]:80@evil.example/",
    "http://example.com[::1]/",
    "http://example.com[2606:4700::1111]/",
    "http://[]/",
    "http://[127.0.0.1]/",
    "http://[v1.x]/",
    # names
    "http://localhost/",
    "http://LOCALHOST./",
    "http://a.localhost/",
    "http://printer.local/",
    "http://metadata.google.internal/",
    "http://intranet/",
    "http://loop.example.com/",
    "http://mixed.example.com/",
    "http://mapped.example.com/",
    "http://nat64-private.example.com/",
    "http://scoped.example.com/",
    "http://nothing.example.com/",
    "http://rubbish.example.com/",
    "http://unknown.example.com/",
    "http://example..com/",
    "http://.example.com/",
    "http://example.com../",
    "http://-example.com/",
    "http://exa$mple.com/",
    "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 127 + "com/",
    "http://" + "ü" * 5000 + ".com/",
    # schemes, credentials, ports, shapes
    "",
    "example.com",
    "//example.com/",
    "http:example.com",
    "http:/example.com",
    "http:///example.com",
    "http://",
    "https://?q",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "data:text/plain,hi",
    "javascript:alert(1)",
    "jar:http://example.com!/",
    "http+unix://%2fvar%2frun%2fdocker.sock/",
    "http://user@example.com/",
    "http://user:pass@example.com/",
    "http://example.com@127.0.0.1/",
    "http://example.com%40127.0.0.1/",
    "http://@example.com/",
    "http://example.com:22/",
    "http://example.com:6379/",
    "http://example.com:0/",
    "http://example.com:/",
    "http://example.com:65536/",
    "http://example.com:-80/",
    "http://example.com:80:80/",
    "http://example.com:\uff18\uff10/",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\example.com/",
    "http://exam\tple.com/",
    "http://example.com/\r\nX-Injected: 1",
    "http://example.com/a b",
    " http://example.com/",
    "http://example.com/\x00",
    "http://example.com/\ud800",
    "http://example.com\u2100.example/",
    "http://example.com/" + "a" * 8192,
]


@pytest.mark.parametrize(("url", "normal"), ALLOWED)
async def test_a_public_url_is_allowed_in_its_normal_form(url: str, normal: str) -> None:
    """Every allowed URL gets addresses, all of them public, and one spelling."""
    target = await GUARD.check(url)
    assert target.url == normal
    assert target.addresses
    assert all(is_public(ipaddress.ip_address(address)) for address in target.addresses)


@pytest.mark.parametrize("url", REFUSED)
async def test_everything_else_is_refused(url: str) -> None:
    """A refusal is a 400 with its own code, and its text repeats neither the URL nor an address."""
    with pytest.raises(UrlRefused) as caught:
        await GUARD.check(url)
    assert (caught.value.status, caught.value.code) == (400, "url_not_allowed")
    assert len(url) < 8 or url not in caught.value.detail
    assert "127.0.0.1" not in caught.value.detail


def test_the_table_is_as_long_as_the_security_list_asks() -> None:
    """At least 60 URLs are tried."""
    assert len(ALLOWED) + len(REFUSED) >= 60


async def test_missing_and_private_names_cannot_be_told_apart() -> None:
    """The names of a private network cannot be listed by comparing answers."""
    texts = set()
    for host in ("loop.example.com", "unknown.example.com", "mixed.example.com", "localhost", "10.0.0.1"):
        with pytest.raises(UrlRefused) as caught:
            await GUARD.check(f"http://{host}/")
        texts.add(caught.value.detail)
    assert len(texts) == 1


async def test_a_name_is_resolved_once_and_its_addresses_are_pinned() -> None:
    """A resolver that would answer with loopback the second time is not asked a second time."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return next(answers)

    target = await UrlGuard(resolve=rebinding).check("http://rebind.example.com/")
    assert target.addresses == (PUBLIC,)
    assert next(answers) == ["127.0.0.1"]


async def test_an_address_needs_no_resolver() -> None:
    """A literal is its own answer; repeated addresses are kept once."""

    async def never(host: str, port: int) -> Sequence[str]:
        raise AssertionError("a literal was resolved")

    assert (await UrlGuard(resolve=never).check(f"http://{PUBLIC}/")).addresses == (PUBLIC,)

    async def twice(host: str, port: int) -> Sequence[str]:
        return [PUBLIC, PUBLIC]

    assert (await UrlGuard(resolve=twice).check("http://example.com/")).addresses == (PUBLIC,)


DEVELOPER = UrlGuard(resolve=resolve, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000/",
        "http://[::1]:9000/",
        "http://192.168.1.7/x",
        "http://10.0.0.1/",
        "http://[fd12::1]/",
        "http://loop.example.com:3000/",
        "http://mixed.example.com/",
        "http://intranet/",
        "http://example.com:22/",
    ],
)
async def test_development_allows_private_networks_and_any_port(url: str) -> None:
    """With allow_private a developer reaches the own machine and network."""
    assert (await DEVELOPER.check(url)).addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://[fe80::1]/",
        "http://mapped.example.com/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://user@127.0.0.1/",
        "http://2130706433/",
        "file:///etc/passwd",
    ],
)
async def test_development_still_refuses_metadata_and_nonsense(url: str) -> None:
    """Where clouds keep credentials stays out of reach, and malformed stays malformed."""
    with pytest.raises(UrlRefused):
        await DEVELOPER.check(url)


async def test_schemes_and_ports_can_be_narrowed_and_widened() -> None:
    """A webhook guard may take https only; a port list may hold what an operator needs."""
    narrow = UrlGuard(resolve=resolve, schemes=frozenset({"https"}), ports=frozenset({443, 9443}))
    assert (await narrow.check("https://example.com:9443/")).port == 9443
    for url in ("http://example.com/", "https://example.com:8443/"):
        with pytest.raises(UrlRefused):
            await narrow.check(url)


def test_parsing_alone_asks_nobody() -> None:
    """parse() finds what is wrong without a resolver, and leaves the addresses open."""
    target = GUARD.parse("https://example.com:8443/hook?x=1")
    assert target == Target("https", "example.com", 8443, "/hook?x=1")
    assert target.authority == "example.com:8443"
    with pytest.raises(UrlRefused):
        GUARD.parse("http://127.0.0.1/")


async def test_the_system_resolver_is_refused_for_loopback_names() -> None:
    """The real resolver's answer for this machine does not pass."""
    assert "127.0.0.1" in await system_resolve("127.0.0.1", 80)
    with pytest.raises(UrlRefused):
        await UrlGuard().check("http://localhost/")
