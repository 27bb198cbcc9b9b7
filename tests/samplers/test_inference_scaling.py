"""The solvable model: its acceptance table, its expansions, its averages, and the regression it is a model of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from samplers.inference_scaling import (
    Question,
    best_k,
    best_limit_temperature,
    best_temperature,
    cold_coefficient,
    cold_error,
    exact_error,
    hot_error,
    limit_error,
    one_over_k_error,
    rho,
)
from samplers.inference_scaling_average import Field, averaged_error, cold_average_coefficient, cold_exponent
from samplers.inference_scaling_regression import Regression, simulated_errors

KS = (1, 2, 4, 8, 16, 64, 256)
# Δ_T, Δ_R, t; k = 1, 2, 4, 8, 16, 64, 256, ∞; five decimals (or three digits where smaller), with half of the last.
TABLE = [
    ((0.5, 0.5, 1), ("1.25", ".76583", ".63760", ".59587", ".57837", ".56633", ".56345", ".56250")),
    ((0.5, 0.5, 0), ("1.25", ".46054", ".15414", ".04716", ".01340", "9.42e-4", "6.08e-5", "0")),
    ((0.2, -0.05, 3), ("1.04", ".88773", ".83670", ".81496", ".80484", ".79754", ".79575", ".79516")),
    ((0.2, -1.8, 5), ("1.04", "1.02329", "1.04784", "1.06468", "1.07383", "1.08093", "1.08273", "1.08333")),
    ((0.2, -1.8, 0), ("1.04", "1.23828", "1.88112", "2.64078", "3.28853", "3.90098", "3.99260", "4")),
]


def half_of_the_last_digit(text: str) -> float:
    mantissa, _, power = text.partition("e")
    decimals = 5 if "." in mantissa and not power else 0 if "." not in mantissa else len(mantissa.partition(".")[2])
    return 0.5000001 * 10.0 ** (int(power or 0) - decimals) if "." in mantissa else 1e-12


@pytest.mark.parametrize(("parameters", "row"), TABLE)
def test_every_cell_of_the_acceptance_table(parameters: tuple[float, float, float], row: tuple[str, ...]):
    delta_t, delta_r, t = parameters
    question = Question(delta_t, delta_r)
    got = [*exact_error(question, KS, 2 * t), limit_error(question, 2 * t)]
    for value, text in zip(got, row, strict=True):
        assert abs(value - float(text)) <= half_of_the_last_digit(text), (value, text)


def test_the_table_tells_a_wrong_temperature():
    """Planted: t taken for T. Every cell beyond k = 1 of the warm rows is then off in the first three decimals."""
    for (delta_t, delta_r, t), row in TABLE:
        if t > 0:
            wrong = exact_error(Question(delta_t, delta_r), KS, t)
            assert all(abs(value - float(text)) > 5e-3 for value, text in list(zip(wrong, row))[1:])


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_only_ratios_to_s_matter(scale: float):
    unit = exact_error(Question(0.7, -0.4), KS, 0.9)
    scaled = exact_error(Question(0.7 * scale, -0.4 * scale, scale), KS, 0.9 * scale**2)
    np.testing.assert_allclose(scaled, unit * scale**2, rtol=1e-10)


@pytest.mark.parametrize(("delta_t", "delta_r", "temperature"), [(0.3, 0.2, 0.25), (1.0, -2.0, 0.5), (0.1, 4.0, 8.0)])
def test_quadrature_agrees_with_scipy_on_the_formula_as_written(delta_t: float, delta_r: float, temperature: float):
    """δ = k ∫du E[f w e^{-uw}] (E e^{-uw})^{k-1}: adaptive in log u, a fine fixed rule in y."""
    y, step = np.linspace(-12.0, 12.0, 40_001, retstep=True)
    density = stats.norm.pdf(y) * step
    w = np.exp(-((y + delta_r) ** 2) / temperature)
    f = (y + delta_t) ** 2

    def integrand(v: float, k: int) -> float:
        waits = np.exp(-math.exp(v) * w)
        return k * math.exp(v) * float(density @ (f * w * waits)) * float(density @ waits) ** (k - 1)

    top = ((12 + abs(delta_r)) ** 2) / temperature
    for k in (2, 7):
        want = integrate.quad(integrand, -35, min(top, 600.0), args=(k,), limit=2000, points=[0.0, 5.0, 20.0, 60.0])[0]
        got = exact_error(Question(delta_t, delta_r), [k], temperature)[0]
        assert got == pytest.approx(want, rel=2e-6)


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-3, 0.1, 1.0, 100.0, 1e6])
@pytest.mark.parametrize(("delta_t", "delta_r"), [(0.3, 0.2), (4.0, -6.0), (0.0, 0.0)])
def test_one_draw_has_its_own_error_at_every_temperature(delta_t: float, delta_r: float, temperature: float):
    assert exact_error(Question(delta_t, delta_r), [1], temperature)[0] == pytest.approx(delta_t**2 + 1, rel=1e-9)


def test_two_draws_of_the_hard_rule_by_hand():
    """Teacher as reward and mean (Δ = 0): the nearer of two standard normals has mean square 1 - 2/π."""
    assert exact_error(Question(0.0, 0.0), [2], 0.0)[0] == pytest.approx(1 - 2 / math.pi, rel=1e-12)


def test_expansions_leave_what_their_order_says():
    question = Question(0.7, 0.4, 1.3)
    ks = np.array([2, 3, 5, 50])
    left = [np.abs(exact_error(question, ks, T) - hot_error(question, ks, T)) for T in (338.0, 1014.0)]
    np.testing.assert_allclose(left[0] / left[1], 27, rtol=0.15)  # O(t⁻³)
    left = [abs(float((exact_error(question, [k], 0.0) - cold_error(question, [k]))[0])) for k in (40, 160)]
    assert left[0] / left[1] == pytest.approx(4**4, rel=0.2)  # O(k⁻⁴)
    left = [abs(float((exact_error(question, [k], 1.0) - one_over_k_error(question, [k], 1.0))[0])) for k in (100, 400)]
    assert left[0] / left[1] == pytest.approx(4**2, rel=0.1)  # O(k⁻²)
    # Planted: ρ left out, the law is off at order 1/k.
    wrong = [
        abs(exact_error(question, [k], 1.0)[0] - 0.9 * one_over_k_error(question, [k], 1.0)[0]) for k in (100, 400)
    ]
    assert wrong[0] / wrong[1] < 2


def test_rho_is_the_ratio_of_moments():
    question, temperature = Question(0.0, 1.5, 0.8), 0.9

    def moment(power: int) -> float:
        return integrate.quad(lambda e: stats.norm.pdf(e, 1.5, 0.8) * math.exp(-power * e * e / temperature), -15, 15)[
            0
        ]

    w, w2 = moment(1), moment(2)
    assert rho(question, temperature) == pytest.approx(w2 / w**2, rel=1e-8)
    assert rho(question, 1e9) == pytest.approx(1.0)


@pytest.mark.parametrize("delta", [0.0, 0.6])
def test_the_teacher_as_reward_falls_as_one_over_k_squared(delta: float):
    question = Question(delta, delta, 1.4)
    coefficient = math.pi * 1.4**2 * math.exp((delta / 1.4) ** 2)
    assert cold_coefficient(question) == pytest.approx(coefficient)
    assert 1e6 * exact_error(question, [1000], 0.0)[0] == pytest.approx(coefficient, rel=4e-3)


def test_best_temperature_and_best_k():
    assert best_limit_temperature(Question(0.5, 0.5)) == 0.0
    assert best_limit_temperature(Question(0.5, -2.0)) == math.inf
    far = Question(0.2, -1.8)
    warm = best_limit_temperature(far)
    assert limit_error(far, warm) < min(limit_error(far, warm * 1.01), limit_error(far, warm * 0.99))
    assert best_k(far, 10.0, 64) == 2 and best_k(far, 0.0, 64) == 1 and best_k(Question(0.5, 0.5), 0.0, 64) == 64
    found = best_temperature(far, 16)
    errors = [exact_error(far, [16], found * x)[0] for x in (0.9, 1.0, 1.1)]
    assert errors[1] < min(errors[0], errors[2])
    assert best_temperature(far, 100_000) == pytest.approx(warm, rel=1e-2)
    assert best_temperature(Question(0.5, 0.5), 8) == 0.0 and best_temperature(far, 1) == math.inf
    assert best_temperature(Question(0.5, -2.0), 8) == math.inf


def test_the_average_is_the_mean_over_questions():
    """Against a two-dimensional Gauss-Hermite average of single questions."""
    field = Field(1.0, 0.2, 0.15, 0.05)
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    factor = np.linalg.cholesky(np.array([[0.2, 0.05], [0.05, 0.15]]))
    want = np.zeros(3)
    for z1, w1 in zip(nodes, weights):
        for z2, w2 in zip(nodes, weights):
            delta_t, d = factor @ [z1, z2]
            want += w1 * w2 / (2 * math.pi) * exact_error(Question(delta_t, delta_t - d), (2, 8, 32), 0.0)
    np.testing.assert_allclose(averaged_error(field, (2, 8, 32), 0.0), want, rtol=1e-5)


@pytest.mark.parametrize("field", [Field(1.0, 0.25), Field(2.0, 0.5, 0.2, 0.1)])
def test_easy_tasks_have_the_averaged_coefficient(field: Field):
    k = 2000
    excess = averaged_error(field, (k,), 0.0)[0] - field.var_d
    assert excess * (k + 1) * (k + 2) == pytest.approx(cold_average_coefficient(field), rel=2e-3)
    assert cold_exponent(field) == 2.0


def test_hard_tasks_lose_the_benefit():
    for a2 in (1.0, 2.0):
        field, ks = Field(1.0, a2), np.array([10**6, 10**8])
        assert cold_average_coefficient(field) == math.inf
        errors = averaged_error(field, ks, 0.0)
        slope = -math.log(errors[0] / errors[1]) / math.log(100)
        # Logarithms make it steeper by some 1 / log k.
        assert -1 / a2 * 1.15 < slope < -1 / a2, (a2, slope)


def test_the_regression_has_the_model_s_errors():
    """d = 200, n = 2000, fitted for real. Mean over data sets within its own error bars (false alarm 1e-6 for all cells)."""
    ks, sets = (1, 2, 8, 32), 24
    for model, temperature in (
        (Regression(200, 2000, 0.5), 0.0),
        (Regression(200, 2000, 0.5, reward_gap=0.3, reward_overlap=-0.2), 0.5),
    ):
        rng = np.random.default_rng(11)
        errors = simulated_errors(model, ks, temperature, rng, data_sets=sets, points=300)
        bars = errors.std(0, ddof=1) / math.sqrt(sets)
        quantile = stats.t.ppf(1 - 1e-6 / (4 * len(ks)), sets - 1)
        want = averaged_error(model.field, ks, temperature)
        assert np.all(np.abs(errors.mean(0) - want) <= quantile * bars), (errors.mean(0), want, bars)
        # Planted: the spread of the noise alone, without the posterior's, is told apart.
        field = model.field
        wrong = averaged_error(Field(model.sigma**2, field.var_t, field.var_d, field.cov_td), ks, temperature)
        assert np.any(np.abs(errors.mean(0) - wrong) > quantile * bars)


def test_deterministic_equivalents_are_the_traces():
    """s² and E_g against the resolvent's traces of one large design."""
    model = Regression(400, 1600, 0.7, gamma=1.2, teacher=1.5)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((model.n, model.d))
    values = np.linalg.eigvalsh(x.T @ x / model.n)
    assert model.sigma**2 * (1 + model.alpha * np.mean(1 / (values + model.ridge))) == pytest.approx(model.s2, rel=1e-2)
    shrunk = model.ridge / (values + model.ridge)
    bias = model.teacher * np.mean(shrunk**2)
    variance = model.sigma**2 * model.alpha * np.mean(values / (values + model.ridge) ** 2)
    assert bias + variance == pytest.approx(model.generalisation, rel=2e-2)
