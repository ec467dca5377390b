"""What a secret that somebody sets must be like, so that it is neither guessed nor an example."""

import re

SECRET_LENGTH_MIN = 32
SECRET_RECIPE = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
SECRET_ALLOWED = f"at least {SECRET_LENGTH_MIN} visible ASCII characters"
_PLACEHOLDERS = ("change", "secret", "placeholder", "example", "your", "token", "password")
_SECRET = re.compile(rf"[!-~]{{{SECRET_LENGTH_MIN},1024}}")


def is_secret(text: str) -> bool:
    """Tell whether a text may be a secret: long enough, varied, and no placeholder."""
    is_placeholder = len(set(text)) < 10 or text.lower().lstrip("<").startswith(_PLACEHOLDERS)
    return not is_placeholder and _SECRET.fullmatch(text) is not None
