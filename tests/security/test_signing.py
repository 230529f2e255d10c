"""Webhook signatures: known vectors, rotation, and everything that must be refused."""

from __future__ import annotations

import base64

import pytest

from router_core.errors import Misconfigured
from router_core.security.signing import (
    InvalidSignature,
    generate_secret,
    parse_secret,
    parse_secrets,
    sign,
    signed_headers,
    verify,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STAMP = 1614265330
BODY = b'{"test": 2432232314}'
MANY = " ".join(["v1,AAAA"] * 16)
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

HEADERS = {"webhook-id": ID, "webhook-timestamp": str(STAMP), "webhook-signature": SIGNATURE}


def test_the_published_vector_is_reproduced() -> None:
    """The example that Standard Webhooks implementations share gives the same signature here."""
    assert sign(SECRET, ID, STAMP, BODY) == SIGNATURE


def test_the_prefix_of_a_secret_may_be_missing_and_a_raw_key_will_do() -> None:
    """Three spellings of one secret sign alike."""
    bare = SECRET.removeprefix("whsec_")
    assert sign(bare, ID, STAMP, BODY) == SIGNATURE
    assert sign(base64.b64decode(bare), ID, STAMP, BODY) == SIGNATURE


def test_a_genuine_message_is_verified_whatever_the_case_of_its_headers() -> None:
    """Header names are matched without regard to case, and id and time come back."""
    verified = verify({k.title(): v for k, v in HEADERS.items()}, BODY, SECRET, now=STAMP + 10)
    assert (verified.id, verified.timestamp) == (ID, STAMP)


@pytest.mark.parametrize(
    ("changes", "body", "offset", "code"),
    [
        ({}, BODY + b" ", 0, "webhook_signature_mismatch"),
        ({}, b"", 0, "webhook_signature_mismatch"),
        ({"webhook-id": ID + "x"}, BODY, 0, "webhook_signature_mismatch"),
        ({"webhook-timestamp": str(STAMP + 1)}, BODY, 0, "webhook_signature_mismatch"),
        ({"webhook-signature": "v1,AAAA"}, BODY, 0, "webhook_signature_mismatch"),
        ({"webhook-signature": "v2," + SIGNATURE[3:]}, BODY, 0, "webhook_signature_mismatch"),
        ({"webhook-signature": SIGNATURE[3:]}, BODY, 0, "webhook_signature_mismatch"),
        ({"webhook-signature": "v1,é"}, BODY, 0, "webhook_signature_mismatch"),
        ({"webhook-signature": "v1,"}, BODY, 0, "webhook_signature_mismatch"),
        (
            {"webhook-signature": f"{MANY} {SIGNATURE}"},
            BODY,
            0,
            "webhook_signature_mismatch",
        ),
        ({}, BODY, 301, "webhook_too_old"),
        ({}, BODY, -301, "webhook_too_new"),
        ({"webhook-timestamp": "soon"}, BODY, 0, "webhook_header_malformed"),
        ({"webhook-timestamp": "-1614265330"}, BODY, 0, "webhook_header_malformed"),
        ({"webhook-timestamp": "١٦١٤٢٦٥٣٣٠"}, BODY, 0, "webhook_header_malformed"),
        ({"webhook-timestamp": "9" * 5000}, BODY, 0, "webhook_header_malformed"),
        ({"webhook-id": ""}, BODY, 0, "webhook_header_missing"),
        ({"webhook-timestamp": ""}, BODY, 0, "webhook_header_missing"),
        ({"webhook-signature": ""}, BODY, 0, "webhook_header_missing"),
    ],
)
def test_everything_else_is_refused(changes: dict[str, str], body: bytes, offset: int, code: str) -> None:
    """Altered, stale, future, malformed and missing values each have their own code."""
    with pytest.raises(InvalidSignature) as caught:
        verify({**HEADERS, **changes}, body, SECRET, now=STAMP + offset)
    assert (caught.value.code, caught.value.status) == (code, 401)


def test_a_message_at_the_edge_of_the_tolerance_is_taken() -> None:
    """Exactly 300 seconds either way is still fresh."""
    for offset in (-300, 300):
        assert verify(HEADERS, BODY, SECRET, now=STAMP + offset).id == ID


def test_a_secret_can_be_replaced_without_losing_a_message() -> None:
    """Old and new receivers both verify while the sender signs with two secrets."""
    new = generate_secret()
    headers = signed_headers([new, SECRET], ID, STAMP, BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secrets in (new, SECRET, [SECRET, new], [generate_secret(), new]):
        assert verify(headers, BODY, secrets, now=STAMP).id == ID
    with pytest.raises(InvalidSignature):
        verify(headers, BODY, generate_secret(), now=STAMP)


def test_a_setting_may_hold_several_secrets() -> None:
    """Commas and spaces separate the secrets of a setting."""
    one, two = generate_secret(), generate_secret()
    assert parse_secrets(f"{one}, {two}") == (parse_secret(one), parse_secret(two))
    assert parse_secrets("") == ()
    assert len(parse_secret(one)) == 32


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_!!!notbase64!!!", "whsec_c2hvcnQ=", "whsk_" + SECRET[6:], b"short", b"x" * 65],
)
def test_an_unusable_secret_is_refused_without_being_shown(secret: str | bytes) -> None:
    """The text names the fault and never repeats the secret."""
    with pytest.raises(Misconfigured) as caught:
        parse_secret(secret)
    shown = secret if isinstance(secret, str) else secret.decode()
    assert len(shown) < 7 or shown not in str(caught.value)


def test_nothing_is_signed_without_a_secret_or_with_a_header_break_in_the_id() -> None:
    """An empty list of secrets and an id that would break the header are errors of the caller."""
    with pytest.raises(Misconfigured):
        signed_headers([], ID, STAMP, BODY)
    with pytest.raises(Misconfigured):
        verify(HEADERS, BODY, [], now=STAMP)
    for bad in ("a\r\nx: y", "a b", "é"):
        with pytest.raises(ValueError, match="printable"):
            signed_headers([SECRET], bad, STAMP, BODY)
