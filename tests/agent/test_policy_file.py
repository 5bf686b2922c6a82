"""A policy file brings back the same policy, or says what is wrong with it."""

import pytest
import torch
from safetensors.torch import save_file

from ralx.agent.policy_file import load_policy, save_policy
from ralx.agent.query_network import QueryNetwork
from ralx.support.files import RunError, load_tensors, save_tensors

R, D_S, D_A, KL = 3, 4, 9, 2
SIZES = {"num_regions": R, "state_dim": D_S, "action_dim": D_A, "kl_dim": KL, "dueling": False}


def make_network(dueling: bool = False) -> QueryNetwork:
    network = QueryNetwork(R, D_S, D_A, kl_dim=KL, dueling=dueling).train()
    network(torch.rand(4, R, D_S), torch.rand(4, 5, D_A))  # statistics unlike the initial ones
    return network.eval()


@pytest.mark.parametrize("dueling", [False, True])
def test_a_policy_comes_back_the_same(tmp_path, dueling):
    network = make_network(dueling)
    save_policy(tmp_path / "policy.safetensors", network, {"num_classes": 11, "dataset": "camvid"})
    policy = load_policy(tmp_path / "policy.safetensors", num_classes=11, action_dim=D_A)
    _, metadata = load_tensors(tmp_path / "policy.safetensors")
    state, action = torch.rand(1, R, D_S), torch.rand(1, 6, D_A)
    assert torch.equal(policy(state, action), network(state, action))
    assert not policy.training
    assert metadata == SIZES | {"num_classes": 11, "dataset": "camvid", "dueling": dueling}


def test_the_same_policy_gives_the_same_bytes(tmp_path):
    network = make_network()
    for name in ("a", "b"):
        save_policy(tmp_path / name, network, {"num_classes": 11, "dataset": "camvid"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loading_draws_no_random_numbers(tmp_path):
    save_policy(tmp_path / "p", make_network())
    before = torch.get_rng_state()
    load_policy(tmp_path / "p")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_policy_for_other_classes_is_refused(tmp_path):
    save_policy(tmp_path / "p", make_network(), {"num_classes": 11})
    expected = r"p: this policy has num_classes=11, state_dim=4; needed is num_classes=19, state_dim=211$"
    with pytest.raises(ValueError, match=expected):
        load_policy(tmp_path / "p", num_classes=19, state_dim=211, action_dim=D_A)


def test_a_policy_that_does_not_say_its_class_count_is_refused(tmp_path):
    save_policy(tmp_path / "p", make_network())
    with pytest.raises(ValueError, match="p: this policy has num_classes=nothing; needed is num_classes=19"):
        load_policy(tmp_path / "p", num_classes=19)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["nothing", "a folder"])
def test_a_missing_policy_is_an_error(tmp_path, make):
    make(tmp_path / "p")
    with pytest.raises(FileNotFoundError, match="p: no such policy file"):
        load_policy(tmp_path / "p")


def test_a_damaged_file_is_refused(tmp_path):
    save_policy(tmp_path / "p", make_network())
    whole = (tmp_path / "p").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x80\x04pickle" * 10):
        (tmp_path / "p").write_bytes(content)
        with pytest.raises(RunError, match=r"p: expected a safetensors file|p: was damaged"):
            load_policy(tmp_path / "p")


@pytest.mark.parametrize("metadata", [None, {"num_regions": 3}, [3]])
def test_another_kind_of_file_is_refused(tmp_path, metadata):
    save_tensors(tmp_path / "p", {"weight": torch.zeros(2)}, metadata)
    expected = "p: not a ralx policy: its metadata must give num_regions, state_dim"
    with pytest.raises(ValueError, match=expected):
        load_policy(tmp_path / "p")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"num_regions": 10**12}, r"num_regions must be in 1\.\.2147483647, got 1000000000000"),
        ({"num_regions": 10**400}, r"num_regions must be in 1\.\.2147483647, got 1000"),
        ({"state_dim": -1}, r"state_dim must be in 1\.\.2147483647, got -1"),
        ({"action_dim": True}, "action_dim must be an integer, got True"),
        ({"action_dim": KL}, r"action_dim must be more than kl_dim = 2, which it counts, got 2"),
        ({"kl_dim": "2"}, "kl_dim must be an integer, got '2'"),
        ({"kl_dim": 2.0}, "kl_dim must be an integer, got 2.0"),
        ({"num_regions": None}, "num_regions must be an integer, got None"),
        ({"dueling": "no"}, "dueling must be True or False, got 'no'"),
        ({"dueling": 0}, "dueling must be True or False, got 0"),
    ],
)
def test_sizes_that_are_none_are_refused(tmp_path, changed, found):
    save_tensors(tmp_path / "p", make_network().state_dict(), SIZES | changed)
    with pytest.raises(ValueError, match=f"p: not a ralx policy: {found}"):
        load_policy(tmp_path / "p")


def test_sizes_that_the_weights_do_not_have_are_refused_before_anything_is_allocated(tmp_path):
    sizes = SIZES | {name: 2**31 - 1 for name in ("num_regions", "state_dim", "action_dim")}
    save_tensors(tmp_path / "p", make_network().state_dict(), sizes)  # 5 TB
    expected = r"metadata: 'region_path\.0\.weight' must be torch\.float32 \[2147483647\], got .* \[4\]"
    with pytest.raises(ValueError, match=expected):
        load_policy(tmp_path / "p")


@pytest.mark.parametrize(
    "note", ["[" * 100_000, '{"num_regions": ' + "1" * 5000 + "}", "{"], ids=["deep", "long", "cut"]
)
def test_damaged_metadata_is_refused(tmp_path, note):
    save_file(make_network().state_dict(), tmp_path / "p", {"note": note})
    with pytest.raises(RunError, match="p: expected a safetensors file of ralx, got "):
        load_policy(tmp_path / "p")


def test_a_message_shows_little_of_long_metadata(tmp_path):
    save_tensors(tmp_path / "p", make_network().state_dict(), SIZES | {"cells": ["x"] * 10_000})
    with pytest.raises(ValueError, match="this policy has cells=") as refused:
        load_policy(tmp_path / "p", cells=[8, 8])
    assert len(str(refused.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["head.1.bias", "gate.0.running_var"])
def test_weights_that_are_not_finite_are_refused(tmp_path, name, number):
    network = make_network()
    network.state_dict()[name][0] = number
    save_policy(tmp_path / "p", network)
    with pytest.raises(ValueError, match=f"p: '{name}' must hold finite numbers, got NaN or infinities"):
        load_policy(tmp_path / "p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.zeros(1)}, "'extra' must be absent, got torch.float32"),
        ({"head.1.bias": torch.zeros(1).double()}, r"'head\.1\.bias' must be torch\.float32 \[1\], got"),
    ],
)
def test_tensors_that_no_policy_has_are_refused(tmp_path, change, message):
    save_tensors(tmp_path / "p", make_network().state_dict() | change, SIZES)
    with pytest.raises(ValueError, match=message):
        load_policy(tmp_path / "p")


def test_a_loaded_policy_can_go_on_learning(tmp_path):
    save_policy(tmp_path / "p", make_network())
    network = load_policy(tmp_path / "p")
    network(torch.rand(2, R, D_S), torch.rand(2, 3, D_A)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_weights_of_other_sizes_than_the_file_says_are_refused(tmp_path):
    save_tensors(tmp_path / "p", make_network().state_dict(), SIZES | {"num_regions": 4})
    with pytest.raises(ValueError, match="p: the weights do not fit the sizes in the file's metadata"):
        load_policy(tmp_path / "p")
