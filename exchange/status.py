"""How open an exchange is, in its own words, from best to worst."""

_RANKS = {"online": 0, "limit_only": 0, "post_only": 0, "cancel_only": 1}
_WORST = 2  # every other word


def is_open(status: str) -> bool:
    """Tell whether orders can be placed."""
    return _RANKS.get(status, _WORST) == 0


def worsened(present: str, was: str) -> str | None:
    """Return in words that it is less open than it was, or None."""
    if _RANKS.get(present, _WORST) > _RANKS.get(was, _WORST):
        return f"the exchange is in {present}, it was {was}"
    return None
