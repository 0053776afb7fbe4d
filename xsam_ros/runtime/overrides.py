"""Parameters given at startup that nobody reads: misspelled names, and files for another node."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml


def unknown_parameter_warnings(given: Collection[str], known: Collection[str]) -> list[str]:
    """Return one sentence for each name that is given and not known, with the nearest name that is.

    Names that share an unknown prefix, such as all parameters of a camera that is not used, share a sentence.
    """
    warnings = []
    unknown = set(given) - set(known)
    prefixes = {name.partition(".")[0] for name in known if "." in name}
    groups = {name.partition(".")[0] for name in unknown if "." in name} - prefixes
    for group in sorted(groups):
        names = sorted(name for name in unknown if name.startswith(f"{group}."))
        if len(names) > 1:
            unknown.difference_update(names)
            there = ", ".join(map(repr, sorted(prefixes))) or "none"
            warnings.append(
                f"{len(names)} parameters of {group!r} have no effect, from {names[0]!r} to {names[-1]!r}: "
                f"nothing of that name is configured; there are: {there}"
            )
    for name in sorted(unknown):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else "there is no parameter with a similar name"
        warnings.append(f"parameter {name!r} is not known and has no effect; {hint}")
    return warnings


def unused_file_warnings(arguments: Sequence[str], node: str, given: Collection[str]) -> list[str]:
    """Return one sentence for each parameter file of the command line that has nothing for this node.

    Args:
        arguments: of the process, as in `sys.argv`.
        node: its full name.
        given: names of the parameters that the node was given.
    """
    warnings = []
    for option, path in itertools.pairwise(arguments):
        if option != "--params-file":
            continue
        try:
            sections = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # ROS has refused it
        if not isinstance(sections, dict) or not sections:
            warnings.append(f"the parameter file {path} is empty")
        elif not _names(sections) & set(given):
            listed = ", ".join(map(repr, sections))
            warnings.append(
                f"the parameter file {path} has no parameters for node {node}; its sections: {listed}"
            )
    return warnings


def _names(section: object) -> set[str]:
    """Return the full names of all parameters in a file, whatever node they are for."""
    if not isinstance(section, dict):
        return set()
    names: set[str] = set()
    for key, item in section.items():
        names |= _leaves(item) if key == "ros__parameters" else _names(item)
    return names


def _leaves(section: object, prefix: str = "") -> set[str]:
    if not isinstance(section, dict):
        return {prefix.removesuffix(".")}
    return {name for key, item in section.items() for name in _leaves(item, f"{prefix}{key}.")}
