"""The refusal of the sandbox: the error strings that go into the answer's `error` list."""


class SandboxError(Exception):
    """A call the venue refuses; `errors` are its strings, such as "EQuery:Unknown asset pair"."""

    def __init__(self, *errors: str) -> None:
        super().__init__(", ".join(errors))
        self.errors: tuple[str, ...] = errors
