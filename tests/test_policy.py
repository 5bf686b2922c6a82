"""A policy file brings back the same policy, or says what is wrong with it."""

import pytest
import torch

from ralx.policy import load_policy, save_policy
from ralx.query_network import QueryNetwork
from ralx.support.files import RunError, save_tensors

R, D_S, D_A, KL = 3, 4, 9, 2


def make_network(dueling: bool = False) -> QueryNetwork:
    network = QueryNetwork(R, D_S, D_A, kl_dim=KL, dueling=dueling).train()
    network(torch.rand(4, R, D_S), torch.rand(4, 5, D_A))  # statistics unlike the initial ones
    return network.eval()


@pytest.mark.parametrize("dueling", [False, True])
def test_a_policy_comes_back_the_same(tmp_path, dueling):
    network = make_network(dueling)
    save_policy(tmp_path / "policy.safetensors", network, {"num_classes": 11, "dataset": "camvid"})
    policy = load_policy(tmp_path / "policy.safetensors", num_classes=11, action_dim=D_A)
    state, action = torch.rand(1, R, D_S), torch.rand(1, 6, D_A)
    assert torch.equal(policy.network(state, action), network(state, action))
    assert not policy.network.training
    assert policy.metadata == {
        "num_classes": 11,
        "dataset": "camvid",
        "num_regions": 3,
        "state_dim": 4,
        "action_dim": 9,
        "kl_dim": 2,
        "dueling": dueling,
    }


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
    with pytest.raises(
        ValueError, match="p: not a ralx policy: its metadata must give num_regions, state_dim"
    ):
        load_policy(tmp_path / "p")


def test_weights_of_other_sizes_than_the_file_says_are_refused(tmp_path):
    sizes = {"num_regions": 4, "state_dim": 4, "action_dim": 9, "kl_dim": 2, "dueling": False}
    save_tensors(tmp_path / "p", make_network().state_dict(), sizes)
    with pytest.raises(ValueError, match="p: the weights do not fit the sizes in the file's metadata"):
        load_policy(tmp_path / "p")
