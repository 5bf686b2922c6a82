"""Options as dataclasses, each beside the code that it configures."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args, get_origin


@dataclass(frozen=True)
class Concern:
    """The options of one concern; refuses values that nothing could use, naming the option."""

    may_be_zero: ClassVar[tuple[str, ...]] = ()  # all other numbers must be positive

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, bool) and isinstance(value, int | float):
                self.require(math.isfinite(value), each.name, "must be finite")
                if each.name in self.may_be_zero:
                    self.require(value >= 0, each.name, "must not be negative")
                else:
                    self.require(value > 0, each.name, "must be positive")
            if get_origin(each.type) is Literal:
                choices = get_args(each.type)
                self.require(value in choices, each.name, f"must be one of {', '.join(choices)}")
        self.check()
        for name, value in vars(self).items():
            if isinstance(value, tuple) and all(isinstance(n, int) for n in value):
                self.require(all(n >= 1 for n in value), name, "every number must be at least 1")

    def check(self) -> None:
        """What goes beyond single numbers and choices."""

    def require(self, holds: bool, option: str, rule: str) -> None:
        if not holds:
            raise ValueError(f"{option}: {rule}, got {getattr(self, option)!r}")
