"""The one table of the methods, and functions of the user's own."""

import math

import pytest

from ralx.acquisition import ACQUISITIONS, BATCH_ACQUISITIONS
from ralx.acquisition.methods import METHODS, PAPER_METHODS, method_of, uses_policy


def test_every_acquisition_function_is_a_method():
    assert {name: method.score for name, method in METHODS.items() if method.score} == ACQUISITIONS
    assert {name: method.batch for name, method in METHODS.items() if method.batch} == BATCH_ACQUISITIONS
    others = METHODS.keys() - ACQUISITIONS.keys() - BATCH_ACQUISITIONS.keys()
    assert others == {"ralis", "ralis-all", "cheat"} and set(PAPER_METHODS) < set(METHODS)


def test_the_policys_methods_are_known_among_others():
    assert [name for name in (*METHODS, "math:sqrt") if uses_policy(name)] == ["ralis", "ralis-all"]


def test_no_two_methods_are_drawn_alike():
    drawn = [(method.colour, method.marker) for method in [*METHODS.values(), method_of("math:sqrt")]]
    assert len(set(drawn)) == len({marker for _, marker in drawn}) == len(drawn)


def test_a_function_of_the_users_own_is_a_method_that_may_have_dropout():
    assert method_of("uniform") is METHODS["uniform"]
    own = method_of("math:sqrt")
    assert own.score is math.sqrt and own.uses_dropout and own.pool_size and not own.uses_policy


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("no_such_module:f", "methods: can't import 'no_such_module'"),
        ("ralx:no_such_name", "methods: module 'ralx' has no function or class 'no_such_name'"),
        (":f", "methods: expected an import path package.module:name, got ':f'"),
        ("ralx:", "methods: expected an import path package.module:name, got 'ralx:'"),
    ],
)
def test_a_function_that_is_none_is_named(method, message):
    with pytest.raises(ValueError, match=message):
        method_of(method)
