"""How many models one table compares. Imports nothing heavy: it is asked before torch is there."""

from huref.errors import HurefError

MOST_MODELS = 1000
MOST_PAIRS = MOST_MODELS * (MOST_MODELS - 1) // 2


def require_table_size(models: int) -> None:
    """Refuse a table whose pairs nobody could wait for.

    Raises:
        HurefError: there are more than MOST_MODELS models.
    """
    if models > MOST_MODELS:
        raise HurefError(
            f"more than {MOST_MODELS:,} models are too many for one table, which would have over "
            f"{MOST_PAIRS:,} pairs",
            advice="put them into a registry by 'huref fleet', and look each up by "
            "'huref identify'",
        )
