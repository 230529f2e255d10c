"""Request lines, paths, headers and framing that are not as they should be."""

from __future__ import annotations

from tests.badinput.bad_wire import Bad, get, many, post, request

__all__ = ["CASES"]

ROUTES = [
    Bad("route: unknown", 404, get("/nowhere"), "not_found"),
    Bad("route: root", 404, get("/"), "not_found"),
    Bad("route: trailing slash", 404, get("/hello/"), "not_found"),
    Bad("route: other case", 404, get("/Hello"), "not_found"),
    Bad("route: two slashes", 404, get("//hello"), "not_found"),
    Bad("route: two slashes inside", 404, get("/items//5"), "not_found"),
    Bad("route: semicolon", 404, get("/hello;jsessionid=1"), "not_found"),
    Bad("route: dot", 404, get("/./hello"), "not_found"),
    Bad("route: dots", 404, get("/items/../hello"), "not_found"),
    Bad("route: escaped dots", 404, get("/items/%2e%2e/hello"), "not_found"),
    Bad("route: half escaped dots", 404, get("/items/.%2e/hello"), "not_found"),
    Bad("route: dots escaped twice", 404, get("/items/%252e%252e/hello"), "not_found"),
    Bad("route: escaped slash", 404, get("/items%2f5"), "not_found"),
    Bad("route: backslash", 404, get("/items\\5"), "not_found"),
    Bad("route: escaped backslash", 404, get("/items%5c5"), "not_found"),
    Bad("route: NUL", 400, get("/items/5%00"), "bad_request"),
    Bad("route: bad escape", 400, get("/items/%zz"), "bad_request"),
    Bad("route: cut escape", 400, get("/items/5%"), "bad_request"),
    Bad("route: cut escape of one digit", 400, get("/items/5%2"), "bad_request"),
    Bad("route: bad UTF-8", 400, get("/items/%ff"), "bad_request"),
    Bad("route: overlong slash", 400, get("/items/%c0%af"), "bad_request"),
    Bad("route: overlong dots", 400, get("/items/%c0%ae%c0%ae/hello"), "bad_request"),
    Bad("route: surrogate", 400, get("/items/%ed%a0%80"), "bad_request"),
    Bad("route: 10,000 segments", 414, get("/a" * 10_000), "uri_too_long"),
    Bad("route: 4,000 segments", 404, get("/a" * 4_000), "not_found"),
    Bad(
        "route: script",
        404,
        get("/%3Cscript%3Ealert(1)%3C/script%3E".replace("/script", "script")),
        "not_found",
    ),
    Bad("route: line break", 404, get("/hello%0d%0aX-Evil:%20yes"), "not_found"),
    Bad("route: template", 404, get("/{item_id}"), "not_found"),
    Bad("route: dot file", 404, get("/.env"), "not_found"),
    Bad("route: git", 404, get("/.git/config"), "not_found"),
    Bad("files: dots", 404, get("/files/../../etc/passwd"), "not_found"),
    Bad("files: escaped dots", 404, get("/files/%2e%2e/%2e%2e/etc/passwd"), "not_found"),
    Bad("files: dots and escaped slashes", 404, get("/files/..%2f..%2fetc%2fpasswd"), "not_found"),
    Bad("files: dots and backslashes", 404, get("/files/..%5c..%5cwindows"), "not_found"),
    Bad("files: dots within", 404, get("/files/a/../b"), "not_found"),
    Bad("files: absolute", 404, get("/files//etc/passwd"), "not_found"),
    Bad("files: nothing", 404, get("/files/"), "not_found"),
    Bad("files: NUL", 400, get("/files/a%00.png"), "bad_request"),
    Bad("docs: dots", 404, get("/docs/../../pyproject.toml"), "not_found"),
    Bad("docs: escaped dots", 404, get("/docs/%2e%2e/%2e%2e/pyproject.toml"), "not_found"),
]
METHODS = [
    Bad("method: GET of a POST", 405, get("/scalars"), "method_not_allowed", ("allow",)),
    Bad("method: POST of a GET", 405, post("/hello", {}), "method_not_allowed", ("allow",)),
    Bad("method: PUT", 405, request("PUT", "/hello"), "method_not_allowed", ("allow",)),
    Bad("method: PATCH", 405, request("PATCH", "/model"), "method_not_allowed", ("allow",)),
    Bad("method: DELETE", 405, request("DELETE", "/items/5"), "method_not_allowed", ("allow",)),
    Bad("method: TRACE", 405, request("TRACE", "/hello"), "method_not_allowed", ("allow",)),
    Bad("method: PROPFIND", 405, request("PROPFIND", "/hello"), "method_not_allowed", ("allow",)),
    Bad("method: GET of a job without its id", 405, get("/predict"), "method_not_allowed", ("allow",)),
    Bad("method: PUT of jobs", 405, request("PUT", "/jobs"), "method_not_allowed", ("allow",)),
    Bad("method: POST of health", 405, request("POST", "/health"), "method_not_allowed", ("allow",)),
    Bad("method: GET of a cancel", 405, get("/jobs/abcdefgh/cancel"), "method_not_allowed", ("allow",)),
    Bad("method: GET of a RunPod run", 405, get("/v2/x/run"), "method_not_allowed", ("allow",)),
    Bad("method: unknown", 400, request("FROBNICATE", "/hello"), framing=True),
    Bad("method: lower case", 400, request("get", "/hello"), framing=True),
    Bad("method: empty", 400, request("", "/hello"), framing=True),
    Bad("method: CONNECT", 501, request("CONNECT", "localhost:80"), framing=True),
]
ORIGIN = {"origin": "https://evil.example"}
HOSTS = [
    Bad("host: foreign", 400, request("GET", "/hello", host="evil.example"), "unknown_host"),
    Bad("host: foreign with a port", 400, request("GET", "/hello", host="evil.example:80"), "unknown_host"),
    Bad("host: ours as a beginning", 400, request("GET", "/hello", host="localhost.evil.example"),
        "unknown_host"),
    Bad("host: ours as a user", 400, request("GET", "/hello", host="localhost@evil.example"), framing=True),
    Bad("host: a path", 400, request("GET", "/hello", host="localhost/evil"), framing=True),
    Bad("host: two in one", 400, request("GET", "/hello", host="localhost, evil.example"), framing=True),
    Bad("host: empty", 400, request("GET", "/hello", host="")),
    Bad("host: metadata", 400, request("GET", "/hello", host="169.254.169.254"), "unknown_host"),
    Bad("host: unknown, of health", 400, request("GET", "/health", host="evil.example"), "unknown_host"),
    Bad("host: unknown, of an unknown route", 400, request("GET", "/no", host="evil.example"),
        "unknown_host"),
    Bad("host: twice", 400, many(b"host: localhost"), framing=True),
    Bad("host: none", 400, b"GET /hello HTTP/1.1\r\n\r\n", framing=True),
    Bad("origin: foreign", 403, post("/model", {}, **ORIGIN), "foreign_origin"),
    Bad("origin: foreign, of a job", 403, post("/predict", {"prompt": "a"}, **ORIGIN), "foreign_origin"),
    Bad("origin: foreign, of a form", 403, post("/form", "name=a&age=1", "application/x-www-form-urlencoded",
        **ORIGIN), "foreign_origin"),
    Bad("origin: foreign, of a delete", 403, request("DELETE", "/jobs/@scheduled@", fields=ORIGIN),
        "foreign_origin"),
    Bad("origin: null", 403, post("/model", {}, origin="null"), "foreign_origin"),
    Bad("origin: empty", 403, post("/model", {}, origin=""), "foreign_origin"),
    Bad("origin: broken", 403, post("/model", {}, origin="http://[::1"), "foreign_origin"),
    Bad("origin: other port", 403, post("/model", {}, origin="http://localhost:1"), "foreign_origin"),
    Bad("origin: ours as a beginning", 403, post("/model", {}, origin="http://localhost.evil"),
        "foreign_origin"),
    Bad("origin: cross site", 403, post("/model", {}, sec_fetch_site="cross-site"), "foreign_origin"),
    Bad("origin: foreign, of a RunPod run", 403, post("/v2/x/run", {"input": {}}, **ORIGIN),
        "foreign_origin"),
    Bad("origin: foreign, of an unknown route", 403, post("/nowhere", {}, **ORIGIN), "foreign_origin"),
]  # fmt: skip
SIZES = [
    Bad("head: header of 33 KiB", 431, get("/hello", x_long="x" * 33 * 1024), "headers_too_large"),
    Bad("head: header of 100 KiB", 431, get("/hello", x_long="x" * 100 * 1024), "headers_too_large"),
    Bad("head: header of 10 MiB", 431, get("/hello", x_long="x" * 10 * 1024 * 1024), "headers_too_large"),
    Bad("head: name of 33 KiB", 431, get("/hello", **{"x" * 33 * 1024: "y"}), "headers_too_large"),
    Bad("head: cookie of 40 KiB", 431, get("/who", x_level="1", cookie="visits=" + "1" * 40 * 1024)),
    Bad("head: 101 headers", 431, many(*[b"x-%d: y" % at for at in range(100)]), "headers_too_large"),
    Bad("head: 10,000 headers", 431, many(*[b"x-%d: y" % at for at in range(10_000)]), "headers_too_large"),
    Bad("head: the same header 200 times", 431, many(*[b"x: y"] * 200), "headers_too_large"),
    Bad("head: path of 9 KiB", 414, get("/" + "a" * 9000), "uri_too_long"),
    Bad("head: query of 9 KiB", 414, get("/hello?name=" + "a" * 9000), "uri_too_long"),
    Bad("head: query of 9 KiB, escaped", 414, get("/hello?name=" + "%41" * 3000), "uri_too_long"),
    Bad("head: path of 100 KiB", 431, get("/" + "a" * 100 * 1024)),
]
MIB = 1024 * 1024
CL = b"content-length: 5"
TE = b"transfer-encoding: chunked"
NEXT = b"GET /hello?name=smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"


def framed(name: str, raw: bytes, status: int = 400) -> Bad:
    """Return a case of broken framing, with a whole request behind it that must not be served."""
    return Bad(f"framing: {name}", status, raw + NEXT, framing=True)


def body(*lines: bytes, data: bytes = b"0\r\n\r\n") -> bytes:
    """Return a POST with these lines."""
    return many(*lines, method=b"POST", target=b"/anything", body=data)


FRAMING = [
    framed("two kinds of length", body(CL, TE)),
    framed("two kinds of length, other order", body(TE, CL)),
    framed("two lengths", body(CL, b"content-length: 6", data=b"12345")),
    framed("two equal lengths", body(CL, CL, data=b"12345")),
    framed("two lengths in one", body(b"content-length: 5, 5", data=b"12345")),
    framed("length with a plus", body(b"content-length: +5", data=b"12345")),
    framed("negative length", body(b"content-length: -5", data=b"12345")),
    framed("length in hexadecimal", body(b"content-length: 0x5", data=b"12345")),
    framed("length with an underscore", body(b"content-length: 1_0", data=b"12345")),
    framed("length beyond 64 bits", body(b"content-length: " + b"9" * 30, data=b"12345")),
    framed("no length", body(b"content-length:", data=b"12345")),
    framed("chunked twice", body(TE, TE)),
    framed("chunked is not last", body(b"transfer-encoding: chunked, identity")),
    framed("unknown coding", body(b"transfer-encoding: gzip, chunked"), 501),
    framed("almost chunked", body(b"transfer-encoding: xchunked"), 501),
    framed("chunked with vertical tab", body(b"transfer-encoding: \x0bchunked")),
    framed("space before the colon", body(b"transfer-encoding : chunked")),
    framed("chunk size is no number", body(TE, data=b"zz\r\nab\r\n0\r\n\r\n")),
    framed("chunk size is negative", body(TE, data=b"-1\r\na\r\n0\r\n\r\n")),
    framed("chunk size is too large", body(TE, data=b"f" * 20 + b"\r\na\r\n0\r\n\r\n")),
    framed("chunk is longer than said", body(TE, data=b"1\r\nabc\r\n0\r\n\r\n")),
    framed("chunk size with a line feed", body(TE, data=b"1\na\n0\n\n")),
    framed("chunk extension of 2 MiB", body(TE, data=b"1;" + b"x" * 2 * MIB + b"\r\na\r\n0\r\n\r\n")),
    framed("1,000,000 chunks of one byte", body(TE, data=b"1\r\n \r\n" * 1_000_000 + b"0\r\n\r\n")),
    framed("trailers of 2 MiB", body(TE, data=b"0\r\nx: " + b"y" * 2 * MIB + b"\r\n\r\n")),
    framed("folded line", many(b"x: a", b" b")),
    framed("line feeds", b"GET /hello HTTP/1.1\nhost: localhost\n\n"),
    framed("one line feed", b"GET /hello HTTP/1.1\r\nhost: localhost\nx: y\r\n\r\n"),
    framed("carriage return inside", many(b"x: a\rb: c")),
    framed("NUL in a header", many(b"x: a\0b")),
    framed("control character in a header", many(b"x: a\x01b")),
    framed("space in a header's name", many(b"x y: a")),
    framed("header without a name", many(b": a")),
    framed("header without a colon", many(b"nonsense")),
    framed("space in the target", b"GET /he llo HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    framed("tab in the request line", b"GET\t/hello HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    framed("control character in the target", many(target=b"/he\x01llo")),
    framed("fragment", many(target=b"/hello#top")),
    framed("no slash", many(target=b"hello")),
    framed("another host in the target", many(target=b"http://evil.example/hello")),
    framed("a scheme in the target", many(target=b"file:///etc/passwd")),
    framed("asterisk", many(target=b"*")),
    framed("HTTP/0.9", b"GET /hello\r\n\r\n", 505),
    framed("HTTP/2.0", b"GET /hello HTTP/2.0\r\nhost: localhost\r\n\r\n", 505),
    framed("HTTP/1.10", b"GET /hello HTTP/1.10\r\nhost: localhost\r\n\r\n"),
    framed("another protocol", b"GET /hello ICE/1.0\r\nhost: localhost\r\n\r\n"),
    framed("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    framed("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    framed("random bytes", bytes(range(256))),
    framed(
        "chunked in HTTP/1.0", b"POST /anything HTTP/1.0\r\nhost: localhost\r\n" + TE + b"\r\n\r\n0\r\n\r\n"
    ),
]

CASES = {"routes": ROUTES, "methods": METHODS, "hosts": HOSTS, "head sizes": SIZES, "framing": FRAMING}
