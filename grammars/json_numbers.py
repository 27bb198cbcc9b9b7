"""Numbers of JSON compared exactly, whatever their size: nothing is ever expanded to all its digits."""

from __future__ import annotations

from decimal import Context, Decimal

# A number of more characters is refused: what follows reads every digit.
LONGEST_NUMBER = 4_096

# The largest exponents there are: JSON bounds none. A text of LONGEST_NUMBER characters fits without rounding.
_EXACT = Context(prec=LONGEST_NUMBER + 64, Emin=-(10**18) + 1, Emax=10**18 - 1, traps=[])


def decimal_of(text: str) -> Decimal | None:
    """The exact value of a JSON number; None beyond exponents of some 10**17, which are refused."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent.lstrip("+-").lstrip("0")) > 17:
        # 0e999...9 is zero all the same.
        return None if mantissa.strip("-0.") else Decimal(0)
    return _EXACT.create_decimal(text)


def is_integral(number: Decimal) -> bool:
    """Whether a number has no fraction: 1.0 and 1e3 have none."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if exponent >= 0 or not number:
        return True
    return -exponent < len(digits) and not any(digits[exponent:])


def is_multiple(number: Decimal, factor: Decimal) -> bool:
    """Whether number = k * factor for an integer k."""
    if not number:
        return True
    a, i = _parts(number)
    b, j = _parts(factor)
    if i >= j:
        # Only the remainder of the power of ten is wanted.
        return a * pow(10, i - j, b) % b == 0
    # a ends in no zero, so a multiple of 10**(j - i) it is not.
    return False


def _parts(number: Decimal) -> tuple[int, int]:
    """|number| as a * 10**i with an integer a that does not end in zero."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    end = len(digits)
    while end > 1 and not digits[end - 1]:
        end -= 1
    a = 0
    for start in range(0, end, 4000):
        piece = digits[start : min(start + 4000, end)]
        a = a * 10 ** len(piece) + int("".join(map(str, piece)))
    return a, exponent + len(digits) - end
