"""The query network has the published layers, and encodes a state once."""

import pytest
import torch
import torch.nn.functional as F

from ralx.agent.query_network import QueryNetwork

R, D_S, D_A, KL = 6, 10, 14, 4


def small(dueling: bool = False, seed: int = 0) -> QueryNetwork:
    generator = torch.Generator().manual_seed(seed)
    network = QueryNetwork(R, D_S, D_A, kl_dim=KL, dueling=dueling, generator=generator)
    shake_statistics(network, generator)
    return network


def shake_statistics(network: torch.nn.Module, generator: torch.Generator) -> None:
    """BatchNorm buffers and scales unlike their initial 0 and 1, so that leaving one out shows."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.5, generator=generator)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2, generator=generator)


def inputs(batch: int, pool: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, R, D_S, generator=generator), torch.randn(batch, pool, D_A, generator=generator)


def trainable(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


# CamVid and Cityscapes with the published code's unused void bin.
@pytest.mark.parametrize(
    ("num_regions", "state_dim", "action_dim", "expected"),
    [(240, 204, 268, 390_099), (1280, 212, 276, 531_475)],
)
def test_parameter_counts_are_the_published_ones(num_regions, state_dim, action_dim, expected):
    assert trainable(QueryNetwork(num_regions, state_dim, action_dim)) == expected


@pytest.mark.parametrize(("num_regions", "state_dim", "action_dim"), [(240, 203, 267), (1280, 211, 275)])
def test_ralx_layout_without_the_void_bin(num_regions, state_dim, action_dim):
    network = QueryNetwork(num_regions, state_dim, action_dim).eval()
    q = network(torch.rand(1, num_regions, state_dim), torch.rand(1, 3, action_dim))
    assert q.shape == (1, 3)
    assert q.isfinite().all()


def norm(x, layer):
    """BatchNorm in eval mode, by hand, over the channels of [B, D, n]."""
    mean, var, weight, bias = (
        t.double().view(1, -1, 1) for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def conv(x, layer):
    """A 1×1 convolution over [B, D, n]."""
    return F.conv1d(x, layer.weight.double().unsqueeze(2), layer.bias.double())


def as_convolutions(network, state, action):
    """Q as the paper's appendix draws it: channels first, 1×1 convolutions, float64."""
    x = state.double().transpose(1, 2)
    for i in (0, 3, 6):
        x = conv(norm(x, network.region_path[i]).relu(), network.region_path[i + 2])
    regions = x.transpose(1, 2)  # the regions become the channels of one linear layer
    encoded = conv(norm(regions, network.state_path[0]).relu(), network.state_path[2])
    own, kl = action[..., :-KL].double().transpose(1, 2), action[..., -KL:].double().transpose(1, 2)
    for i in (0, 3, 6):
        own = conv(norm(own, network.action_path[i]).relu(), network.action_path[i + 2])
    joined = torch.cat([own, encoded.expand(-1, -1, own.shape[2])], dim=1)
    q = conv(norm(joined, network.head[0]), network.head[1])
    gate = conv(norm(kl, network.gate[0]).relu(), network.gate[2]).sigmoid()
    q = (gate * q).squeeze(1)
    return q, conv(norm(encoded, network.value[0]), network.value[1]).squeeze(1) if network.dueling else None


def test_q_is_the_published_formula():
    network = small().eval()
    state, action = inputs(3, 5)
    expected, _ = as_convolutions(network, state, action)
    torch.testing.assert_close(network(state, action).double(), expected, rtol=1e-4, atol=1e-5)


def test_dueling_q_is_value_plus_centred_advantage():
    network = small(dueling=True).eval()
    state, action = inputs(3, 5)
    advantage, value = as_convolutions(network, state, action)
    expected = value + advantage - advantage.mean(dim=1, keepdim=True)
    q = network(state, action)
    torch.testing.assert_close(q.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(q.mean(dim=1).double(), value.squeeze(1), rtol=1e-4, atol=1e-5)


def test_dueling_mean_leaves_masked_candidates_out():
    network = small(dueling=True).eval()
    state, action = inputs(2, 5)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    q = network(state, action, mask)
    torch.testing.assert_close(q[:1], network(state[:1], action[:1]))
    torch.testing.assert_close(q[1:, :3], network(state[1:], action[1:, :3]))


@pytest.mark.parametrize("dueling", [False, True])
def test_a_state_encoded_once_serves_every_pool(dueling):
    network = small(dueling).eval()
    state, _ = inputs(1, 1)
    _, action = inputs(4, 3)
    once = network.q_values(network.encode_state(state).expand(4, -1), action)
    torch.testing.assert_close(once, network(state.expand(4, -1, -1), action))


@pytest.mark.parametrize("dueling", [False, True])
def test_one_row_in_training_mode_learns_and_leaves_the_statistics(dueling):
    network = small(dueling).train()
    state, action = inputs(1, 1)
    before = {k: v.clone() for k, v in network.action_path.state_dict().items()}
    network(state, action).sum().backward()
    for name, tensor in network.action_path.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    # the advantage of an only candidate is 0: there the dueling network learns the value alone
    gradient = (network.value if dueling else network.action_path)[-1].weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_several_rows_in_training_mode_move_the_statistics():
    network = small().train()
    before = network.action_path[0].running_mean.clone()
    _, action = inputs(2, 3)
    network(*inputs(2, 3))
    expected = 0.9 * before + 0.1 * action[..., :-KL].flatten(0, 1).mean(dim=0)
    torch.testing.assert_close(network.action_path[0].running_mean, expected)
    assert network.state_path[0].num_batches_tracked == 1, "two states are enough"


def test_every_parameter_gets_a_gradient():
    for dueling in (False, True):
        network = small(dueling).train()
        q = network(*inputs(3, 4))
        (q * torch.randn(q.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_initial_weights_come_from_the_generator_alone():
    torch.manual_seed(1)
    first, state = small(seed=3), torch.get_rng_state()
    torch.manual_seed(2)
    second = small(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    other = small(seed=4)
    assert not torch.equal(first.gate[2].weight, other.gate[2].weight)


def test_initial_weights_are_spread_like_torch_layers():
    weight = QueryNetwork(8, 203, 267, generator=torch.Generator().manual_seed(0)).action_path[2].weight
    bound = 203**-0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "kl_dim", "match"),
    [
        ((0, 10, 14), 4, "num_regions must be at least 1, got 0"),
        ((6, 0, 14), 4, "state_dim must be at least 1, got 0"),
        ((6, 10, 4), 4, "action_dim must be more than kl_dim = 4, which it counts, got 4"),
        ((6, 10, 14), 0, "kl_dim must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(arguments, kl_dim, match):
    with pytest.raises(ValueError, match=match):
        QueryNetwork(*arguments, kl_dim=kl_dim)


def test_inputs_of_another_shape_are_refused():
    network = small().eval()
    state, action = inputs(2, 3)
    with pytest.raises(ValueError, match=r"state must be \[B, 6, 10\], got \[2, 5, 10\]"):
        network.encode_state(state[:, 1:])
    with pytest.raises(ValueError, match=r"action must be \[B, M, 14\], got \[2, 3, 13\]"):
        network(state, action[..., 1:])
    with pytest.raises(ValueError, match=r"encoded must be \[2, 128\].*got \[1, 128\]"):
        network.q_values(network.encode_state(state)[:1], action)
