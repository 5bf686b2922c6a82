"""A learned policy as one safetensors file: the query network's weights and the sizes that they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ralx.dqn import DQNAgent
from ralx.query_network import QueryNetwork
from ralx.run_dir import write_whole

SIZES = ("num_regions", "state_dim", "action_dim", "kl_dim")


class Policy(NamedTuple):
    network: QueryNetwork  # in eval mode
    metadata: dict[str, str]


def save_policy(
    path: Path | str, agent_or_network: DQNAgent | QueryNetwork, metadata: Mapping[str, object] | None = None
) -> None:
    """Write the query network to ``path``, whole or not at all.

    Args:
        path: an existing file is replaced.
        agent_or_network: of an agent, its query network.
        metadata: kept beside the weights as text; ``num_classes`` belongs here. The network's
            own sizes are added.

    Raises:
        RunError: the file can't be written; an earlier one is untouched.
    """
    network = agent_or_network.query_network if isinstance(agent_or_network, DQNAgent) else agent_or_network
    own = {name: str(getattr(network, name)) for name in SIZES} | {"dueling": str(int(network.dueling))}
    texts = {name: str(value) for name, value in (metadata or {}).items()} | own
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_whole(Path(path), lambda temporary: save_file(tensors, temporary, texts))


def load_policy(path: Path | str, *, device: torch.device | str = "cpu", **needed: int) -> Policy:
    """Read what ``save_policy`` wrote.

    Args:
        path: the file.
        device: where the network goes.
        needed: what the metadata must say, such as ``num_classes=11, action_dim=267``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no policy, or one for other sizes than ``needed``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such policy file; `ralx-train` writes one as policy.safetensors")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    _check_needed(path, metadata, needed)
    network = _build(path, metadata)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: the weights do not fit the sizes in the file's metadata: {error}"
        ) from None
    return Policy(network.to(device).eval(), metadata)


def _check_needed(path: Path, metadata: dict[str, str], needed: dict[str, int]) -> None:
    wrong = [name for name, value in needed.items() if metadata.get(name) != str(value)]
    if wrong:
        has = ", ".join(f"{name}={metadata.get(name, 'nothing')}" for name in wrong)
        wants = ", ".join(f"{name}={needed[name]}" for name in wrong)
        raise ValueError(f"{path}: this policy has {has}; needed is {wants}")


def _build(path: Path, metadata: dict[str, str]) -> QueryNetwork:
    try:
        num_regions, state_dim, action_dim, kl_dim, dueling = (int(metadata[n]) for n in (*SIZES, "dueling"))
        unused = (
            torch.Generator()
        )  # the initial weights are about to be replaced: leave the global stream alone
        return QueryNetwork(
            num_regions, state_dim, action_dim, kl_dim=kl_dim, dueling=bool(dueling), generator=unused
        )
    except (KeyError, ValueError):
        names = ", ".join((*SIZES, "dueling"))
        raise ValueError(
            f"{path}: not a ralx policy: its metadata must give {names}, got {metadata}"
        ) from None
