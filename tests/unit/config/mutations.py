"""Seeded mutations of a configuration: what damage, typing errors and malice do to a JSON file."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "foo", "../..", "bilinear", [], {}, [1], [0.5, "x"], {"a": 1}, [[[[]]]]),
    *(0, 1, -1, 2, 3, 7, 13, 31, 10**9, -(10**9), 2**63, 10**30, 10**400),
    *(0.0, 0.5, -0.5, 1e-300, 1e300, 1e-6, 128.0, float("nan"), float("inf"), float("-inf")),
    *("resnet50", "hao9610/X-SAM", "torch.nn.ReLU", "9" * 5000, "\x00", "\ud800"),
)


def mutated(config: dict[str, Any], seed: int) -> tuple[dict[str, Any], str]:
    """Return a copy with one to three mutations, and a description of them."""
    chance = random.Random(seed)
    data = copy.deepcopy(config)
    done = [_mutate(data, chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    return data, "; ".join(done)


def _containers(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, (dict, list)) and node:
        yield path, node
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield from _containers(node[key], f"{path}/{key}")


def _mutate(data: dict[str, Any], chance: random.Random) -> str:
    path, node = chance.choice([c for c in _containers(data) if "id2" not in c[0]])
    key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
    old = node[key]
    kind = chance.choice(("value", "value", "value", "scale", "remove", "rename", "add", "swap", "deep"))
    if kind == "remove":
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[f"{key}{chance.choice('sx_')}"] = node.pop(key)
    elif kind == "add" and isinstance(node, dict):
        name = chance.choice(
            (
                "backbone",
                "attn_implementation",
                "_commit_hash",
                "trust_remote_code",
                "auto_map",
                "self",
                "dtype",
            )
        )
        node[name] = copy.deepcopy(chance.choice(VALUES))
    elif kind == "swap":
        node[key] = copy.deepcopy(chance.choice([n for _, n in _containers(data)]))
    elif kind == "deep":
        nested: Any = old
        for _ in range(chance.choice((20, 60, 150))):
            nested = [nested]
        node[key] = nested
    elif kind == "scale" and isinstance(old, (int, float)) and not isinstance(old, bool):
        node[key] = (
            old * chance.choice((-1, 0.5, 2, 3, 10, 1000)) if chance.random() < 0.5 else int(old * 2) + 1
        )
    else:
        node[key] = copy.deepcopy(chance.choice(VALUES))
    return f"{kind} {path}/{key}"
