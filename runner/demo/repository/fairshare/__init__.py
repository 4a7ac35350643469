"""Split bills among people."""

from fairshare.money import format_cents, parse_amount
from fairshare.split import split_by_weight, split_evenly

__all__ = ["format_cents", "parse_amount", "split_by_weight", "split_evenly"]
