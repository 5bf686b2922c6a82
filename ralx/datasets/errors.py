"""The one error that data files raise."""


class DataError(ValueError):
    """A data set on disk is not what was expected; the message names the file and the expectation."""

    def __init__(self, message: str):
        # A name that is not UTF-8 is shown by its bytes: the message must print.
        super().__init__(message.encode(errors="backslashreplace").decode())
