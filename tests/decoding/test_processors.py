"""Both of vLLM's logits-processor interfaces drive the same row sampler to the same draws.

The V1 runner runs for real in the engine's tests. The V2 runner needs Triton, which CPUs lack: here its processor is driven
as vLLM 0.32's source drives it (slots given out again, rows in another order at every step, prefills in chunks, resumption
with the history as prefill), and compared with the V1 processor on the same logits.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from decoding import vllm_processor, vllm_processor_v2
from decoding.order import Order
from decoding.row_sampler import Post
from decoding.vllm_params import check_params, order_params
from grammars.errors import RequestError
from grammars.vocabulary import Vocabulary

SIZE = 300
LETTERS = Vocabulary(
    (b"", *(bytes([c]) for c in range(97, 123)), *(f"{a}{b}".encode() for a in "abc" for b in "abcdef")), (0,), SIZE
)
PROMPT = [3, 4, 5]
CONFIG: Any = SimpleNamespace(additional_config={})  # names no constraints


def order(row: int, **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "group": "g", "num_particles": 3, "constraint": '{"regex": "[a-m]{1,30}"}', "sampler": "awrs",
        "temperature": 0.8, "seed": 11, "max_tokens": 12, "truncate": False,
    }  # fmt: skip
    return Order(row=row, **{**fields, **changes})


def logits_after(tokens: list[int]) -> torch.Tensor:
    """A model: logits that depend on the whole text and on nothing else. float32 [SIZE]"""
    rng = np.random.default_rng([len(tokens), *tokens])
    logits = torch.from_numpy(rng.normal(size=SIZE).astype(np.float32) * 2)
    logits[len(LETTERS.tokens) :] = -float("inf")
    return logits


class V1:
    """The V1 runner's side of the interface."""

    def __init__(self) -> None:
        self.processor = vllm_processor.ReweighProcessor(CONFIG, torch.device("cpu"), False)
        self.outputs: list[list[int]] = []

    def add(self, orders: list[Order], pasts: list[list[int]]) -> None:
        self.outputs = [[] for _ in orders]
        added = [
            (k, order_params(m), PROMPT + past, self.outputs[k])
            for k, (m, past) in enumerate(zip(orders, pasts, strict=True))
        ]
        self.processor.update_state(SimpleNamespace(removed=[], added=added, moved=[], batch_size=len(orders)))
        self.pasts = pasts

    def step(self) -> list[Post]:
        texts = [PROMPT + past + out for past, out in zip(self.pasts, self.outputs, strict=True)]
        logits = self.processor.apply(torch.stack([logits_after(text) for text in texts]))
        posts = [post for row in self.processor.sampler.take_posts().values() for post in row]
        for out, token, post in zip(self.outputs, logits.argmax(1).tolist(), posts, strict=True):
            assert token == post.token
            out.append(token)
        return posts


class V2:
    """The V2 runner's side: persistent slots, a fresh order of rows at every step."""

    def __init__(self) -> None:
        slots = 8
        self.states = SimpleNamespace(
            all_token_ids=SimpleNamespace(gpu=torch.zeros((slots, 64), dtype=torch.int32)),
            prompt_len=SimpleNamespace(np=np.zeros(slots, dtype=np.int32)),
            prefill_len=SimpleNamespace(np=np.zeros(slots, dtype=np.int32)),
        )
        self.processor = vllm_processor_v2.ReweighProcessorV2(CONFIG, self.states)  # type: ignore[arg-type]
        self.texts: dict[int, list[int]] = {}

    def add(self, slot: int, order: Order, prompt: list[int], output: list[int]) -> None:
        self.states.prompt_len.np[slot] = len(prompt)
        self.states.prefill_len.np[slot] = len(prompt) + len(output)
        self.texts[slot] = prompt + output
        self._write(slot)
        self.processor.add_request(slot, order_params(order))

    def _write(self, slot: int) -> None:
        text = self.texts[slot]
        self.states.all_token_ids.gpu[slot, : len(text)] = torch.tensor(text, dtype=torch.int32)

    def step(self, order: list[int], unfinished_prefill: int | None = None) -> dict[int, Post]:
        lengths = [len(self.texts[slot]) - (2 if slot == unfinished_prefill else 0) for slot in order]
        logits = torch.stack([logits_after(self.texts[slot]) for slot in order])
        context = SimpleNamespace(idx_mapping_np=np.array(order), seq_lens_upper_bound_np=np.array(lengths))
        logits = self.processor.apply(logits, context)
        posts = self.processor.sampler.take_posts()
        found = {}
        for slot, token in zip(order, logits.argmax(1).tolist(), strict=True):
            if slot != unfinished_prefill:
                (found[slot],) = posts[self.processor.slots[slot].order.group, self.processor.slots[slot].order.row]
                assert found[slot].token == token
                self.texts[slot].append(token)
                self._write(slot)
        return found


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vllm_processor, vllm_processor_v2):
        monkeypatch.setattr(module, "vocabulary_of", lambda _: LETTERS)


def test_both_interfaces_draw_the_same():
    v1, v2 = V1(), V2()
    v1.add([order(k) for k in range(3)], [[], [], []])
    slots = [5, 2, 7]
    for k, slot in enumerate(slots):
        v2.add(slot, order(k), PROMPT, [])
    for places in ([5, 2, 7], [7, 5, 2], [2, 7, 5], [5, 7, 2]):
        expected, found = v1.step(), v2.step(places)
        assert [found[slot] for slot in slots] == expected


def test_particles_that_share_a_row_draw_what_they_would_on_rows_of_their_own():
    """And the row goes on with the token that most of them drew."""
    apart, together = V1(), V1()
    apart.add([order(k) for k in range(3)], [[], [], []])
    together.add([order(0)], [[]])
    together.processor.sampler.riders = {("g", 0): (0, 1, 2)}
    expected = apart.step()
    logits = together.processor.apply(logits_after(PROMPT)[None])
    (posts,) = together.processor.sampler.take_posts().values()
    assert posts == expected
    assert int(logits.argmax()) in {post.token for post in posts if not post.is_eos}


def test_v2_skips_rows_in_the_middle_of_a_prefill():
    v2 = V2()
    v2.add(1, order(0), PROMPT, [])
    assert v2.step([1], unfinished_prefill=1) == {}
    alone = V2()
    alone.add(1, order(0), PROMPT, [])
    assert v2.step([1]) == alone.step([1])


def test_v2_takes_up_a_preempted_particle_and_a_fork_where_they_were():
    """Resumed with its output as prefill, or forked with it at the end of the prompt: the next draw is the same."""
    v2 = V2()
    v2.add(0, order(1), PROMPT, [])
    for _ in range(3):
        v2.step([0])
    kept = v2.texts[0][len(PROMPT) :]
    (expected,) = v2.step([0]).values()
    resumed = V2()
    resumed.add(4, order(1), PROMPT, list(kept))
    assert resumed.step([4])[4] == expected
    forked = V2()
    forked.add(6, order(0).forked(1, len(kept), parent=0), PROMPT + kept, [])
    assert forked.step([6])[6] == expected


def test_v2_slots_forget_their_last_occupant():
    v2 = V2()
    v2.add(3, order(0), PROMPT, [])
    v2.step([3])
    v2.add(3, order(2), PROMPT, [])
    fresh = V2()
    fresh.add(3, order(2), PROMPT, [])
    assert v2.step([3]) == fresh.step([3])


def test_v1_rows_follow_their_moves_and_leave_others_alone():
    from vllm.v1.sample.logits_processor import MoveDirectionality

    processor = vllm_processor.ReweighProcessor(CONFIG, torch.device("cpu"), False)
    plain = SimpleNamespace(extra_args=None)
    outputs: list[list[int]] = [[], [], []]
    added = [(0, order_params(order(0)), PROMPT, outputs[0]), (1, plain, PROMPT, outputs[1])]
    added.append((2, order_params(order(2)), PROMPT, outputs[2]))
    processor.update_state(SimpleNamespace(removed=[], added=added, moved=[], batch_size=3))
    swap = [(0, 1, MoveDirectionality.SWAP)]
    processor.update_state(SimpleNamespace(removed=[], added=[], moved=swap, batch_size=3))
    assert {k: row.order.row for k, row in processor.rows.items()} == {1: 0, 2: 2}
    logits = torch.stack([logits_after(PROMPT)] * 3)
    before = logits[0].clone()
    processor.apply(logits)
    assert torch.equal(logits[0], before) and not torch.equal(logits[1], before)
    processor.update_state(SimpleNamespace(removed=[2], added=[], moved=[], batch_size=2))
    processor.update_state(
        SimpleNamespace(removed=[], added=[], moved=[(1, 0, MoveDirectionality.UNIDIRECTIONAL)], batch_size=1)
    )
    assert {k: row.order.row for k, row in processor.rows.items()} == {0: 0}


@pytest.mark.parametrize(
    "field", ["top_p", "top_k", "min_p", "presence_penalty", "repetition_penalty", "seed", "n", "min_tokens"]
)
def test_parameters_that_would_change_the_target_are_refused(field: str):
    params = order_params(order(0))
    check_params(params)
    setattr(params, field, 2)
    with pytest.raises(RequestError, match=field):
        check_params(params)
