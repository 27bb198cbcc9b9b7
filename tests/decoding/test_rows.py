"""The device half of token sampling agrees with the host's exact row, draw for draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decoding.rows import StepRows, fold_eos, unpack_bits
from samplers.candidates import RowCandidates
from samplers.randomness import Stream, uniforms

NUM_ROWS = 12


def random_step(size: int, scale: float, prefetch: int, masked: bool, seed: int = 0):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy((rng.normal(size=(NUM_ROWS, size)) * scale).astype(np.float32))
    temperatures = rng.uniform(0.5, 2.0, NUM_ROWS)
    words = (size + 31) // 32
    masks = rng.integers(-(2**31), 2**31, (NUM_ROWS, words)).astype(np.int32) if masked else None
    addresses = np.arange(NUM_ROWS)
    numbers = uniforms(addresses.astype(np.uint64), addresses, addresses, 0, prefetch)
    return logits, temperatures, masks, numbers


def exact_logprobs(logits: torch.Tensor, temperature: float, mask: np.ndarray | None) -> np.ndarray:
    logprobs = torch.log_softmax(logits.double() / temperature, 0).numpy()
    if mask is None:
        return logprobs
    keep = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(logprobs)].astype(bool)
    return np.where(keep, logprobs, -np.inf)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [49152, 1000, 300, 256, 7])
@pytest.mark.parametrize("scale", [0.1, 3.0, 12.0])
def test_prefetched_rows_draw_what_the_exact_row_draws(size: int, scale: float, masked: bool):
    """Tokens equal; masses equal to float32's precision of the logits. Seven draws, three of them made on the device."""
    logits, temperatures, masks, numbers = random_step(size, scale, 3, masked)
    step = StepRows(logits, temperatures, masks, numbers, np.arange(NUM_ROWS))
    tolerance = 1e-6 * (1.0 + scale * 4 / 0.5)
    differing = 0
    for n in range(NUM_ROWS):
        logprobs = exact_logprobs(logits[n], temperatures[n], None if masks is None else masks[n])
        if not np.isfinite(logprobs).any():
            assert step.particle(n, Stream(n, n, n, numbers[n])).log_remaining == -np.inf
            continue
        exact = RowCandidates(np.exp(logprobs - logprobs.max()), logprobs.max(), Stream(n, n, n), logits=logprobs)
        row = step.particle(n, Stream(n, n, n, numbers[n]))
        for _ in range(7):
            assert row.log_remaining == pytest.approx(
                exact.log_remaining, abs=1e-4 if exact.log_remaining < -5 else 1e-5
            )
            if exact.log_remaining == -np.inf:
                break
            wanted, drawn = exact.draw(), row.draw()
            if wanted[0] != drawn[0]:
                # A uniform within float32's rounding of a boundary: allowed, but hardly ever.
                differing += 1
                break
            assert drawn[1] == pytest.approx(wanted[1], abs=tolerance)
    assert differing <= 1


@pytest.mark.parametrize("consumed", [0, 1, 2])
def test_taking_over_on_the_host_puts_back_what_was_drawn_but_not_used(consumed: int):
    """After `consumed` draws the row holds every other token, whatever the device drew ahead."""
    logits, temperatures, masks, numbers = random_step(500, 2.0, 2, masked=True)
    step = StepRows(logits, temperatures, masks, numbers, np.arange(NUM_ROWS))
    for n in range(NUM_ROWS):
        row = step.particle(n, Stream(n, n, n, numbers[n]))
        drawn = {row.draw()[0] for _ in range(consumed)}
        tokens, logprobs = row.remaining()
        exact = exact_logprobs(logits[n], temperatures[n], masks[n])
        assert set(tokens.tolist()) == set(np.flatnonzero(exact > -np.inf).tolist()) - drawn
        assert np.allclose(logprobs, exact[tokens], atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_particles_on_one_row_draw_as_if_each_had_it_alone(masked: bool):
    """Nothing one particle draws or strikes is missing for another."""
    logits, temperatures, masks, _ = random_step(500, 2.0, 2, masked)
    owners = np.array([3, 0, 3, 3, 7])
    particles = np.arange(len(owners))
    numbers = uniforms(particles.astype(np.uint64), particles, particles, 0, 2)
    together = StepRows(logits, temperatures, masks, numbers, owners)
    for k, row in enumerate(owners):
        only = slice(row, row + 1)
        mask = None if masks is None else masks[only]
        alone = StepRows(logits[only], temperatures[only], mask, numbers[k : k + 1], np.zeros(1, np.int64))
        shared, own = together.particle(k, Stream(k, k, k, numbers[k])), alone.particle(0, Stream(k, k, k, numbers[k]))
        for _ in range(6):
            assert shared.log_remaining == pytest.approx(own.log_remaining, abs=1e-6)
            assert shared.draw() == pytest.approx(own.draw(), abs=1e-6)


def test_a_token_that_float32_cannot_hold_is_still_found():
    """p = e^-200 is 0 in float32; once the rest is rejected it is the only token left, and it is drawn with its log p."""
    logits = torch.full((1, 512), -float("inf"))
    logits[0, 3], logits[0, 100] = 0.0, -200.0
    numbers = uniforms(np.zeros(1, np.uint64), np.zeros(1), np.zeros(1), 0, 2)
    step = StepRows(logits, np.ones(1), None, numbers, np.zeros(1, np.int64))
    row = step.particle(0, Stream(0, 0, 0))
    assert row.draw()[0] == 3
    assert row.log_remaining == pytest.approx(-200.0)
    token, logprob = row.draw()
    assert (token, logprob) == (100, pytest.approx(-200.0))
    assert row.log_remaining == -np.inf


@pytest.mark.parametrize("broken", [float("nan"), -float("inf")])
def test_a_broken_row_is_empty_and_leaves_its_neighbour_alone(broken: float):
    logits = torch.zeros((2, 512))
    logits[0] = broken
    numbers = uniforms(np.zeros(2, np.uint64), np.arange(2), np.zeros(2), 0, 2)
    step = StepRows(logits, np.ones(2), None, numbers, np.arange(2))
    assert not step.particle(0, Stream(0, 0, 0)).log_remaining > -np.inf
    assert step.particle(1, Stream(0, 1, 0)).log_remaining == pytest.approx(0.0, abs=1e-6)


def test_every_eos_id_is_folded_into_the_first():
    logits = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    before = torch.softmax(logits.double(), 1)
    fold_eos(logits, (2, 0))
    after = torch.softmax(logits.double(), 1)
    assert after[0, 2] == pytest.approx(float(before[0, 2] + before[0, 0]))
    assert after[0, 0] == 0.0 and after[0, 1] == pytest.approx(float(before[0, 1]))


def test_unpacked_bits_are_the_same_by_either_path():
    """The device path (shifts) and the host path (numpy) give the same mask."""
    words = torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, (3, 10)).astype(np.int32))
    host = unpack_bits(words, 307, torch.device("cpu"))
    shifts = ((words[:, :, None] >> torch.arange(32, dtype=torch.int32)) & 1).view(3, -1)[:, :307].to(torch.uint8)
    assert torch.equal(host, shifts)
