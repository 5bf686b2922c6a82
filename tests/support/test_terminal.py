"""Text for terminals of few letters."""

import io

import pytest

from ralx.support.terminal import fit_to_terminal


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "θ0′ ± 1 日 \\udcff"),
        ("latin-1", "theta0' ± 1 \\u65e5 \\udcff"),
        ("ascii", "theta0' +- 1 \\u65e5 \\udcff"),
    ],
)
def test_a_letter_that_the_terminal_lacks_is_spelt(encoding, shown):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    fit_to_terminal(stream, io.StringIO())
    stream.write("θ0′ ± 1 日 \udcff")  # the last stands for a byte of a file's name that is no UTF-8
    stream.flush()
    assert raw.getvalue().decode(encoding) == shown
