"""Keep personal data out of logs: addresses, numbers of people, cards and accounts, by how they look.

What has check digits is checked, so that other long numbers stay readable: IBAN (ISO 13616, mod 97), payment
cards (ISO/IEC 7812, Luhn), the French social security number (NIR, mod 97). Names of people have no look, and
are not found.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

__all__ = ["FAILED", "Mask", "PersonalMask", "mask_personal", "masked_values"]

Mask = Callable[[str], str]

FAILED: Final = "<not shown: the masker failed>"
_OURS: Final = frozenset({
    "ts", "timestamp", "level", "event", "service", "request_id", "requestId", "job_id", "jobId", "trace_id",
    "span_id", "function_request_id", "method", "route", "status", "version",
})  # fmt: skip
"""Members whose values we made ourselves: by them lines are found."""
_MAX_DEPTH: Final = 8

_EMAIL: Final = r"(?<![\w.%+-])[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
_IBAN: Final = (
    r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?(?![A-Za-z0-9])"
)
_NIR: Final = r"(?<!\d)[1-478] ?\d{2} ?\d{2} ?(?:\d{2}|2[ABab]) ?\d{3} ?\d{3} ?\d{2}(?!\d)"
_CARD: Final = r"(?<![\d.])[2-6](?:[ -]?\d){12,18}(?![\d.]\d|\d)"
_PHONE: Final = (
    r"(?<![\w.+])(?:\+\d(?:[ ().-]{0,2}\d){7,14}|0[1-9](?:[ .-]?\d{2}){4}"
    r"|\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4})(?![\d.]\d|\w)"
)
_IPV4: Final = r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)"
_IPV6: Final = r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]{0,15}(?![0-9A-Za-z:])"


def mask_personal(text: str) -> str:
    """Return a text with what looks like personal data replaced by the name of its kind."""
    for pattern, name, holds in _KINDS:
        text = re.sub(pattern, partial(_said, name, holds), text)
    return text


class PersonalMask:
    """Masks by look, and then by whatever else an operator has brought: a text that this cannot judge is not
    shown at all."""

    def __init__(self, own: Mask | None = None) -> None:
        self._own = own

    def __call__(self, text: str) -> str:
        """Return what may be shown of a text; never raises."""
        try:
            text = mask_personal(text)
            if self._own is None:
                return text
            shown: object = self._own(text)
        except Exception:
            return FAILED
        return shown if isinstance(shown, str) else FAILED


def masked_values(fields: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
    """Return the members of a line with all texts masked but those that are ours."""
    return {
        name: value if name in _OURS and isinstance(value, str) else _masked(value, mask, 0)
        for name, value in fields.items()
    }


def _masked(value: Any, mask: Mask, depth: int) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if depth >= _MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return {mask(str(name)): _masked(each, mask, depth + 1) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(each, mask, depth + 1) for each in value]
    return mask(str(value))


def _said(name: str, holds: Callable[[str], bool] | None, match: re.Match[str]) -> str:
    return f"<{name}>" if holds is None or holds(match[0]) else match[0]


def _is_iban(text: str) -> bool:
    code = text.replace(" ", "").upper()
    if not 15 <= len(code) <= 34:
        return False
    digits = "".join(str(int(sign, 36)) for sign in code[4:] + code[:4])
    return int(digits) % 97 == 1


def _is_nir(text: str) -> bool:
    code = text.replace(" ", "").upper()
    number = code[:13].replace("2A", "19", 1).replace("2B", "18", 1) if not code[:13].isdigit() else code[:13]
    month = int(code[3:5])
    known = 1 <= month <= 12 or 20 <= month <= 42 or month >= 50
    return known and number.isdigit() and 97 - int(number) % 97 == int(code[13:])


def _is_card(text: str) -> bool:
    digits = [int(sign) for sign in text if sign.isdigit()]
    doubled = [2 * each - 9 if each > 4 else 2 * each for each in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def _is_address(text: str) -> bool:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified)


_KINDS: Final = (
    (_EMAIL, "email", None),
    (_IBAN, "iban", _is_iban),
    (_NIR, "nir", _is_nir),
    (_CARD, "card", _is_card),
    (_PHONE, "phone", None),
    (_IPV4, "ip", _is_address),
    (_IPV6, "ip", _is_address),
)
