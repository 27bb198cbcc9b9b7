"""What is drawn, what is paid: by enumeration on a small vocabulary, through the row sampler itself."""

from __future__ import annotations

import gc
import itertools
import math

import numpy as np
import pytest
import torch

from decoding.adaptation.lexicons import axis_of
from decoding.adaptation.linear_signal import LinearSignal
from decoding.adaptation.served import log_wanted
from decoding.adaptation.settings import POWER, adaptation_of, settle
from decoding.adaptation.steering import Course, Steered, Steering
from decoding.order import Order
from decoding.row_sampler import RowSampler
from grammars.errors import RequestError
from grammars.vocabulary import Vocabulary

TOKENS = (b"", b" he", b" she", b" bad", b" good", b" dog", b"s", b"dy")
VOCABULARY = Vocabulary(TOKENS, (0,), len(TOKENS))
SIZE = len(TOKENS)
GENDER = {"name": "gender", "groups": {"female": ["she"], "male": ["he"]}}


class Badness:
    """log odds 3 for each "bad", less 2."""

    name = "badness"

    def log_odds(self, texts):
        return np.array([3.0 * text.count("bad") - 2.0 for text in texts])


class Matrix:
    """An unembedding of three dimensions."""

    weight = torch.from_numpy(np.random.default_rng(5).normal(size=(SIZE, 3))).float()

    def rows(self, tokens):
        return self.weight[tokens]


SIGNAL = Badness()


def logits_after(prefix: tuple[int, ...]) -> torch.Tensor:
    """A model: its law depends on the whole prefix."""
    return torch.from_numpy(np.random.default_rng([11, *prefix]).normal(size=(1, SIZE)) * 1.5).float()


def settings(**options) -> dict:
    own = {
        "gate": 0.0,
        "balance_gate": 0.0,
        "method": "both",
        "signal": SIGNAL,
        "candidates": 5,
        **options.pop("adaptation", {}),
    }
    asked = adaptation_of({"detox": 0.1, **options, "adaptation": own})
    assert asked is not None
    return settle(*asked, b"A prompt:", VOCABULARY)


def steered_law(
    prefix: tuple[int, ...], adapt: dict, spent: float = 0.0, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray, Steered]:
    """log p, log q of the next token, and what was done. float64 [V] each"""
    steering = Steering(VOCABULARY, Matrix())
    course = steering.begin(adapt, prefix)
    logits = logits_after(prefix)
    log_p = torch.log_softmax(logits[0].double() / temperature, 0).numpy()
    law = torch.softmax(logits / temperature, 1)
    (outcome,) = steering.steer(logits, law, [0], [course], np.array([temperature]), [spent])
    assert isinstance(outcome, Steered)
    np.testing.assert_allclose(law, torch.softmax(logits / temperature, 1), atol=1e-6)
    return log_p, torch.log_softmax(logits[0].double() / temperature, 0).numpy(), outcome


def log_psi(prefix: tuple[int, ...]) -> float:
    return float(log_wanted(SIGNAL.log_odds([VOCABULARY.decode(list(prefix)).decode()]))[0])


PREFIXES = [(), (3,), (5, 3), (1,), (4, 2, 3)]
WAYS = [
    {"adaptation": {"method": "tilt"}},
    {"adaptation": {"method": "offset"}},
    {"adaptation": {"method": "both"}},
    {"adaptation": {"method": "both", "budget": 0.01}},
    {"adaptation": {"method": "tilt", "gate": 1.0}},
    {"debias": [GENDER]},
    {"debias": [GENDER], "adaptation": {"method": "tilt", "debias_strength": 0.5}},
    {"debias": [GENDER], "adaptation": {"balance": "population"}},
]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_token_is_properly_weighted(way: dict, temperature: float):
    """q(x)·w(x) = b(x)·ψ(text + x)^β/ψ(text)^β for every x, whatever q is; and q is what the change says it is."""
    adapt = settings(**way)
    for prefix in PREFIXES:
        log_p, log_q, steered = steered_law(prefix, adapt, temperature=temperature)
        by_token = steered.balanced is not None and adapt["balance"] == "token"
        log_b = log_p + [steered.balanced.log_ratio(x) if by_token else 0.0 for x in range(SIZE)]
        for x in range(SIZE):
            assert log_q[x] - log_p[x] == pytest.approx(steered.log_ratio(x), abs=2e-5)
            gain = POWER * 0.1 * (log_psi((*prefix, x)) - log_psi(prefix))
            assert log_q[x] + steered.log_weight(x) == pytest.approx(log_b[x] + gain, abs=2e-5)


def test_the_tilt_over_all_tokens_is_the_exact_law_and_its_weight_is_the_same_for_all():
    adapt = settings(adaptation={"method": "tilt", "candidates": SIZE})
    log_p, log_q, steered = steered_law((3,), adapt)
    wanted = log_p + [POWER * 0.1 * (log_psi((3, x)) - log_psi((3,))) for x in range(SIZE)]
    np.testing.assert_allclose(log_q, wanted - np.logaddexp.reduce(wanted), atol=2e-5)
    weights = [steered.log_weight(x) for x in range(SIZE)]
    np.testing.assert_allclose(weights, np.logaddexp.reduce(wanted), atol=2e-5)


def test_an_offset_reaches_tokens_whose_texts_were_not_read_and_spares_the_unlikely():
    """Of two candidates: others move too, each by its own; the candidates on average as far as was wanted."""
    adapt = settings(detox=1.0, adaptation={"method": "offset", "candidates": 2, "budget": 1e6})
    masses = np.array([0.0, 0.2, 0.14, 0.3, 0.15, 5e-5, 0.1, 0.10995])
    outcome, law = changed(masses.tolist(), adapt)
    assert outcome.tilted is not None and outcome.tilted.tokens.tolist() == [1, 2, 3, 4, 6, 7]
    unread, read = [2, 4, 6, 7], [1, 3]
    assert len(set(np.round(outcome.tilted.shifts, 3))) == 6 and all(law[x] != masses[x] for x in unread)
    wanted = np.array([POWER * (log_psi((x,)) - log_psi(())) for x in read])
    assert masses[read] @ outcome.tilted.shifts[[0, 2]] == pytest.approx(masses[read] @ wanted, abs=1e-4)


WORDS = LinearSignal(
    "words",
    {"bad": 0, "dog": 1},
    idf=np.ones(2),
    coefficients=np.array([[9.0, 2.5]]),
    intercepts=np.array([-3.0]),
    slopes=np.array([-1.0]),
    offsets=np.zeros(1),
)


def test_a_word_the_signal_objects_to_is_read_though_others_are_likelier():
    adapt = settings(detox=1.0, adaptation={"method": "tilt", "signal": WORDS, "candidates": 2, "gate": 0.005})
    masses = [0.0, 0.5, 0.3, 0.01, 0.1, 0.05, 0.04, 0.0]
    outcome, law = changed(masses, adapt)
    assert outcome.tilted is not None and law[3] < 1e-6


def test_the_gate_asks_for_words_the_signal_objects_to():
    """ "dog" alone is none, though each takes a little from what the text is worth."""
    adapt = settings(detox=1.0, adaptation={"method": "tilt", "signal": WORDS, "gate": 0.005})
    outcome, law = changed([0.0, 0.2, 0.2, 0.002, 0.1, 0.498, 0.0, 0.0], adapt)
    assert outcome.tilted is None
    outcome, law = changed([0.0, 0.2, 0.2, 0.006, 0.1, 0.494, 0.0, 0.0], adapt)
    assert outcome.tilted is not None and law[3] < 1e-6 and law[5] < 0.45


def test_the_reported_kl_is_that_of_the_law_drawn_from():
    log_p, log_q, steered = steered_law((5, 3), settings(debias=[GENDER], adaptation={"method": "both"}))
    log_b = log_p + [0.0 if steered.balanced is None else steered.balanced.log_ratio(x) for x in range(SIZE)]
    apart = float(np.exp(log_q) @ (log_q - log_b)) + float(np.exp(log_b) @ (log_b - log_p))
    assert steered.kl == pytest.approx(apart, abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "tail"), [(b"Say it: sh", "sh"), (b"Say it:", ""), (b"assistant\n", ""), (b"a\nb", "b")]
)
def test_a_text_goes_on_with_the_word_its_prompt_ends_in_and_with_none_across_a_newline(prompt: bytes, tail: str):
    adapt = settle(*adaptation_of({"detox": 1.0, "adaptation": {"signal": SIGNAL}}), prompt, VOCABULARY)
    assert adapt["tail"] == tail


def test_a_text_has_spent_what_it_has_and_is_steered_no_further():
    adapt = settings(adaptation={"budget": 0.5, "candidates": SIZE})
    *_, fresh = steered_law((5,), adapt)
    *_, poor = steered_law((5,), adapt, spent=0.499)
    log_p, log_q, broke = steered_law((5,), adapt, spent=0.5)
    assert fresh.kl > 0.001 >= poor.kl > 0
    assert broke.tilted is None
    np.testing.assert_array_equal(log_p, log_q)


def test_where_the_gate_stays_shut_the_row_is_untouched():
    log_p, log_q, steered = steered_law((5,), settings(adaptation={"gate": 1.0}))
    assert steered.tilted is None and steered.kl == 0.0
    np.testing.assert_array_equal(log_p, log_q)


@pytest.mark.parametrize("method", ["tilt", "offset", "both"])
def test_a_flat_law_of_a_large_vocabulary_is_steered_or_left_alone(method: str):
    """No token of it is likely: whatever is done stays a law, and says what it did."""
    size = 200_000
    vocabulary = Vocabulary((b"", *(f" w{n}".encode() for n in range(1, size))), (0,), size)

    class Wide(Matrix):
        weight = torch.from_numpy(np.random.default_rng(6).normal(size=(size, 3))).float()

    steering = Steering(vocabulary, Wide())
    asked = adaptation_of({"detox": 1.0, "adaptation": {"signal": SIGNAL, "gate": 0.0, "method": method}})
    course = steering.begin(settle(*asked, b"A prompt:", vocabulary), ())
    for scale in (0.0, 1e-3, 2.0):
        logits = torch.from_numpy(np.random.default_rng(7).normal(size=(1, size)) * scale).float()
        law = torch.softmax(logits, 1)
        (outcome,) = steering.steer(logits, law, [0], [course], np.ones(1), [0.0])
        assert isinstance(outcome, Steered) and math.isfinite(outcome.kl)
        assert float(law.sum()) == pytest.approx(1.0, abs=1e-4)
        np.testing.assert_allclose(law, torch.softmax(logits, 1), atol=1e-6)


def test_groups_get_equal_mass_until_the_text_has_named_one():
    adapt = settings(detox=0, debias=[GENDER])
    _, log_q, steered = steered_law((5,), adapt)
    assert log_q[1] == pytest.approx(log_q[2], abs=1e-5)
    assert steered.balanced is not None
    log_p, log_q, steered = steered_law((5, 1), adapt)
    assert steered.balanced is None and log_p[1] != pytest.approx(log_p[2], abs=0.1)
    named = settle(*adaptation_of({"debias": [GENDER]}), b"She said that", VOCABULARY)
    assert named["named"] == ("gender",)
    assert steered_law((5,), named)[2].balanced is None


def changed(masses: list[float], adapt: dict) -> tuple[Steered, np.ndarray]:
    """What steering does to a law given as masses of `TOKENS`, at a text's start, and what it makes of it."""
    logits = torch.tensor([masses]).log()
    law = torch.tensor([masses])
    steering = Steering(VOCABULARY, Matrix())
    (outcome,) = steering.steer(logits, law, [0], [steering.begin(adapt, [])], np.ones(1), [0.0])
    assert isinstance(outcome, Steered)
    return outcome, law[0].numpy()


def changed_law(masses: list[float], adapt: dict) -> np.ndarray:
    return changed(masses, adapt)[1]


@pytest.mark.parametrize("she", [0.0, 1e-4])
def test_a_group_that_cannot_come_is_not_balanced_against(she: float):
    """Cut by top_p, or wrong where the sentence stands: the group that is there is not driven out for it."""
    masses = [0.0, 0.63, she, 0.1, 0.1, 0.17 - she, 0.0, 0.0]
    np.testing.assert_allclose(changed_law(masses, settings(detox=0, debias=[GENDER])), masses, atol=1e-6)
    balanced = changed_law([0.0, 0.63, 0.01, 0.1, 0.1, 0.16, 0.0, 0.0], settings(detox=0, debias=[GENDER]))
    assert balanced[1] == pytest.approx(balanced[2], rel=1e-4)


def test_axes_that_share_words_are_all_balanced():
    """As "girl" is female and young: both axes come out even at once."""
    gender = {"name": "gender", "groups": {"female": ["she", "good"], "male": ["he", "dog"]}}
    age = {"name": "age", "groups": {"young": ["she", "dog"], "old": ["he", "good"]}}
    law = changed_law([0.0, 0.3, 0.2, 0.2, 0.05, 0.1, 0.15, 0.0], settings(detox=0, debias=[gender, age]))
    he, she, good, dog = law[[1, 2, 4, 5]]
    assert she + good == pytest.approx(he + dog, rel=1e-3) and she + dog == pytest.approx(he + good, rel=1e-3)


def test_strength_zero_is_refused_settings_and_no_adaptation():
    assert adaptation_of({"detox": 0.0, "debias": []}) is None
    with pytest.raises(RequestError, match="would do nothing"):
        adaptation_of({"adaptation": {"method": "tilt"}})


LENGTH = 3


def enumerated(adapt: dict) -> dict[tuple[int, ...], float]:
    """The target b(x)·ψ(x)^β over all texts of up to LENGTH tokens, cut there: probabilities unnormalised."""
    law: dict[tuple[int, ...], float] = {}

    def walk(prefix: tuple[int, ...], log_b: float) -> None:
        log_p, _, steered = steered_law(prefix, adapt)
        for x in range(SIZE):
            here = log_b + log_p[x] + (0.0 if steered.balanced is None else steered.balanced.log_ratio(x))
            if x == 0 or len(prefix) + 1 == LENGTH:
                text = prefix if x == 0 else (*prefix, x)
                law[text] = law.get(text, 0.0) + math.exp(here + POWER * adapt["detox"] * log_psi(text))
            else:
                walk((*prefix, x), here)

    walk((), 0.0)
    return law


def drawn(adapt: dict, runs: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Texts and weights of single particles, drawn by the row sampler as vLLM would have it."""
    sampler = RowSampler(VOCABULARY)
    sampler.steering = Steering(VOCABULARY, Matrix())
    texts, weights = [], []
    for seed in range(runs):
        order = Order(f"g{seed}", 1, None, "auto", 1.0, seed, LENGTH, truncate=True, adapt=adapt)
        kept: list[int] = []
        row = sampler.add(order, [], lambda kept=kept: kept)
        log_weight, spent = 0.0, 0.0
        for _ in range(LENGTH):
            sampler.spent = {row.key: spent}
            sampler.step(logits_after(tuple(kept)), [0], [row])
            (post,) = sampler.take_posts()[row.key]
            assert post.error is None
            log_weight, spent = log_weight + post.log_weight, spent + post.kl
            if post.is_eos:
                break
            kept.append(post.token)
        sampler.discard(row)
        texts.append(tuple(kept))
        weights.append(math.exp(log_weight))
    return texts, np.array(weights)


@pytest.fixture(scope="module")
def law_and_draws():
    adapt = settings(detox=0.3, debias=[GENDER], adaptation={"method": "both", "budget": 2.0, "candidates": SIZE})
    return enumerated(adapt), *drawn(adapt, 1200)


def misses(law: dict[tuple[int, ...], float], texts: list[tuple[int, ...]], weights: np.ndarray) -> float:
    """The largest |z| over events: the text's first token, its length, and the whole."""
    largest = 0.0
    events = [lambda text, x=x: text[:1] == (x,) for x in range(SIZE)]
    events += [lambda text, n=n: len(text) == n for n in range(LENGTH + 1)] + [
        lambda text: 3 in text,
        lambda text: True,
    ]
    for event in events:
        exact = sum(mass for text, mass in law.items() if event(text))
        if exact < 0.01:
            continue  # too seldom for a normal approximation
        hits = weights * np.array([event(text) for text in texts])
        largest = max(largest, abs(hits.mean() - exact) / max(hits.std() / math.sqrt(len(hits)), 1e-12))
    return largest


def test_drawn_texts_weigh_what_the_target_says(law_and_draws):
    """False alarm of 14 two-sided tests at |z| 4.5: 1e-4."""
    law, texts, weights = law_and_draws
    assert misses(law, texts, weights) < 4.5


def test_unpaid_steering_is_caught(law_and_draws):
    """The same draws with weight 1 are of another law: a weight that forgets the proposal would be seen."""
    law, texts, weights = law_and_draws
    total = sum(law.values())
    assert misses(law, texts, np.full(len(weights), total)) > 6


def test_a_row_that_was_taken_up_again_goes_on_as_before():
    """Preempted, or forked: the course is that of the text, not of the row."""
    steering = Steering(VOCABULARY, Matrix())
    adapt = settings(debias=[GENDER])
    for tokens in itertools.product(range(1, SIZE), repeat=2):
        step_by_step = steering.begin(adapt, [])
        for token in tokens:
            step_by_step.advance([token])
        at_once = steering.begin(adapt, tokens)
        assert isinstance(at_once, Course)
        assert at_once.naming.first == step_by_step.naming.first
        assert at_once.reader is not None and step_by_step.reader is not None
        assert at_once.reader.log_odds == step_by_step.reader.log_odds


def test_without_the_matrix_offsets_are_refused_and_the_tilt_is_not():
    steering = Steering(VOCABULARY)
    with pytest.raises(RequestError, match="use method='tilt'"):
        steering.begin(settings(), [])
    steering.begin(settings(adaptation={"method": "tilt"}), [])


class Raises(Badness):
    def log_odds(self, texts):
        if any("bad" in text for text in texts):
            raise RuntimeError("no opinion")
        return super().log_odds(texts)


def test_a_signal_that_raises_ends_its_own_row_alone():
    raises, sampler = Raises(), RowSampler(VOCABULARY)
    rows = []
    for name, adapt in (
        ("fails", settings(adaptation={"method": "tilt", "signal": raises, "candidates": SIZE})),
        ("works", settings(adaptation={"method": "tilt"})),
        ("plain", None),
    ):
        order = Order(name, 1, None, "auto", 1.0, 1, 4, truncate=True, adapt=adapt)
        rows.append(sampler.add(order, [], list))
    sampler.step(logits_after(()).repeat(3, 1), [0, 1, 2], rows)
    posts = sampler.take_posts()
    assert posts[rows[0].key][0].error == ("RewardError", "signal 'badness' failed: RuntimeError: no opinion")
    assert posts[rows[1].key][0].error is None and posts[rows[2].key][0].error is None


def test_other_rows_are_untouched():
    sampler = RowSampler(VOCABULARY)
    adapted = sampler.add(
        Order("a", 1, None, "auto", 1.0, 1, 4, True, adapt=settings(adaptation={"method": "tilt"})), [], list
    )
    plain = sampler.add(Order("b", 1, None, "auto", 1.0, 1, 4, True), [], list)
    logits = torch.cat([logits_after((9,)), logits_after((8,)), logits_after((7,))])
    before = logits.clone()
    sampler.step(logits, [0, 2], [adapted, plain])
    assert torch.equal(logits[1], before[1])
    (post,) = sampler.take_posts()[plain.key]
    assert (post.kl, post.log_ratio, post.log_weight) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"detox": 11}, r"detox=11: a number from 0 to 10"),
        ({"detox": math.nan}, "detox=nan"),
        ({"detox": "much"}, "detox='much'"),
        ({"debias": ["height"]}, r"debias\[0\]: no axis 'height'; there are gender, race, religion"),
        ({"debias": 3}, "a list of axes was wanted"),
        ({"debias": [{"groups": {"a": ["x"]}}]}, "at least two groups"),
        ({"debias": [{"groups": {"a": ["x"], "b": []}}]}, r"groups.b: a list with at least one word"),
        ({"debias": [{"groups": {"a": ["x"], "b": ["x"]}}]}, "'x' is in 'a' and in 'b'"),
        ({"debias": [{"groups": {"a": ["x"], "b": ["two words"]}}]}, "'two words' is not a single word"),
        ({"debias": ["gender", "gender"]}, "'gender' is there twice"),
        ({"debias": [{"groups": {"a": ["x"], "b": ["y"]}, "weight": 2}]}, "unknown field 'weight'"),
        ({"detox": 1, "adaptation": {"methods": "tilt"}}, "unknown setting 'methods'"),
        ({"detox": 1, "adaptation": {"method": "push"}}, "one of tilt, offset, both"),
        ({"detox": 1, "adaptation": {"candidates": 1}}, "from 2 to 1024"),
        ({"detox": 1, "adaptation": {"budget": -1}}, "budget=-1"),
        ({"detox": 1, "adaptation": {"signal": "niceness"}}, "signal 'niceness' is not known"),
        ({"detox": 1, "adaptation": {"signal": 3}}, "an object with log_odds"),
        ({"detox": 1, "adaptation": []}, "an object of settings"),
    ],
    ids=str,
)
def test_bad_settings_are_named(asked: dict, said: str):
    with pytest.raises(RequestError, match=said):
        adaptation_of(asked)


def test_a_group_of_which_no_token_can_be_told_is_named():
    axis = axis_of({"a": ["he"], "b": ["unheard"]})
    with pytest.raises(RequestError, match=r"begins a word of group 'b'"):
        axis.tokens(VOCABULARY)


def test_a_thousand_requests_with_settings_of_their_own_leave_nothing_behind():
    """Rows, courses and readings are gone with their requests; of signals that were handed over at most a few are kept ready."""
    sampler = RowSampler(VOCABULARY)
    sampler.steering = Steering(VOCABULARY, Matrix())

    def one(k: int) -> None:
        words = {"name": f"own {k}", "groups": {"a": ["she", f"word{k}"], "b": ["he"]}}
        adapt = settings(
            detox=0.01 * (k % 50 + 1),
            debias=[words],
            adaptation={"signal": Badness(), "budget": float(k), "method": ("tilt", "offset", "both")[k % 3]},
        )
        row = sampler.add(Order(f"g{k}", 1, None, "auto", 1.0, k, 4, truncate=True, adapt=adapt), [], list)
        sampler.step(logits_after((k % 7,)), [0], [row])
        sampler.take_posts()
        sampler.discard(row)

    def held() -> tuple[int, int]:
        gc.collect()
        alive = [thing for thing in gc.get_objects() if isinstance(thing, Course | Badness)]
        return sum(isinstance(thing, Course) for thing in alive), sum(isinstance(thing, Badness) for thing in alive)

    # An engine of this process keeps its last rows until its next step.
    before, _ = held()
    for k in range(1000):
        one(k)
    sampler.step(torch.empty(0, SIZE), [], [])
    courses, signals = held()
    assert courses == before
    assert signals <= 10
