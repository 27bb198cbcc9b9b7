"""Formats of JSON Schema: whether a text is a date, an address, a pointer, ...

Each is a function of the whole text. Formats that are not listed here mean nothing, as the standard says.
Source: JSON Schema 2020-12 validation, section 7.3, and the RFCs it names.
"""

from __future__ import annotations

import calendar
import ipaddress
import re
from collections.abc import Callable, Mapping

from grammars.json_patterns import pattern_of


def _matches(pattern: str) -> Callable[[str], bool]:
    # Compiled when first asked, by the cache of `re`: importing this file must cost nothing.
    return lambda text: re.fullmatch(pattern, text, re.ASCII) is not None


def is_date(text: str) -> bool:
    """RFC 3339 full-date: a day that exists."""
    found = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", text)
    if not found:
        return False
    year, month, day = (int(part) for part in found.groups())
    if not 1 <= month <= 12:
        return False
    days = 30 + (month in (1, 3, 5, 7, 8, 10, 12)) if month != 2 else 28 + calendar.isleap(year)
    return 1 <= day <= days


_TIME = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?(?:[zZ]|([+-])([0-9]{2}):([0-9]{2}))")


def is_time(text: str) -> bool:
    """RFC 3339 full-time: with an offset, and a leap second only where UTC has one."""
    found = _TIME.fullmatch(text)
    if not found:
        return False
    hour, minute, second = int(found[1]), int(found[2]), int(found[3])
    sign, ahead = found[4], (int(found[5] or 0), int(found[6] or 0))
    if hour > 23 or minute > 59 or second > 60 or ahead[0] > 23 or ahead[1] > 59:
        return False
    if second < 60:
        return True
    offset = (ahead[0] * 60 + ahead[1]) * (-1 if sign == "-" else 1)
    return (hour * 60 + minute - offset) % 1440 == 1439


def is_date_time(text: str) -> bool:
    return len(text) > 11 and text[10] in "tT" and is_date(text[:10]) and is_time(text[11:])


_DURATION = _matches(
    r"P(?:[0-9]+W|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)?"
    r"(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))?)"
)


def is_duration(text: str) -> bool:
    return text != "P" and _DURATION(text)


_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = _matches(rf'(?:{_ATOM}(?:\.{_ATOM})*|"(?:[ !#-\[\]-~]|\\[ -~])*")')


def is_email(text: str) -> bool:
    """RFC 5321 mailbox."""
    local, at, domain = text.rpartition("@")
    if not at or len(local) > 64 or not _LOCAL(local):
        return False
    if domain.startswith("[") and domain.endswith("]"):
        literal = domain[1:-1]
        return is_ipv6(literal[5:]) if literal.lower().startswith("ipv6:") else is_ipv4(literal)
    return is_hostname(domain)


def is_idn_email(text: str) -> bool:
    local, at, domain = text.rpartition("@")
    return bool(at and local) and not any(char in " \t\r\n" for char in local) and is_idn_hostname(domain)


_LABEL = _matches(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def is_hostname(text: str) -> bool:
    """RFC 1123; labels that begin xn-- must decode (RFC 5890)."""
    return 0 < len(text) <= 253 and all(_LABEL(label) and _decodes(label) for label in text.split("."))


def _decodes(label: str) -> bool:
    if label[2:4] != "--":
        return True
    if label[:4].lower() != "xn--":
        return False
    import idna

    try:
        idna.ulabel(label)
    except (idna.IDNAError, UnicodeError):
        return False
    return True


def is_idn_hostname(text: str) -> bool:
    """RFC 5890: U-labels as well."""
    import idna

    if text.isascii():
        return is_hostname(text)
    labels = re.split("[.\u3002\uff0e\uff61]", text)
    try:
        written = [label if label.isascii() else idna.alabel(label).decode() for label in labels]
    except (idna.IDNAError, UnicodeError):
        return False
    return is_hostname(".".join(written))


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
is_ipv4 = _matches(rf"{_OCTET}(?:\.{_OCTET}){{3}}")


def is_ipv6(text: str) -> bool:
    if "%" in text or not text.isascii():
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


_ESCAPED = "%[0-9A-Fa-f]{2}"
_UNRESERVED = r"A-Za-z0-9\-._~"
_SUB = r"!$&'()*+,;="
_UCS = "\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef\U00010000-\U000efffd"
_PRIVATE = "\ue000-\uf8ff\U000f0000-\U0010fffd"


def _reference(international: bool, absolute: bool) -> Callable[[str], bool]:
    """RFC 3986, appendix B split and each part's own characters; RFC 3987 adds characters beyond ASCII."""
    more = _UCS if international else ""
    char = rf"(?:[{_UNRESERVED}{more}{_SUB}:@]|{_ESCAPED})"
    split = r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?"
    scheme = _matches(r"[A-Za-z][A-Za-z0-9+.\-]*")
    path = _matches(rf"(?:{char}|/)*")
    query = _matches(rf"(?:{char}|[/?{_PRIVATE if international else ''}])*")
    fragment = _matches(rf"(?:{char}|[/?])*")
    user = _matches(rf"(?:[{_UNRESERVED}{more}{_SUB}:]|{_ESCAPED})*")
    name = _matches(rf"(?:[{_UNRESERVED}{more}{_SUB}]|{_ESCAPED})*")
    future = _matches(rf"[vV][0-9A-Fa-f]+\.[{_UNRESERVED}{_SUB}:]+")

    def is_authority(text: str) -> bool:
        before, at, host = text.rpartition("@")
        if at and not user(before):
            return False
        if host.startswith("["):
            literal, close, port = host[1:].partition("]")
            if not close or not (is_ipv6(literal) or future(literal)) or (port and not port.startswith(":")):
                return False
            port = port[1:]
        else:
            host, _, port = host.partition(":")
            if not name(host):
                return False
        return not port or (port.isascii() and port.isdigit())

    def is_reference(text: str) -> bool:
        found = re.fullmatch(split, text, re.S)
        assert found is not None
        if found[1] is None:
            # A first segment with a colon would be a scheme.
            if absolute or (found[2] is None and ":" in found[3].partition("/")[0]):
                return False
        elif not scheme(found[1]):
            return False
        if found[2] is not None and not is_authority(found[2]):
            return False
        if found[2] is None and found[3].startswith("//"):
            return False
        return path(found[3]) and query(found[4] or "") and fragment(found[5] or "")

    return is_reference


_VARIABLE = rf"(?:[A-Za-z0-9_]|{_ESCAPED})(?:\.?(?:[A-Za-z0-9_]|{_ESCAPED}))*(?::[1-9][0-9]{{0,3}}|\*)?"
is_uri_template = _matches(
    rf"(?:[!#$&-;=?-\[\]_a-z~{_UCS}{_PRIVATE}]|{_ESCAPED}|\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
)


def is_regex(text: str) -> bool:
    """ECMA-262 with the flag u."""
    try:
        pattern_of(text, strict=True)
    except ValueError:
        return False
    return True


FORMATS: Mapping[str, Callable[[str], bool]] = {
    "date": is_date,
    "time": is_time,
    "date-time": is_date_time,
    "duration": is_duration,
    "email": is_email,
    "idn-email": is_idn_email,
    "hostname": is_hostname,
    "idn-hostname": is_idn_hostname,
    "ipv4": is_ipv4,
    "ipv6": is_ipv6,
    "uri": _reference(False, True),
    "uri-reference": _reference(False, False),
    "iri": _reference(True, True),
    "iri-reference": _reference(True, False),
    "uri-template": is_uri_template,
    "json-pointer": _matches(r"(?:/(?:[^~/]|~[01])*)*"),
    "relative-json-pointer": _matches(r"(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~[01])*)*)"),
    "uuid": _matches(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    "regex": is_regex,
}

# The mask engine's own formats: the same texts, and some more.
MASKED_EXACTLY = frozenset({"date", "ipv4", "uuid"})
MASKED_WIDER = frozenset({"date-time", "time"})

# The parts of an address and of a URI as patterns: what they do not say (a name's length, whether xn-- decodes) is judged.
_HEX = "[0-9A-Fa-f]{1,4}"
_LAST_32 = f"(?:{_HEX}:{_HEX}|{_OCTET}(?:\\.{_OCTET}){{3}})"
_IPV6 = "|".join(
    [f"(?:{_HEX}:){{6}}{_LAST_32}", f"::(?:{_HEX}:){{5}}{_LAST_32}"]
    + [f"(?:(?:{_HEX}:){{0,{k}}}{_HEX})?::(?:{_HEX}:){{{4 - k}}}{_LAST_32}" for k in range(5)]
    + [f"(?:(?:{_HEX}:){{0,5}}{_HEX})?::{_HEX}", f"(?:(?:{_HEX}:){{0,6}}{_HEX})?::"]
)
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_HOST = rf"{_HOST}(?:\.{_HOST})*"
_MAILBOX = (
    r"""(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+)*|"(?:[ !#-\[\]-~]|\\[ -~])*")"""
    rf"@(?:{_HOST}|\[(?:{_OCTET}(?:\.{_OCTET}){{3}}|[Ii][Pp][Vv]6:(?:{_IPV6}))\])"
)
_N = "[0-9]+"
_CLOCK = f"T(?:{_N}H(?:{_N}M(?:{_N}S)?)?|{_N}M(?:{_N}S)?|{_N}S)"
_PERIOD = f"P(?:{_N}W|(?:{_N}Y(?:{_N}M(?:{_N}D)?)?|{_N}M(?:{_N}D)?|{_N}D)(?:{_CLOCK})?|{_CLOCK})"
_PLAIN = r"A-Za-z0-9\-._~!$&'()*+,;="
_PATH = rf"(?:[{_PLAIN}:@]|{_ESCAPED})"
_REGISTERED = rf"(?:[{_PLAIN}]|{_ESCAPED})*"
_AUTHORITY = (
    rf"(?:(?:[{_PLAIN}:]|{_ESCAPED})*@)?(?:\[(?:{_IPV6}|[vV][0-9A-Fa-f]+\.[{_PLAIN}:]+)\]|{_REGISTERED})(?::[0-9]*)?"
)
_AFTER_PATH = rf"(?:\?(?:{_PATH}|[/?])*)?(?:#(?:{_PATH}|[/?])*)?"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*:"
_FROM_ROOT = f"//{_AUTHORITY}(?:/{_PATH}*)*|/(?:{_PATH}+(?:/{_PATH}*)*)?"
_URI = f"{_SCHEME}(?:{_FROM_ROOT}|{_PATH}+(?:/{_PATH}*)*)?{_AFTER_PATH}"
# Without a scheme the first segment has no colon.
_SEGMENT = rf"(?:[{_PLAIN}@]|{_ESCAPED})"
_REFERENCE = f"(?:(?:{_SCHEME})?(?:{_FROM_ROOT})?|(?:{_SCHEME}{_PATH}+|{_SEGMENT}+)(?:/{_PATH}*)*){_AFTER_PATH}"

# Patterns that every text of a format has, in ECMA-262's syntax: what the mask offers, and how a prefix is judged.
WIDER: Mapping[str, str] = {
    "date": r"^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])$",
    "time": r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[zZ]|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])$",
    "date-time": r"^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])[tT](?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)"
    r"(?:\.[0-9]+)?(?:[zZ]|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])$",
    "duration": f"^{_PERIOD}$",
    "email": f"^{_MAILBOX}$",
    "hostname": f"^{_HOST}$",
    "ipv4": r"^[0-9]{1,3}(?:\.[0-9]{1,3}){3}$",
    "ipv6": f"^(?:{_IPV6})$",
    "uri": f"^{_URI}$",
    "uri-reference": f"^{_REFERENCE}$",
    "json-pointer": r"^(?:/(?:[^~/]|~[01])*)*$",
    "relative-json-pointer": r"^(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~[01])*)*)$",
    "uuid": r"^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
}
