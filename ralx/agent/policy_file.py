"""A learned policy as one safetensors file: the query network's weights and the sizes that they belong to."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ralx.agent.query_network import QueryNetwork
from ralx.ops.arguments import check_flag, check_integer
from ralx.support.files import load_tensors, save_tensors

# The largest ε at which an episode tells how good the policy is that played it, and not how good chance is.
MOSTLY_GREEDY = 0.5
SIZES = ("num_regions", "state_dim", "action_dim", "kl_dim", "dueling")


def save_policy(path: Path | str, network: QueryNetwork, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the query network to ``path``, whole or not at all.

    Args:
        path: an existing file is replaced.
        metadata: JSON values kept beside the weights; ``num_classes`` belongs here. The network's own sizes
            are added.

    Raises:
        RunError: the file can't be written; an earlier one is untouched.
    """
    save_tensors(Path(path), network.state_dict(), with_sizes(network, metadata or {}))


def with_sizes(network: QueryNetwork, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a policy's file: `metadata` and the network's own sizes."""
    return {**metadata, **{name: getattr(network, name) for name in SIZES}}


def load_policy(path: Path | str, *, device: torch.device | str = "cpu", **needed: Any) -> QueryNetwork:
    """The network that ``save_policy`` wrote, in eval mode.

    Args:
        path: the file.
        device: where the network goes.
        needed: what the metadata must say, such as ``num_classes=11, action_dim=267``.

    Raises:
        FileNotFoundError: there is no such file.
        RunError: it can't be read.
        ValueError: it is no policy, one for other sizes than ``needed``, or one whose weights aren't finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such policy file; `ralx-train` writes one as policy.safetensors")
    tensors, metadata = load_tensors(path)
    network = _sized(path, metadata)
    _check_fit(path, tensors, network.state_dict())
    _check_needed(path, metadata, needed)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name!r} must hold finite numbers, got NaN or infinities")
    network.load_state_dict(tensors, assign=True)
    return network.to(device).eval()


def without_weights(metadata: Mapping[str, Any]) -> QueryNetwork:
    """The network of the sizes that a policy's metadata tells, on the meta device: of any size."""
    sizes = {name: metadata[name] for name in SIZES}
    # The meta device draws nothing, but would ask torch's global generator.
    return QueryNetwork(**sizes, generator=torch.Generator(), device="meta")


def _sized(path: Path, metadata: Any) -> QueryNetwork:
    """`without_weights` of what a file tells, which may be wrong."""
    if not isinstance(metadata, dict) or not metadata.keys() >= set(SIZES):
        raise ValueError(
            f"{path}: not a ralx policy: its metadata must give {', '.join(SIZES)}, "
            f"got {reprlib.repr(metadata)}"
        )
    try:
        for name in SIZES:
            (check_flag if name == "dueling" else check_integer)(name, metadata[name])
        return without_weights(metadata)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a ralx policy: {error}") from None


def _check_fit(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    wanted, found = (
        {name: f"{t.dtype} {list(t.shape)}" for name, t in each.items()} for each in (expected, tensors)
    )
    for name in wanted | found:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path}: the weights do not fit the sizes in the file's metadata: {name!r} must be "
                f"{wanted.get(name, 'absent')}, got {found.get(name, 'nothing')}"
            )


def _check_needed(path: Path, metadata: dict[str, Any], needed: dict[str, Any]) -> None:
    wrong = [name for name, value in needed.items() if metadata.get(name) != value]
    if wrong:
        found = {name: metadata.get(name, "nothing") for name in wrong}
        told = {name: v if isinstance(v, str) else reprlib.repr(v) for name, v in found.items()}
        has = ", ".join(f"{name}={value}" for name, value in told.items())
        wants = ", ".join(f"{name}={needed[name]}" for name in wrong)
        raise ValueError(f"{path}: this policy has {has}; needed is {wants}")
