"""Amounts of money: text on the outside, whole cents on the inside."""

import re

AMOUNT = re.compile(r"(-?)(\d+)(?:\.(\d{1,2}))?")


def parse_amount(text):
    """Cents of an amount such as `12`, `12.5` or `-12.50`. Raises ValueError."""
    match = AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an amount: {text!r}")
    sign, whole, fraction = match.groups()
    cents = int(whole) * 100 + int((fraction or "").ljust(2, "0"))
    return -cents if sign else cents


def format_cents(cents):
    """An amount with two decimals."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"
