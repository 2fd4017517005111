# SPDX-License-Identifier: Apache-2.0
"""How numbers are written. (ε is written by `confide.privacy.guarantee.rounded_up`: never below its
value.)"""

from __future__ import annotations

from collections.abc import Sequence

from confide.evaluation.bootstrap import Metric

DASH = "–"
MINUS = "−"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Shares are shown in percent, the others as plain numbers.
SHARES = frozenset(
    {
        "accuracy",
        "balanced_accuracy",
        "sensitivity_at_specificity_95",
        "sensitivity",
        "specificity",
        "precision",
    }
)


def scientific(value: float) -> str:
    """A small number as a power of ten.

    >>> scientific(1e-5), scientific(2.5e-6), scientific(0.0), scientific(0.5)
    ('10⁻⁵', '2.5·10⁻⁶', '0', '0.5')
    """
    if value == 0 or value >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:.6e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    return power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"


def one_in(value: float) -> str:
    """A small probability in words.

    >>> one_in(1e-5)
    '1 in 100,000'
    """
    return f"1 in {round(1 / value):,}" if value > 0 else "never"


def metric_text(name: str, metric: Metric) -> str:
    """A metric with its interval, or why there is none."""
    if not metric.defined:
        return f"undefined: {metric.note}" if metric.note else "undefined"
    if name in SHARES:
        value, low, high = (f"{100 * number:.1f}" for number in (metric.value, metric.low, metric.high))
        unit = "%"
    else:
        value, low, high = (f"{number:.3f}" for number in (metric.value, metric.low, metric.high))
        unit = ""
    if metric.low != metric.low:
        return f"{value}{unit}"
    return f"{value}{unit} ({low} to {high})"


def difference_text(name: str, metric: Metric) -> str:
    """A difference of two metrics, in percentage points where they are shares.

    >>> difference_text("accuracy", Metric(-0.01, -0.03, 0.011)), difference_text("brier", Metric(0.008))
    ('−1.0 points (−3.0 to +1.1)', '+0.008')
    """
    if not metric.defined:
        return metric_text(name, metric)
    scale, digits, unit = (100, 1, " points") if name in SHARES else (1, 3, "")
    value, low, high = (f"{scale * number:+.{digits}f}" for number in (metric.value, metric.low, metric.high))
    text = f"{value}{unit}" if metric.low != metric.low else f"{value}{unit} ({low} to {high})"
    return text.replace("-", MINUS)


def duration(seconds: float) -> str:
    """A time span.

    >>> duration(0.25), duration(59), duration(3700)
    ('0.25 s', '59 s', '1 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
