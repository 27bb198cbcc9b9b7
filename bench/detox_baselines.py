"""What others do against toxic continuations, on the same model, prompts and random numbers: the baselines of bench_detox.

Each arm is a law of the next token, made from what one or more models say after the text so far, and cut to a nucleus of .9 as
every arm of the benchmark is.

    instruction   the text is continued behind a sentence that calls it polite
    self-debias   Schick, Udupa & Schütze (2021), arXiv 2103.00453, of their six attributes with the one that says toxicity
    dexperts      Liu et al. (2021), arXiv 2105.03023, with an anti-expert alone (bench/anti_expert.py): one of its ablations
    rad           Deng & Raffel (2023), arXiv 2310.09520, with the signal `profanity` for a reward, which was not trained on
                  prefixes as theirs was
    word filter   no token that completes or leaves the text in a word which the signal by itself calls toxic

A prompt is read once for all its samples in a batch; rows of like length stand together.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bench.anti_expert import anti_expert_path
from decoding.adaptation.exact_law import draw
from decoding.adaptation.linear_signal import LinearSignal
from decoding.adaptation.profanity import profanity
from decoding.adaptation.signal import Signal
from decoding.torch_model import Past, TorchModel
from grammars.vocabulary import Vocabulary
from samplers.randomness import derive_seed, uniforms

TOP_P = 0.9
MAX_TOKENS = 20
BATCH = 32

# No request, which the model might answer: it goes on with the text behind it.
INSTRUCTION = "The following text is polite, respectful and free of any toxic, rude or hateful language:\n"
# The attribute "toxicity" in the paper's template for self-diagnosis.
DIAGNOSIS = "The following text contains rude, disrespectful or unreasonable language:\n"
# No token is made less likely than this by self-debiasing, of its own probability: the paper's released code.
LEAST_FACTOR = 0.01
# How many of the likeliest tokens RAD looks at: its paper.
RAD_TOP_K = 20
_LETTERS = re.compile(r"\w+")
_LAST_LETTERS = re.compile(r"\w+\Z")


@dataclass(frozen=True, eq=False)
class Reading:
    """A model, and what it reads before each text."""

    model: TorchModel
    prefix: str = ""


@dataclass
class Draft:
    """A continuation under way."""

    prompt: str
    seed: int
    sample: int
    written: bytes = b""

    def text_with(self, more: bytes = b"") -> str:
        """As a reader sees it so far, the prompt included, and with more after it."""
        return (self.prompt.encode() + self.written + more).decode(errors="replace")


# What each reading says of the next token, float32 [B, V] of logits, and the B drafts -> logits [B, V] of the law that is drawn
# from; -inf for a token that is not.
Law = Callable[[Sequence[Tensor], Sequence[Draft]], Tensor]


@dataclass(frozen=True, eq=False)
class Baseline:
    """An arm: which models read what, and the law made of it. All models have the vocabulary of the first.

    temperature  of what is drawn, as DExperts' own code has it: the law's logits are divided by it, within its nucleus
    """

    readings: tuple[Reading, ...]
    law: Law
    temperature: float = 1.0


def nucleus(logits: Tensor, top_p: float = TOP_P) -> Tensor:
    """The same, -inf outside the likeliest tokens: as few as hold top_p, of equal ones the lower id first. float32 [B, V]"""
    kept = torch.full_like(logits, -torch.inf)
    for row, masses in enumerate(torch.softmax(logits, 1)):
        # Those below this have less than what may be left out, all of them together: they need not be sorted.
        likely = torch.nonzero(masses >= (1 - top_p) / len(masses))[:, 0]
        ordered, order = masses[likely].double().sort(descending=True, stable=True)
        chosen = likely[order[ordered.cumsum(0) - ordered < top_p]]
        kept[row, chosen] = logits[row, chosen]
    return kept


def plain(said: Sequence[Tensor], _: Sequence[Draft]) -> Tensor:
    """What the only reading says."""
    (logits,) = said
    return nucleus(logits)


def self_debias(decay: float) -> Law:
    """Tokens that a text said to be toxic makes likelier lose exp(decay · difference) of their probability.

    decay  λ of the paper
    """

    def law(said: Sequence[Tensor], _: Sequence[Draft]) -> Tensor:
        own, diagnosed = said
        return nucleus(self_debiased(decay, own, diagnosed))

    return law


def self_debiased(decay: float, own: Tensor, diagnosed: Tensor) -> Tensor:
    """The whole law of self-debiasing: logits [B, V], of those of the text alone and behind the diagnosis."""
    difference = torch.softmax(own, 1) - torch.softmax(diagnosed, 1)
    return own + (decay * difference.clamp_max(0)).clamp_min(np.log(LEAST_FACTOR))


def dexperts(alpha: float) -> Law:
    """What makes a token likelier to an anti-expert than to the model counts against it, alpha times: in the model's nucleus."""

    def law(said: Sequence[Tensor], _: Sequence[Draft]) -> Tensor:
        own, anti = said
        return nucleus(own) - alpha * (anti - own)

    return law


def rad(beta: float, signal: Signal, vocabulary: Vocabulary, top_k: int = RAD_TOP_K) -> Law:
    """The likeliest tokens, as logits + beta · p(not toxic) of the text with the token, the prompt included."""

    def law(said: Sequence[Tensor], drafts: Sequence[Draft]) -> Tensor:
        (logits,) = said
        likeliest = nucleus(logits).topk(min(top_k, logits.shape[1]), dim=1)
        rows, places = torch.nonzero(likeliest.values > -torch.inf, as_tuple=True)
        tokens = likeliest.indices[rows, places]
        texts = [
            drafts[row].text_with(vocabulary.bytes_of(token)) for row, token in zip(rows.tolist(), tokens.tolist())
        ]
        rewards = torch.sigmoid(torch.from_numpy(-signal.log_odds(texts)))
        scored = torch.full_like(logits, -torch.inf)
        scored[rows, tokens] = logits[rows, tokens] + (beta * rewards).to(logits.dtype)
        return scored

    return law


def objectionable(signal: LinearSignal) -> frozenset[str]:
    """The words that alone make the signal call a text toxic, in lower case."""
    words = sorted(signal.words)
    return frozenset(word for word, odds in zip(words, signal.log_odds(words)) if odds > 0)


class WordFilter:
    """A law without the tokens that make a word of a list, alone or with the letters that the text ends in.

    A word counts when the token closes it and when the text ends with it, though it might go on: "ass" in "assist" too.
    words  in lower case
    """

    def __init__(self, words: Collection[str], vocabulary: Vocabulary) -> None:
        self._words = frozenset(words)
        # Tokens that have such a word after their first letters, wherever they stand; and the others by their first letters,
        # which may go on with a word: "" for a token that starts otherwise.
        bad = []
        starting: dict[str, list[int]] = {}
        for token in range(vocabulary.size):
            text = vocabulary.bytes_of(token).decode(errors="replace").lower()
            start = match.group() if (match := _LETTERS.match(text)) else ""
            if any(word in self._words for word in _LETTERS.findall(text[len(start) :])):
                bad.append(token)
            elif start:
                starting.setdefault(start, []).append(token)
        self._bad = torch.tensor(bad, dtype=torch.int64)
        self._starting = {start: torch.tensor(tokens) for start, tokens in starting.items()}
        self._after = functools.lru_cache(maxsize=4096)(self._found)

    def _found(self, tail: str) -> Tensor:
        """Tokens that are refused where the text ends in these letters, of an unfinished word: int64"""
        ends = {word[len(tail) :] for word in self._words if word.startswith(tail) and len(word) > len(tail)}
        return torch.cat([self._bad, *(self._starting[end] for end in sorted(ends) if end in self._starting)])

    def __call__(self, said: Sequence[Tensor], drafts: Sequence[Draft]) -> Tensor:
        (logits,) = said
        left = logits.clone()
        for row, draft in enumerate(drafts):
            tail = match.group() if (match := _LAST_LETTERS.search(draft.text_with())) else ""
            left[row, self._after(tail.lower())] = -torch.inf
        return nucleus(left)


@torch.inference_mode()
def generate(
    baseline: Baseline,
    prompts: Sequence[str],
    samples: int,
    seed: int,
    max_tokens: int = MAX_TOKENS,
    batch: int = BATCH,
) -> list[list[str]]:
    """Continuations of each prompt, without it: texts [P][samples].

    A text ends at the model's EOS or after max_tokens. Token t of sample n of prompt k is drawn with the uniform of address
    (derive_seed(seed, k), n, t), by every arm: where two arms have one law they draw one token.
    batch  rows at once
    """
    model = baseline.readings[0].model
    drafts = [Draft(text, derive_seed(seed, k), n) for k, text in enumerate(prompts) for n in range(samples)]
    # What is padded is computed in vain.
    lengths = {text: len(model.encode(text)) for text in set(prompts)}
    order = sorted(drafts, key=lambda draft: lengths[draft.prompt])
    for start in range(0, len(order), batch):
        _write(baseline, order[start : start + batch], max_tokens)
    texts = [draft.written.decode(errors="replace") for draft in drafts]
    return [texts[k * samples : (k + 1) * samples] for k in range(len(prompts))]


@dataclass
class _Reader:
    """A model with what its rows have read: those of its first prefix, of its second, ..."""

    model: TorchModel
    prefixes: list[str] = field(default_factory=list)
    past: Past | None = None
    hidden: Tensor | None = None

    def begin(self, drafts: Sequence[Draft], max_tokens: int) -> None:
        """Each prompt once, then a copy for each of its drafts."""
        prompts = list(dict.fromkeys(draft.prompt for draft in drafts))
        given = [self.model.encode(prefix + prompt) for prefix in self.prefixes for prompt in prompts]
        step = self.model.read(None, self.model.padded([self.model.checked(tokens, max_tokens) for tokens in given]))
        places = torch.tensor([prompts.index(draft.prompt) for draft in drafts])
        rows = torch.cat([places + len(prompts) * k for k in range(len(self.prefixes))])
        self.past, self.hidden = step.past.rows(rows), step.hidden[rows, -1]

    def read(self, tokens: Tensor, going: Tensor, rows: int) -> None:
        """Read a token in each row that is going. tokens, going: int64; rows: how many there were"""
        assert self.past is not None
        if len(going) < rows:
            self.past = self.past.rows(torch.cat([going + rows * k for k in range(len(self.prefixes))]))
        given = tokens.repeat(len(self.prefixes))[:, None]
        step = self.model.read(self.past, (given, torch.ones_like(given, dtype=torch.bool)))
        self.past, self.hidden = step.past, step.hidden[:, -1]

    def said(self) -> Sequence[Tensor]:
        """Logits for each prefix, float32 [rows, V]."""
        assert self.hidden is not None
        return self.model.logits(self.hidden).float().chunk(len(self.prefixes))


def _write(baseline: Baseline, drafts: Sequence[Draft], max_tokens: int) -> None:
    """Continue all of them side by side."""
    readers: list[_Reader] = []
    places = []  # of each reading: its reader, and which of that one's prefixes
    for reading in baseline.readings:
        reader = next((one for one in readers if one.model is reading.model), None)
        if reader is None:
            readers.append(reader := _Reader(reading.model))
        places.append((readers.index(reader), len(reader.prefixes)))
        reader.prefixes.append(reading.prefix)
    vocabulary = readers[0].model.vocabulary
    for reader in readers:
        reader.begin(drafts, max_tokens)
    running = list(drafts)
    for position in range(max_tokens):
        said = [reader.said() for reader in readers]
        logits = baseline.law([said[reader][prefix] for reader, prefix in places], running) / baseline.temperature
        points = uniforms(
            np.array([draft.seed for draft in running], dtype=np.uint64),
            np.array([draft.sample for draft in running]),
            np.full(len(running), position),
            0,
            1,
        )[:, 0]
        tokens = _drawn(logits, points)
        going = [row for row, token in enumerate(tokens.tolist()) if token not in vocabulary.eos_ids]
        for row in going:
            running[row].written += vocabulary.bytes_of(int(tokens[row]))
        if not going or position == max_tokens - 1:
            return
        for reader in readers:
            reader.read(torch.from_numpy(tokens[going]), torch.tensor(going), len(running))
        running = [running[row] for row in going]


def _drawn(logits: Tensor, points: np.ndarray) -> np.ndarray:
    """A token of each row's law, int64 [B]: by inverse CDF at points, float64 [B] in [0, 1), in the order of ids."""
    tokens = []
    for row, point in zip(logits, points):
        kept = torch.nonzero(row > -torch.inf)[:, 0]
        logprobs = torch.log_softmax(row[kept].double(), 0).numpy()
        tokens.append(int(kept[draw(logprobs[None], np.array([point]))[0]]))
    return np.array(tokens)


@functools.cache
def base_model() -> TorchModel:
    """The embedded model in float32."""
    return TorchModel.load()


def _instruction() -> Baseline:
    return Baseline((Reading(base_model(), INSTRUCTION),), plain)


def _self_debias(decay: float) -> Baseline:
    return Baseline((Reading(base_model()), Reading(base_model(), DIAGNOSIS)), self_debias(decay))


@functools.cache
def anti_expert() -> TorchModel:
    return TorchModel.load(anti_expert_path())


def _dexperts(alpha: float, temperature: float = 1.0) -> Baseline:
    return Baseline((Reading(base_model()), Reading(anti_expert())), dexperts(alpha), temperature)


def _rad(beta: float, temperature: float = 1.0) -> Baseline:
    return Baseline((Reading(base_model()),), rad(beta, profanity(), base_model().vocabulary), temperature)


def _word_filter() -> Baseline:
    return Baseline((Reading(base_model()),), WordFilter(objectionable(profanity()), base_model().vocabulary))


# Models are loaded, and the anti-expert is trained, by the first call of an arm: call it once before its time is taken.
_BASELINES: Mapping[str, Callable[[], Baseline]] = {
    "instruction": functools.cache(_instruction),
    "self-debias 10": functools.cache(lambda: _self_debias(10.0)),
    "self-debias 50": functools.cache(lambda: _self_debias(50.0)),
    "dexperts 0.5": functools.cache(lambda: _dexperts(0.5)),
    "dexperts 1.5": functools.cache(lambda: _dexperts(1.5)),
    **{
        f"dexperts 1.5, T {temperature:g}": functools.cache(functools.partial(_dexperts, 1.5, temperature))
        for temperature in (0.85, 0.7)
    },
    **{
        f"rad 50, T {temperature:g}": functools.cache(functools.partial(_rad, 50.0, temperature))
        for temperature in (0.85, 0.7)
    },
    "rad 10": functools.cache(lambda: _rad(10.0)),
    "rad 50": functools.cache(lambda: _rad(50.0)),
    "word filter": functools.cache(_word_filter),
}


def _arm(name: str) -> Callable[[Sequence[str], int, int], list[list[str]]]:
    return lambda prompts, samples, seed: generate(_BASELINES[name](), prompts, samples, seed)


# Name -> (prompts, samples, seed) -> texts [P][samples].
ARMS: Mapping[str, Callable[[Sequence[str], int, int], list[list[str]]]] = {name: _arm(name) for name in _BASELINES}
