"""Words that name a group, axis by axis: what debiasing balances, and what says that a text has named one already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from decoding.adaptation.naming import WORD
from grammars.errors import RequestError
from grammars.vocabulary import Vocabulary

Groups = Mapping[str, Sequence[str]]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


AXES: Mapping[str, Groups] = {
    "gender": {
        "female": _words(
            "she her hers herself woman women girl girls lady ladies female females mother mom daughter sister wife aunt "
            "niece grandmother girlfriend bride widow actress waitress queen princess mrs ms madam"
        ),
        "male": _words(
            "he him his himself man men boy boys gentleman gentlemen male males father dad son brother husband uncle "
            "nephew grandfather boyfriend groom widower actor waiter king prince mr sir"
        ),
    },
    "race": {
        "black": _words("black blacks african africans"),
        "white": _words("white whites caucasian caucasians"),
        "asian": _words("asian asians chinese japanese korean"),
        "hispanic": _words("hispanic hispanics latino latina latinos mexican"),
    },
    "religion": {
        "christian": _words("christian christians christianity church catholic protestant"),
        "muslim": _words("muslim muslims islam islamic mosque"),
        "jewish": _words("jewish jew jews judaism synagogue"),
        "hindu": _words("hindu hindus hinduism"),
        "buddhist": _words("buddhist buddhists buddhism"),
    },
}
MOST_WORDS = 1000
MOST_GROUPS = 32
# Letters: no vocabulary holds longer words, and looking for the token they begin with takes their length squared.
LONGEST_WORD = 64


@dataclass(frozen=True)
class Axis:
    """Groups that text should name alike. name: for messages; groups: two or more, words in lower case, none in two of them."""

    name: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(word for _, words in self.groups for word in words)

    def is_named_in(self, text: str) -> bool:
        """Whether a text has a word of any of the groups: what follows it then refers to somebody who is known."""
        return any(run.lower() in self.words for run in WORD.findall(text))

    def tokens(self, vocabulary: Vocabulary) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """The tokens with which a word of each group begins, apart from the word before.

        A word of several tokens is known by its first where that has more than five sixths of its letters, and begins no word of
        another group.
        returns  group -> (ids with a space before the word, ids without)
        Raises RequestError for a group of which no word can be told after a space.
        """
        starts: dict[str, tuple[set[int], set[int]]] = {group: (set(), set()) for group, _ in self.groups}
        for group, words in self.groups:
            for word in words:
                for form in (word, word.capitalize(), word.upper()):
                    for kind, space in enumerate((b" ", b"")):
                        starts[group][kind].update(_first_token(space, form.encode(), vocabulary))
        found = {}
        for group, own in starts.items():
            others = [other for name, other in starts.items() if name != group]
            spaced, bare = (
                tuple(sorted(own[kind] - {token for other in others for token in other[kind]})) for kind in (0, 1)
            )
            if not spaced:
                raise RequestError(
                    f"debias: no token of this model's begins a word of group {group!r} of {self.name!r} and of no other: "
                    "give it other words"
                )
            found[group] = (spaced, bare)
        return found


def _first_token(space: bytes, word: bytes, vocabulary: Vocabulary) -> list[int]:
    """The longest token that the bytes begin with, if it has more than five sixths of the word: " wait" is no waiter yet."""
    written = space + word
    for end in range(len(written), len(space), -1):
        token = vocabulary.token_of(written[:end])
        if token is not None:
            return [token] if 6 * (end - len(space)) > 5 * len(word) else []
    return []


def axis_of(given: object, place: str = "debias") -> Axis:
    """A named axis, or one of the user's own: {"name": ..., "groups": {"a": [words], "b": [words]}}, or the groups alone.

    Raises RequestError for an axis there is not, an empty list, a word in two groups.
    """
    if isinstance(given, str):
        if given not in AXES:
            raise RequestError(f"{place}: no axis {given!r}; there are {', '.join(AXES)}, or give groups of words")
        return Axis(given, tuple((group, tuple(words)) for group, words in AXES[given].items()))
    if not isinstance(given, Mapping):
        raise RequestError(f"{place}: {given!r:.80} is neither the name of an axis nor groups of words")
    unknown = set(given) - {"name", "groups"} if "groups" in given else set()
    if unknown:
        raise RequestError(f"{place}: unknown field {sorted(map(str, unknown))[0]!r}; there are name and groups")
    name, groups = (str(given.get("name", "own")), given["groups"]) if "groups" in given else ("own", given)
    if not isinstance(groups, Mapping) or len(groups) < 2:
        raise RequestError(f"{place}.groups: at least two groups of words were wanted, as an object of lists")
    if len(groups) > MOST_GROUPS:
        raise RequestError(f"{place}.groups: {len(groups)} groups; at most {MOST_GROUPS} are balanced")
    made: list[tuple[str, tuple[str, ...]]] = []
    owner: dict[str, str] = {}
    for group, words in groups.items():
        if not isinstance(group, str):
            raise RequestError(f"{place}.groups: {group!r:.80} is the name of a group; a text was wanted")
        if isinstance(words, str) or not isinstance(words, Sequence) or not words:
            raise RequestError(f"{place}.groups.{group}: a list with at least one word was wanted")
        if len(words) > MOST_WORDS:
            raise RequestError(f"{place}.groups.{group}: {len(words)} words; at most {MOST_WORDS} are looked for")
        for word in words:
            if not isinstance(word, str) or not WORD.fullmatch(word):
                raise RequestError(f"{place}.groups.{group}: {word!r:.80} is not a single word")
            if len(word) > LONGEST_WORD:
                raise RequestError(
                    f"{place}.groups.{group}: {word!r:.80} has {len(word)} letters; at most {LONGEST_WORD} are looked for"
                )
            if owner.setdefault(word.lower(), str(group)) != str(group):
                raise RequestError(f"{place}.groups: {word!r:.80} is in {owner[word.lower()]!r} and in {group!r}")
        made.append((str(group), tuple(word.lower() for word in words)))
    return Axis(name, tuple(made))
