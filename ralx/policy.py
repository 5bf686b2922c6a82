"""A learned policy as one safetensors file: the query network's weights and the sizes that they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ralx.query_network import QueryNetwork
from ralx.support.files import load_tensors, save_tensors

# The largest ε at which an episode tells how good the policy is that played it, and not how good chance is.
MOSTLY_GREEDY = 0.5
SIZES = ("num_regions", "state_dim", "action_dim", "kl_dim", "dueling")


class Policy(NamedTuple):
    network: QueryNetwork  # in eval mode
    metadata: dict[str, Any]


def save_policy(path: Path | str, network: QueryNetwork, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the query network to ``path``, whole or not at all.

    Args:
        path: an existing file is replaced.
        metadata: JSON values kept beside the weights; ``num_classes`` belongs here. The network's own sizes
            are added.

    Raises:
        RunError: the file can't be written; an earlier one is untouched.
    """
    own = {name: getattr(network, name) for name in SIZES}
    save_tensors(Path(path), network.state_dict(), {**(metadata or {}), **own})


def load_policy(path: Path | str, *, device: torch.device | str = "cpu", **needed: Any) -> Policy:
    """Read what ``save_policy`` wrote.

    Args:
        path: the file.
        device: where the network goes.
        needed: what the metadata must say, such as ``num_classes=11, action_dim=267``.

    Raises:
        FileNotFoundError: there is no such file.
        RunError: it can't be read.
        ValueError: it is no policy, or one for other sizes than ``needed``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such policy file; `ralx-train` writes one as policy.safetensors")
    tensors, metadata = load_tensors(path)
    network = _build(path, metadata)
    _check_needed(path, metadata, needed)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: the weights do not fit the sizes in the file's metadata: {error}"
        ) from None
    return Policy(network.to(device).eval(), metadata)


def _check_needed(path: Path, metadata: dict[str, Any], needed: dict[str, Any]) -> None:
    wrong = [name for name, value in needed.items() if metadata.get(name) != value]
    if wrong:
        has = ", ".join(f"{name}={metadata.get(name, 'nothing')}" for name in wrong)
        wants = ", ".join(f"{name}={needed[name]}" for name in wrong)
        raise ValueError(f"{path}: this policy has {has}; needed is {wants}")


def _build(path: Path, metadata: Any) -> QueryNetwork:
    try:
        sizes = {name: metadata[name] for name in SIZES}
        # The initial weights are about to be replaced: leave torch's global generator alone.
        return QueryNetwork(**sizes, generator=torch.Generator())
    except (KeyError, TypeError, ValueError):
        names = ", ".join(SIZES)
        raise ValueError(
            f"{path}: not a ralx policy: its metadata must give {names}, got {metadata}"
        ) from None
