"""Lists of words as English writes them, for tables and cards."""


def listed(words):
    """Write words after one another, the last after "and".

    Args:
        words (`Sequence[str]`): one or more.

    Returns:
        `str`: "a", "a and b", "a, b and c".
    """
    return f"{', '.join(words[:-1])}{' and ' * (len(words) > 1)}{words[-1]}"
