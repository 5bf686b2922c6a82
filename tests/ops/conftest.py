"""Every instruction set of this CPU."""

from collections.abc import Iterator

import pytest
from logit_cases import ISAS, instruction_set

from ralx import _C


@pytest.fixture(params=ISAS, ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Iterator[_C.Isa]:
    with instruction_set(request.param):
        yield request.param
