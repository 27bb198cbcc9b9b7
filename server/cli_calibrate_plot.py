"""The curves of `reweigh calibrate` as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from samplers.inference_scaling_choice import Calibration, LawCheck, Recommendation

_INK, _GREY, _MARK = "#222222", "#8a8a8a", "#c8382a"


def draw(calibration: Calibration, laws: list[LawCheck], chosen: Recommendation, path: Path) -> None:
    """Write value against k, value against T, and the 1/k law: PNG or SVG by the name's ending. Needs matplotlib."""
    import matplotlib

    # The object interface alone: no display, no global state.
    from matplotlib.figure import Figure

    settings: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "reweigh"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(12, 4.2), layout="constrained", dpi=150)
        by_k, by_t, by_law = figure.subplots(1, 3)
        colours = _colours(calibration)
        _against_k(by_k, calibration, chosen, colours)
        _against_t(by_t, calibration, chosen)
        _law(by_law, calibration, laws, colours)
        # No date in it: the same pool gives the same file.
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(path, metadata=metadata)


def _colours(calibration: Calibration) -> dict[float, Any]:
    """From cold, dark blue, to hot, yellow-green."""
    import matplotlib

    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(calibration.temperatures)))
    return dict(zip(calibration.temperatures, shades))


def _against_k(axes: Any, calibration: Calibration, chosen: Recommendation, colours: dict[float, Any]) -> None:
    ks = calibration.ks
    low, high = calibration.band(chosen.temperature)
    axes.fill_between(ks, low, high, color=colours[chosen.temperature], alpha=0.15, lw=0)
    for temperature in calibration.temperatures:
        bold = temperature == chosen.temperature
        axes.plot(
            ks,
            calibration.mean(temperature),
            color=colours[temperature],
            lw=2.4 if bold else 1.2,
            label=f"T = {temperature:g}",
        )
    axes.plot(chosen.k, chosen.value.mean, "o", color=_MARK, ms=8, zorder=5, label=f"recommended, k = {chosen.k}")
    bottom, top = _limits(calibration)
    if calibration.pass_at_k is not None:
        axes.plot(ks, calibration.pass_at_k, color=_GREY, ls="--", lw=1.2, label="pass@k")
        # The perfect judge's curve may leave the picture: the differences between temperatures are what it is for.
        top = max(top, min(float(calibration.pass_at_k.max()), top + 0.6 * (top - bottom)))
    axes.set_ylim(bottom, top)
    _k_axis(axes, ks)
    axes.set_ylabel("value of the selected")
    axes.set_title("More samples", loc="left", color=_INK)
    axes.legend(frameon=False, fontsize=7.5, loc="best")


def _against_t(axes: Any, calibration: Calibration, chosen: Recommendation) -> None:
    import matplotlib

    temperatures = np.array(calibration.temperatures)
    positive = temperatures[temperatures > 0]
    ks = [int(k) for k in calibration.ks if k & (k - 1) == 0]
    ks = sorted({*(ks[:: max(1, len(ks) // 5)]), int(calibration.ks[-1]), chosen.k})
    shades = matplotlib.colormaps["magma"](np.linspace(0.1, 0.8, len(ks)))
    positions = np.arange(len(temperatures))
    for k, shade in zip(ks, shades):
        column = int(np.flatnonzero(calibration.ks == k)[0])
        values = calibration.values[:, :, column].mean(0)
        axes.plot(positions, values, "o-", ms=3, color=shade, lw=2.4 if k == chosen.k else 1.2, label=f"k = {k}")
    at = calibration.temperatures.index(chosen.temperature)
    axes.plot(at, chosen.value.mean, "o", color=_MARK, ms=8, zorder=5)
    axes.set_ylim(*_limits(calibration))
    axes.set_xticks(positions, [f"{t:g}" for t in temperatures])
    axes.set_xlabel(
        "T, standard deviations of the reward" + ("" if len(positive) == len(temperatures) else "; 0: the highest")
    )
    axes.set_title("Softer selection", loc="left", color=_INK)
    axes.legend(frameon=False, fontsize=7.5, loc="best")


def _law(axes: Any, calibration: Calibration, laws: list[LawCheck], colours: dict[float, Any]) -> None:
    """Measured curves against 1/k, each with the straight line that the law predicts from the whole pool.

    Only temperatures at which some k is large enough for the law; solid where it is.
    """
    inverse = 1 / calibration.ks
    shown = [law for law in laws if law.reliable]
    for law in shown:
        shade = colours[law.temperature]
        axes.plot(inverse, calibration.mean(law.temperature), "o", ms=4, color=shade, label=f"T = {law.temperature:g}")
        enough = calibration.ks >= 10 * law.rho
        line = calibration.predicted(law.temperature)
        axes.plot(inverse, line, color=shade, lw=0.9, ls=":")
        axes.plot(inverse[enough], line[enough], color=shade, lw=2)
    axes.set_ylim(*_limits(calibration))
    axes.set_xlim(0, 0.52)
    axes.set_xlabel("1 / k;  dots: measured, line: predicted, solid for k ≥ 10ρ")
    axes.set_title("The 1/k law", loc="left", color=_INK)
    if shown:
        axes.legend(frameon=False, fontsize=7.5, loc="best")
    else:
        axes.text(0.26, sum(_limits(calibration)) / 2, "10ρ > k at every T:\nthe pool is too small for it", ha="center")


def _k_axis(axes: Any, ks: np.ndarray) -> None:
    axes.set_xscale("log", base=2)
    ticks = [int(k) for k in ks if k & (k - 1) == 0]
    axes.set_xticks(ticks, [f"{k}" for k in ticks])
    axes.minorticks_off()
    axes.set_xlabel("k, candidates drawn")


def _limits(calibration: Calibration) -> tuple[float, float]:
    """One range of values for all three: that of the measured means, with a margin."""
    means = calibration.values.mean(0)
    low, high = float(means.min()), float(means.max())
    margin = 0.08 * (high - low) or 0.05
    return low - margin, high + margin
