"""Bodies that are no form, files that are no files, and bodies that are too much."""

from __future__ import annotations

from tests.badinput.bad_wire import Bad, chunked, multipart, part, post, request

__all__ = ["CASES"]

MIB = 1024 * 1024
FIELD = 'form-data; name="scale"'
IMAGE = part()
DATA = "data:text/plain;base64,"
OBJECT = {"file_name": "a.png", "content_type": "image/png", "content": "aGVsbG8="}


def broken(name: str, *parts: bytes, end: bytes = b"--BOUND--\r\n", content_type: str = "") -> Bad:
    """Return a case of a multipart body that cannot be read."""
    return Bad(
        name, 400, multipart("/upload", *parts, end=end, content_type=content_type), "invalid_multipart"
    )


MULTIPART = [
    broken("multipart: no boundary in the type", IMAGE, content_type="multipart/form-data"),
    broken("multipart: empty boundary", IMAGE, content_type="multipart/form-data; boundary="),
    broken("multipart: empty quoted boundary", IMAGE, content_type='multipart/form-data; boundary=""'),
    broken("multipart: boundary of 71", IMAGE, content_type="multipart/form-data; boundary=" + "b" * 71),
    broken("multipart: boundary not ASCII", IMAGE, content_type="multipart/form-data; boundary=B\xf6UND"),
    broken("multipart: another boundary", IMAGE, content_type="multipart/form-data; boundary=OTHER"),
    broken("multipart: boundary in other case", IMAGE, content_type="multipart/form-data; boundary=bound"),
    broken("multipart: no end", IMAGE, end=b""),
    broken("multipart: end without its dashes", IMAGE, end=b"--BOUND\r\n"),
    broken("multipart: cut in the data", IMAGE[:-4], end=b""),
    broken("multipart: cut in a header", part()[:30], end=b""),
    broken("multipart: cut after the boundary", b"--BOUND\r\n", end=b""),
    broken("multipart: only text", b"hello", end=b""),
    broken("multipart: JSON", b'{"image": "x"}', end=b""),
    broken("multipart: no disposition", part("", b"data", "Content-Type: image/png")),
    broken("multipart: no headers", b"--BOUND\r\n\r\ndata\r\n"),
    broken("multipart: no name", part('form-data; filename="a.png"')),
    broken("multipart: attachment", part('attachment; name="image"; filename="a.png"')),
    broken("multipart: disposition is nonsense", part(";;;=")),
    broken("multipart: header without a colon", part(FIELD, b"1", "nonsense")),
    broken("multipart: space in a header's name", part(FIELD, b"1", "X Y: z")),
    broken("multipart: 9 KiB of headers", part(FIELD, b"1", "X-Long: " + "x" * 9000)),
    broken("multipart: 9 KiB of a header's name", part(FIELD, b"1", "x" * 9000 + ": y")),
    broken("multipart: 17 headers", part(FIELD, b"1", *[f"X-{at}: y" for at in range(17)])),
    broken("multipart: name is not UTF-8", part('form-data; name="\xff"', b"1")),
    broken("multipart: field is not UTF-8", IMAGE, part(FIELD, b"\xff\xfe")),
    broken("multipart: bare line feeds", IMAGE.replace(b"\r\n", b"\n"), end=b"--BOUND--\n"),
    Bad("multipart: 1,001 parts", 413, multipart("/upload", *[part('form-data; name="a"', b"")] * 1001),
        "payload_too_large"),
    Bad("multipart: 101 files", 413, multipart("/gallery",
        *[part('form-data; name="images"; filename="a"')] * 101),
        "payload_too_large"),
    Bad("multipart: field of 2 MiB", 413, multipart("/upload", part(FIELD, b"1" * 2 * MIB)),
        "payload_too_large"),
    Bad("multipart: field of 2 MiB for the file", 413,
        multipart("/upload", part('form-data; name="image"', b"A" * 2 * MIB)), "payload_too_large"),
    Bad("multipart: no parts", 422, multipart("/upload"), loc=("body", "image")),
    Bad("multipart: file under another name", 422, multipart("/upload",
        part('form-data; name="x"; filename="a"'))),
    Bad("multipart: file twice", 422, multipart("/upload", IMAGE, IMAGE), loc=("body", "image")),
    Bad("multipart: file and URL", 422, multipart("/upload", IMAGE, part('form-data; name="image"',
        b"http://a/"))),
    Bad("multipart: empty file field", 422, multipart("/upload",
        part('form-data; name="image"; filename=""', b""))),
    Bad("multipart: file for a number", 422,
        multipart("/upload", IMAGE, part('form-data; name="scale"; filename="a"', b"2")), loc=("body",
            "scale")),
    Bad("multipart: number out of bounds", 422, multipart("/upload", IMAGE, part(FIELD, b"9")),
        loc=("body", "scale")),
    Bad("multipart: NaN", 422, multipart("/upload", IMAGE, part(FIELD, b"nan")), loc=("body", "scale")),
    Bad("multipart: number twice", 422, multipart("/upload", IMAGE, part(FIELD, b"1"), part(FIELD, b"2")),
        loc=("body", "scale")),
    Bad("multipart: 11 files of 10", 422, multipart("/gallery",
        *[part('form-data; name="images"; filename="a"')] * 11),
        loc=("body", "images")),
    Bad("multipart: nested", 422, multipart("/upload", part(
        'form-data; name="files"', b"--IN\r\nContent-Disposition: file; filename=a\r\n\r\nx\r\n--IN--",
        "Content-Type: multipart/mixed; boundary=IN")), loc=("body", "image")),
    Bad("multipart: field for a JSON list", 422, multipart("/numbers", part('form-data; name="values"',
        b"[1"))),
    Bad("multipart: mixed", 415, multipart("/scalars", IMAGE,
        content_type="multipart/mixed; boundary=BOUND")),
    Bad("multipart: related", 415, multipart("/scalars", IMAGE,
        content_type="multipart/related; boundary=BOUND")),
    Bad("multipart: to a job, cut", 400, multipart("/describe", IMAGE, end=b""), "invalid_multipart"),
]  # fmt: skip


def no_file(name: str, value: object, path: str = "/upload", *loc: str | int) -> Bad:
    """Return a case of a JSON value that stands for no file."""
    key = "images" if path == "/gallery" else "image"
    return Bad(f"file: {name}", 422, post(path, {key: value}), loc=loc or ("body", key))


FILES = [
    no_file("null", None),
    no_file("number", 5),
    no_file("list", []),
    no_file("word", "hello!"),
    no_file("path", "/etc/passwd"),
    no_file("file URL", "file:///etc/passwd"),
    no_file("ftp URL", "ftp://example.com/a.png"),
    no_file("gopher URL", "gopher://127.0.0.1:6379/_FLUSHALL"),
    no_file("base64 cut", "aGVsbG8"),
    no_file("base64 with a wrong character", "aGVs*G8="),
    no_file("data URI without comma", "data:image/png;base64"),
    no_file("data URI with bad base64", DATA + "a*b"),
    no_file("data URI of one character", DATA + "a"),
    no_file("data URI not ASCII", DATA + "é"),
    no_file("data URI with a bad escape", "data:text/plain,50%"),
    no_file("data URI of a million parameters", "data:" + ";" * 1_000_000 + ",a"),
    no_file("base64 with a bad escape", {"content": "%4"}),
    no_file("base64 of a million escapes", {"content": "%21" * 1_000_000}),
    no_file("object: empty", {}),
    no_file("object: no content", {"file_name": "a.png"}),
    no_file("object: content is a number", {**OBJECT, "content": 5}),
    no_file("object: content is a list", {**OBJECT, "content": [1, 2]}),
    no_file("object: bad base64", {**OBJECT, "content": "a*b"}),
    no_file("object: name is a number", {**OBJECT, "file_name": 5}),
    no_file("object: type is a list", {**OBJECT, "content_type": ["image/png"]}),
    no_file("object: of a record", {"$file": {"key": "../../etc/passwd"}}),
    no_file("list: one text", "aGVsbG8=x", "/gallery"),
    no_file("list: a bad one", ["aGVsbG8=", "?"], "/gallery", "body", "images", 1),
    no_file("list: 11 of 10", ["aGVsbG8="] * 11, "/gallery"),
    no_file("list: of lists", [["aGVsbG8="]], "/gallery", "body", "images", 0),
    no_file("of a job", "hello!", "/describe"),
    Bad("file: absent", 422, post("/upload", {"scale": 1}), loc=("body", "image")),
    Bad("file: no body", 422, post("/upload", b""), loc=("body", "image")),
    Bad("file: 21 links", 413, post("/gallery", {"images": ["http://127.0.0.1/a"] * 21})),
]

PRIVATE = [
    "http://127.0.0.1/a.png", "http://localhost/a.png", "http://LOCALHOST./", "http://[::1]/", "http://0/",
    "http://0.0.0.0/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/",
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://10.0.0.1/", "http://192.168.1.1/",
    "http://172.16.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/",
    "http://100.100.100.200/", "http://[64:ff9b::7f00:1]/", "http://metadata.internal/", "http://x.local/",
    "http://127.0.0.1:22/", "http://1.1.1.1:25/", "http://user:secret@1.1.1.1/",
        "http://1.1.1.1\\@127.0.0.1/",
    "http://127.0.0.1%2f@1.1.1.1/", "http://①②⑦.0.0.1/", "http://", "http:///a", "http://[::1",
        "https://1.1.1.1:0/",
    "http://1.1.1.1:99999/", "http://1.1.1.1:x/", "HTTP://127.0.0.1/", "http://a" + ".b" * 200 + "/",
    "http://1.1.1.1/\r\nX: y", "http://1.1.1.1/ a",
]  # fmt: skip
LINKS = [
    *(Bad(f"link: {url[:60]!r}", 422, post("/upload", {"image": url}), loc=("body",
        "image")) for url in PRIVATE),
    Bad("link: of a job", 422, post("/describe", {"image": PRIVATE[0]}), loc=("body", "image")),
    Bad("link: in a list", 422, post("/gallery", {"images": ["aGVsbG8=", PRIVATE[0]]}), loc=("body",
        "images", 1)),
    Bad("link: in a form", 422, multipart("/upload", part('form-data; name="image"', PRIVATE[0].encode())),
        loc=("body", "image")),
    Bad("link: in a query", 422, request("POST", f"/upload?image={PRIVATE[0]}"), loc=("body", "image")),
]  # fmt: skip

BIG = 4 * MIB + 1
SIZES = [
    Bad("size: one byte too many", 413, post("/anything", b" " * BIG), "payload_too_large"),
    Bad("size: said to be a gigabyte", 413, post("/anything", b"[", content_length=str(1 << 30)),
        "payload_too_large"),
    Bad("size: said to be 19 nines", 413, post("/anything", b"[", content_length="9" * 19),
        "payload_too_large"),
    Bad("size: chunked", 413, chunked("/anything", *[b" " * (64 * 1024)] * 65), "payload_too_large"),
    Bad("size: one endless chunk", 413, chunked("/anything", b" " * BIG, end=b""), "payload_too_large"),
    Bad("size: of a job", 413, post("/predict", b" " * BIG), "payload_too_large"),
    Bad("size: of a form", 413, post("/form", b"a" * BIG, "application/x-www-form-urlencoded")),
    Bad("size: of a stream", 413, post("/tokens", b" " * BIG)),
    Bad("size: of an unknown route", 404, post("/nowhere", b" " * BIG), "not_found"),
    Bad("size: of a route without a body", 413, request("GET", "/hello", b" " * BIG)),
    Bad("size: of a cancel", 413, post("/jobs/unknown-job/cancel", b" " * BIG)),
    Bad("size: of an upload", 413, multipart("/upload", part(data=b"a" * 6 * MIB)), "payload_too_large"),
    Bad("size: of an upload, in chunks", 413,
        chunked("/upload", *[b"a" * MIB] * 7, content_type="multipart/form-data; boundary=BOUND")),
    Bad("size: multipart in capitals is an upload too", 413,
        multipart("/upload", part(data=b"a" * 6 * MIB), content_type="Multipart/Form-Data; boundary=BOUND")),
    Bad("size: of a file as the body", 413, post("/upload", b"a" * BIG, "image/png"), "payload_too_large"),
    Bad("size: of a RunPod input", 413, post("/v2/x/run", b" " * BIG), "payload_too_large"),
]  # fmt: skip

CASES = {"multipart": MULTIPART, "files": FILES, "links": LINKS, "sizes": SIZES}
