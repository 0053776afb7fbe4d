"""Hooks of mkdocs: pages that are not in docs/, and links from the documents to the rest of the repository.

The documents are written for readers of the repository, with links relative to their files. On the website a
link to another page stays one; a link to any other file leads to the repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

# Page → document outside docs/.
DOCUMENTS = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "reference/tiny.md": "xsam/assets/tiny/README.md",
    "reference/golden.md": "tests/golden/README.md",
}
_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?P<after>\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {page: (ROOT / document).read_text(encoding="utf-8") for page, document in DOCUMENTS.items()}
    pages |= {
        "reference/xsam.md": _python_page("xsam", "xsam"),
        "reference/xsam_ros.md": _python_page("xsam_ros", "xsam_ros.client"),
        "reference/xsam_agent_tools.md": _python_page(
            "xsam_agent_tools", "xsam_agent_tools", "xsam_agent_tools.middleware"
        ),
        "reference/xsam_remote.md": _python_page("xsam.remote", "xsam.remote"),
        "reference/interfaces.md": _interfaces_page(),
        "reference/parameters.md": _parameters_page(),
        "reference/cli.md": _cli_page(),
    }
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a document, which are relative to its place in the repository."""
    document = DOCUMENTS.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    page_of = {path: uri for uri, path in DOCUMENTS.items()}

    def rewrite(match: re.Match[str]) -> str:
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            return match.group()
        path = os.path.normpath(PurePosixPath(document).parent / target)
        page_path = page_of.get(path, path.removeprefix("docs/"))
        if path in page_of or (path.startswith("docs/") and files.get_file_from_path(page_path)):
            link = os.path.relpath(page_path, PurePosixPath(page.file.src_uri).parent)
        else:
            link = f"{config.repo_url}/blob/main/{path}"
        return f"{match['before']}{link}{match['anchor'] or ''}{match['after']}"

    return _LINK.sub(rewrite, markdown)


def _python_page(title: str, *modules: str) -> str:
    """Return a page on the public names of these modules, from their docstrings."""
    parts = [f"# {title}\n"]
    parts += [f"::: {module}\n" for module in modules]
    return "\n".join(parts)


def _interfaces_page() -> str:
    parts = [
        "# ROS interfaces\n",
        "The files are their own documentation; they are in the package `xsam_ros`.\n",
    ]
    for folder, title in (("srv", "Services"), ("action", "Actions"), ("msg", "Messages")):
        parts.append(f"## {title}\n")
        for path in sorted((ROOT / folder).iterdir()):
            parts.append(f"### {path.stem}\n\n```text\n{path.read_text(encoding='utf-8')}```\n")
    return "\n".join(parts)


def _parameters_page() -> str:
    text = (ROOT / "config" / "xsam.yaml").read_text(encoding="utf-8")
    return (
        f"# Node parameters\n\nAll of them, with their defaults: `config/xsam.yaml`.\n\n```yaml\n{text}```\n"
    )


def _cli_page() -> str:
    """Return the help of `xsam` and of its commands."""
    import click
    import typer

    from xsam.cli import app

    def sections(command: Any, name: str) -> list[str]:
        context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
        parts = [f"## {name}\n\n```text\n{command.get_help(context).strip()}\n```\n"]
        for child_name, child in getattr(command, "commands", {}).items():
            parts += sections(child, f"{name} {child_name}")
        return parts

    app.rich_markup_mode = None
    return "\n".join(["# Command line\n", *sections(typer.main.get_command(app), "xsam")])
