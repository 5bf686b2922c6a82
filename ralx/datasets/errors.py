"""The one error that data files raise."""


class DataError(ValueError):
    """A data set on disk is not what was expected; the message names the file and the expectation."""
