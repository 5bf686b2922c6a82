"""The files that `ralx-train` leaves for people and programs, made from its artifacts."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ralx.runs.config import RunConfig
from ralx.runs.engine import Worker
from ralx.runs.plan import Stages
from ralx.runs.results import policies_of, references_of, selection_of, steps_of
from ralx.runs.stage import Stage
from ralx.runs.stages import Learn, Select, TakePolicy
from ralx.runs.studies import compared_methods
from ralx.support.files import append_line, json_bytes, sealed_json, sealed_tensors, write_whole

S = TypeVar("S", bound=Stage)


class Outputs:
    """steps.jsonl, policies, selections/, results.json and reference.json, each as far as its stages are
    finished."""

    def __init__(self, folder: Path, config: RunConfig, worker: Worker):
        self.folder = folder
        self.config = config
        self.worker = worker
        self.policies = policies_of(compared_methods(config), config)
        # Made here once: after every stage of a run all of them are looked at.
        stages, methods = Stages(config), config.evaluation.methods
        self._selects = [stages.select(method, seed) for seed in config.seeds for method in methods]
        self._finals = [
            stages.final(select.method, select.seed, budget)
            for select in self._selects
            for budget in select.budgets
        ]
        self._shown: Sequence[dict[str, Any]] = ()  # of the policy that is being learned
        self._content: dict[Stage, bytes] = {}  # of the files that hold one artifact
        worker.show_steps = self.show_steps

    def write(self) -> list[str]:
        """Write the files that are missing or differ from what the store has; the names of the files that
        were written."""
        changed = []
        for name, content in self._files():
            path = self.folder / name
            if not self._is(path, content):
                self.worker.store.lock.hold()
                write_whole(path, content)
                changed.append(name)
        return changed

    def are_complete(self) -> bool:
        return all(self._is(self.folder / name, content) for name, content in self._files())

    def policy_name(self, seed: int) -> str:
        return "policy.safetensors" if seed == self.config.seed else f"policy-seed{seed}.safetensors"

    def show_steps(self, stage: Stage, lines: list[dict[str, Any]]) -> None:
        """Add the last line of the policy that `stage` learns to steps.jsonl."""
        path = self.folder / "steps.jsonl"
        self.worker.store.lock.hold()
        if self._shown is lines:
            append_line(path, _json_line(lines[-1]))
        else:  # the first line of this process
            write_whole(path, _lines([*steps_of(self.policies, self.worker), *lines]))
        self._shown = lines

    def _files(self) -> Iterator[tuple[str, bytes]]:
        worker = self.worker
        if steps := steps_of(self.policies, worker):
            yield "steps.jsonl", _lines(steps)
        for seed, policy in zip(self.config.seeds, self.policies, strict=False):  # no method may need one
            if worker.finished(policy):
                yield self.policy_name(seed), self._once(policy, self._policy)
        for select in self._selects:
            if worker.finished(select):
                name = f"selections/{select.method}-seed{select.seed}.json"
                yield name, self._once(select, self._selection)
        if results := [found["record"] for final in self._finals if (found := worker.found(final))]:
            yield "results.json", json_bytes(results)
        if references := [found["record"] for found in references_of(self.config, worker)]:
            yield "reference.json", json_bytes(references)

    def _policy(self, policy: Learn | TakePolicy) -> bytes:
        artifact = self.worker.artifact(policy)
        return sealed_tensors(artifact.tensors, artifact.found["metadata"])

    def _selection(self, select: Select) -> bytes:
        return sealed_json(selection_of(select, self.worker))

    def _once(self, stage: S, content: Callable[[S], bytes]) -> bytes:
        if stage not in self._content:
            self._content[stage] = content(stage)
        return self._content[stage]

    def _is(self, path: Path, content: bytes) -> bool:
        if not path.is_file():
            return False
        there = path.read_bytes()
        if path.name == "steps.jsonl" and not all(map(self.worker.finished, self.policies)):
            return there.startswith(content)  # what follows is of the policy that is being learned
        return there == content


def _json_line(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False)


def _lines(lines: Sequence[dict[str, Any]]) -> bytes:
    return "".join(f"{_json_line(line)}\n" for line in lines).encode()
