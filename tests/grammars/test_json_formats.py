"""The patterns by which a mask writes a format accept what the format accepts, and next to nothing else."""

from __future__ import annotations

from random import Random

import pytest

from grammars.json_formats import FORMATS, WIDER
from grammars.json_patterns import pattern_of

# Texts of a format, and the characters that are put in and out of them.
TEXTS = {
    "ipv6": (("1::2", "::1.2.3.4", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1:2:3:4:5:6:7::"), "01afF:::.2g"),
    "ipv4": (("1.2.3.4", "255.0.10.99"), "0125."),
    "duration": (("P1Y2M3DT4H5M6S", "P1W", "PT3M"), "PTYMDHSW12"),
    "email": (("a.b@c.d", '"a\\""@[1.2.3.4]', "a@[IPv6:::1]"), 'ab.@@-"[]1:x_\\'),
    "hostname": (("ab.c-d.e", "xn--bcher-kva.b"), "ab.-1n"),
    "uri": (("a://b@c:1/d?e#f", "a:b/c", "a://[::1]:2/", "a:/b", "a:%20"), "ab:/?#[]@%2f.1vV~"),
    "uri-reference": (("//a/b", "a/b?c#d", "?q", "#f", "../x", "a:b", ""), "ab:/?#[]@%2f.1vV"),
    "json-pointer": (("/a/~0b", ""), "/~012a"),
    "relative-json-pointer": (("1/a", "0#"), "/~012a#"),
    "uuid": (("01234567-89ab-cdef-0123-456789ABCDEF",), "0aF-g"),
    "date": (("2024-02-29", "1999-12-31"), "0129-3"),
    "time": (("10:20:30Z", "23:59:60.5+00:00"), "0126:.Z+-"),
    "date-time": (("2024-02-29T10:20:30Z", "1999-12-31t23:59:60.5+00:00"), "0126:.Z+-T"),
}
# What only a whole text shows: days of months, leap seconds, whether xn-- decodes.
JUDGED_AS_A_WHOLE = ("date", "time", "date-time", "hostname", "ipv4")


def changed(text: str, characters: str, random: Random) -> str:
    letters = list(text)
    for _ in range(random.randrange(4)):
        k = random.randrange(len(letters) + 1)
        letters[k : k + random.randrange(2)] = random.choice(["", random.choice(characters)])
    return "".join(letters)


def test_every_format_with_a_pattern_is_tried():
    assert TEXTS.keys() == WIDER.keys()


@pytest.mark.parametrize("name", TEXTS)
def test_a_pattern_is_as_wide_as_its_format(name: str):
    texts, characters = TEXTS[name]
    random, pattern = Random(0), pattern_of(WIDER[name])
    assert pattern.rust is not None
    tried = {changed(random.choice(texts), characters, random) for _ in range(4000)} | set(texts)
    members = {text for text in tried if FORMATS[name](text)}
    found = {text for text in tried if pattern.found_in(text)}
    assert members >= set(texts) and members <= found
    assert name in JUDGED_AS_A_WHOLE or found == members
    assert len(tried - found) > 20
