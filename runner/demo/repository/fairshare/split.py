"""Ways to split a bill. Every function returns one share in cents per person, in the given order."""


def split_evenly(cents, people):
    """Equal shares; the first people pay a cent more where it does not come out even."""
    return split_by_weight(cents, [1] * people)


def split_by_weight(cents, weights):
    """Shares in proportion to whole-number weights. The shares always add up to the bill."""
    total = sum(weights)
    if total <= 0 or min(weights) < 0:
        raise ValueError("weights must be whole numbers, not negative, and not all zero")
    return [cents * weight // total for weight in weights]
