"""Parses the answers that come on one connection, within bounds, and judges whether they can be trusted."""

from __future__ import annotations

from typing import Any, Final

import httptools

from router_core.gateway.reply import FailureKind
from router_core.gateway.transport.decode import BadCoding, Bomb, Decoder, decoder_of
from router_core.gateway.transport.last_head import LastHead

__all__ = ["MAX_FIELDS", "MAX_HEAD", "MAX_INTERIM", "Answer", "Names", "Unusable"]

MAX_HEAD: Final = 64 * 1024
"""Bytes of a status line and fields; also of what surrounds the pieces of a chunked body."""
MAX_FIELDS: Final = 100
MAX_INTERIM: Final = 16
"""Answers of 1xx before the final one."""
_MAX_NAMES: Final = 1024
_LONGEST_NAME: Final = 64
"""Bytes of a name that is remembered."""
_PIECES: Final = 128
"""Pieces of a body that are kept apart: small ones cost more than what is in them."""
_BLOCK: Final = 64 * 1024


class Unusable(Exception):
    """The answer breaks the rules of HTTP, or our bounds."""

    def __init__(self, message: str, kind: FailureKind = "malformed") -> None:
        super().__init__(message)
        self.kind = kind


class Names:
    """Names of fields as upstreams write them -> in lower case; shared by all connections, and bounded."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[bytes, str] = {}

    def lower(self, name: bytes) -> str:
        """Return a name in lower case, and remember it."""
        found = name.decode("latin-1").lower()
        if len(name) <= _LONGEST_NAME and len(self.known) < _MAX_NAMES:
            self.known[name] = found
        return found


class Answer:
    """The answer that is coming in; ``begin`` makes it ready for the next.

    What the parser itself refuses: both or repeated lengths, bad chunks, folded or broken fields, bare line
    feeds, NUL, wrong status lines.
    """

    __slots__ = (
        "_blocks", "_duplicates", "_feed", "_fields", "_head_size", "_interim", "_known", "_last",
        "_max_body", "_names", "_overhead", "_parser", "_received", "_seen", "_size", "_stream_wanted",
        "_touched", "complete", "decoder", "ends_by_close", "headers", "on_body", "pieces", "reusable",
        "status", "streams",
    )  # fmt: skip

    def __init__(self, names: Names, max_body: int, last: LastHead | None = None) -> None:
        """``last``: what is known of the answers of the same origin."""
        self._last = LastHead() if last is None else last
        self._names = names
        self._known = names.known
        self._max_body = max_body
        self.pieces: list[bytes] = []
        """Bytes of the body that nobody has taken yet."""
        self.on_body = self.pieces.append
        self._blocks: list[bytes] = []
        self._size = 0
        self._interim = 0
        self._fields: dict[str, str] = {}
        self.reusable = True
        """Whether another request may follow on this connection. Never becomes true again."""
        self._parser: Any = httptools.HttpResponseParser(self)
        self._feed: Any = self._parser.feed_data
        self._touched = True
        """Whether anything was fed since the beginning."""
        self.begin(False)

    def begin(self, stream: bool) -> None:
        """Make ready for the answer to the next request; ``stream``: it may be handed over piece by piece."""
        self._stream_wanted = stream
        if not self._touched:
            return
        self._touched = False
        if self._fields:
            # What followed the body of the answer before.
            self._fields = {}
        self._duplicates = 0
        self.status = 0
        """0 until the head of the final answer is complete."""
        self.complete = False
        self.streams = False
        """Whether it is to be handed over piece by piece: 2xx, wanted, and not JSON."""
        self.decoder: Decoder | None = None
        self.ends_by_close = False
        self._head_size = 0
        self._overhead = 0
        self._received = 0
        self._seen = 0

    def release(self) -> None:
        """Let go of the parser: it and this refer to each other."""
        self._parser = self._feed = None

    def feed(self, data: bytes) -> None:
        """Take bytes; raises Unusable. Bytes after the end only make the connection not reusable."""
        fresh = not self._touched
        self._touched = True
        try:
            if not self.status and self._head_size + len(data) > MAX_HEAD:
                data = self._feed_head(data)
            self._feed(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise _reason(error) from None
            self.reusable = False
        if not self.complete:
            self._account(len(data))
        elif fresh and self.status == 200 and self.reusable and self.decoder is None and not self._blocks:
            self._last.note(data, self.headers, _is_json(self.headers.get("content-type", "")))

    def piece(self, data: bytes) -> bytes | None:
        """Take bytes as ``feed`` does, and return what they hold of a stream that goes on, where that is one
        piece; None: what has come is to be looked at."""
        pieces = self.pieces
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise _reason(error) from None
            self.reusable = False
        if self.complete:
            return None
        if len(pieces) != 1:
            self._account(len(data))
            return None
        self._overhead = 0
        return pieces.pop()

    def known(self, data: bytes) -> bytes | None:
        """Return the body, where these bytes are a whole answer, with status 200 and the ``last_headers``;
        None: they have to be fed."""
        if self._touched or not self.reusable or (self._stream_wanted and not self._last.is_json):
            return None
        return self._last.body(data, self._max_body)

    @property
    def last_headers(self) -> dict[str, str]:
        """The fields of what ``known`` took."""
        return self._last.headers

    def body(self) -> bytes:
        """Return the body, all of it, once it is complete; raises Unusable where its coding is wrong."""
        pieces = self.pieces
        if self._blocks or self.decoder is not None:
            self._settle()
            if self.decoder is not None and not self.decoder.ended:
                raise Unusable("the compressed body was cut")
            whole = b"".join(self._blocks)
            self._blocks.clear()
            self._size = 0
            return whole
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return whole

    # Called by the parser; a body is appended to the pieces without any code of ours.

    def on_message_begin(self) -> None:
        """Refuse what follows a complete answer."""
        if self.complete:
            raise Unusable("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field; of equal names the first."""
        key = self._known.get(name) or self._names.lower(name)
        fields = self._fields
        if key in fields:
            self._duplicates += 1
        else:
            fields[key] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Decide how the body is read."""
        status: int = self._parser.get_status_code()
        headers = self._fields
        if len(headers) + self._duplicates > MAX_FIELDS:
            raise Unusable("too many fields")
        # Fields that follow a chunked body must not pass for those of the head.
        self._fields = {}
        if status < 200:
            self._skip(status)
            return
        self._interim = 0
        self.status = status
        self.headers = headers
        if not self._parser.should_keep_alive():
            self.reusable = False
        if self._stream_wanted and status < 300:
            self.streams = not _is_json(headers.get("content-type", ""))
        length = headers.get("content-length")
        if length is None:
            self._frame(headers.get("transfer-encoding"), status)
        elif int(length) > self._max_body and not self.streams:
            raise Unusable(f"an answer of {length[:20]} bytes", "too_large")
        if "content-encoding" in headers:
            self._set_coding(headers, status)

    def on_message_complete(self) -> None:
        """Take note of the end; one of 1xx ends nothing."""
        if self.status:
            self.complete = True

    def _skip(self, status: int) -> None:
        """Pass over an answer that announces the final one."""
        self._interim += 1
        self._duplicates = 0
        if status < 100 or status == 101 or self._interim > MAX_INTERIM:
            raise Unusable(f"status {status} out of place")

    def _frame(self, coding: str | None, status: int) -> None:
        """Judge a body without a length."""
        if coding is None:
            self.ends_by_close = status not in (204, 304)
        elif coding.strip().lower() != "chunked":
            raise Unusable("a transfer-encoding other than chunked")

    def _set_coding(self, headers: dict[str, str], status: int) -> None:
        """Undo a content-encoding, and say no more of it."""
        if status in (204, 304):
            return
        try:
            self.decoder = decoder_of(headers.pop("content-encoding"))
        except BadCoding as error:
            raise Unusable(str(error)) from None
        if self.decoder is not None:
            headers.pop("content-length", None)

    def _feed_head(self, data: bytes) -> bytes:
        """Feed as much as a head may have, and return the rest if it was one."""
        room = MAX_HEAD - self._head_size
        self._feed(data[:room])
        if not self.status:
            raise Unusable("the head is too long")
        return data[room:]

    def _account(self, size: int) -> None:
        """Hold the bounds of an answer that is still coming."""
        if not self.status:
            self._head_size += size
        elif len(self.pieces) == self._seen:
            # Sizes of chunks and what may be written beside them, or fields after the last one.
            self._overhead += size
            if self._overhead > MAX_HEAD:
                raise Unusable("too much between the pieces of the body")
        else:
            self._overhead = 0
            if not self.streams:
                self._received += size
                if self._received > self._max_body + MAX_HEAD:
                    raise Unusable(f"an answer of more than {self._max_body} bytes", "too_large")
                if self.decoder is not None or len(self.pieces) > _PIECES:
                    self._settle()
                self._seen = len(self.pieces)

    def _settle(self) -> None:
        """Put the pieces of a whole body together, decoded."""
        block = b"".join(self.pieces)
        self.pieces.clear()
        decoder = self.decoder
        if decoder is None:
            self._blocks.append(block)
            return
        decoder.feed(block)
        try:
            while block := decoder.read(_BLOCK):
                self._blocks.append(block)
                self._size += len(block)
                if self._size > self._max_body:
                    raise Unusable(f"an answer of more than {self._max_body} bytes", "too_large")
        except BadCoding as error:
            raise Unusable(str(error)) from None
        except Bomb as error:
            raise Unusable(str(error), "too_large") from None


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _reason(error: httptools.HttpParserError) -> Unusable:
    """Return why the parser stopped: for a reason of ours, or for one of its own."""
    ours = error.__context__
    return ours if isinstance(ours, Unusable) else Unusable(f"not HTTP/1.1: {error}"[:200])
