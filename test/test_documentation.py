"""The documentation: every link leads somewhere, every page is reachable, the site builds."""

from __future__ import annotations

import ast
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
TEXTS = sorted(REPOSITORY.glob("*.md")) + PAGES
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Names of a page's headings as the site and the repository's host make them."""
    found = set()
    for line in page.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-"))
    return found


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(text: Path) -> None:
    for target in LINK.findall(text.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        page = (text.parent / path).resolve() if path else text
        assert page.exists(), f"{text.name} links to {target}"
        assert not anchor or anchor in anchors(page), f"{text.name} links to {target}"


def test_every_page_is_in_the_site_in_an_order_to_read() -> None:
    navigation = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    listed = list(pages_of(navigation))
    assert sorted(listed) == [str(page.relative_to(REPOSITORY / "docs")) for page in PAGES]


def pages_of(navigation: list[dict[str, Any]]) -> Iterator[str]:
    """List the pages of a navigation, from top to bottom."""
    for entry in navigation:
        for place in entry.values():
            yield from [place] if isinstance(place, str) else pages_of(place)


def test_the_reference_is_what_the_code_says() -> None:
    pytest.importorskip("rclpy", reason="the nodes' parameters need rclpy")
    script = REPOSITORY / "tools" / "docs" / "write_reference.py"
    pages = runpy.run_path(str(script))["pages"]()
    for name, text in pages.items():
        written = (REPOSITORY / "docs" / "reference" / name).read_text()
        assert written == text, f"docs/reference/{name} is old: python {script}"


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    of_libraries = ["operator torchvision::nms does not exist", "Expected a <class 'list'>"]
    said = [(REPOSITORY / "env.sh").read_text(), *of_libraries]
    for path in (REPOSITORY / "scaleevent_ros").rglob("*.py"):
        said += texts_in(path)
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    symptoms = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    messages = [
        code
        for symptom in symptoms
        for code in re.findall(r"`([^`]+)`", symptom)
        if " " in code and not code.startswith(("scaleevent ", "--"))
    ]
    assert len(messages) > 20
    for message in messages:
        parts = (re.escape(part) for part in message.split("…"))
        wanted = re.compile(".*".join(parts), re.DOTALL)
        assert any(wanted.search(text) for text in said), f"the code never says: {message}"


def walks() -> list[tuple[str, list[str]]]:
    """Titles of the walks in the architecture page, and the functions of each."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    _, section = page.split("## Four walks through the code\n")
    lists = section.split("\n## ")[0].split("**")[1:]
    return [
        (title, re.findall(r"^\d+\. `([\w.]+)`", text, re.MULTILINE))
        for title, text in zip(lists[::2], lists[1::2], strict=True)
    ]


@pytest.mark.parametrize(("title", "functions"), walks(), ids=[title for title, _ in walks()])
def test_the_functions_of_a_walk_exist(title: str, functions: list[str]) -> None:
    if any(name.startswith("nodes.") for name in functions):
        pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    assert len(functions) > 5, title
    for name in functions:
        assert callable(pkgutil.resolve_name(f"scaleevent_ros.{name}")), name


def texts_in(path: Path) -> list[str]:
    """List the texts of a module, with `…` for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            values = (getattr(part, "value", None) for part in node.values)
            found.append("".join(text if isinstance(text, str) else "…" for text in values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").is_file()


def test_docstrings_begin_with_the_thing_that_they_describe() -> None:
    """A line such as `reader: Open bag.` is accepted, `reader: Of the bag.` is not."""
    vague = re.compile(r"\s*(?:\w+: )?(?:Of|As|Its|Says?|Tells?|Look at) ")
    found = [
        f"{path.relative_to(REPOSITORY)}: {line.strip()}"
        for folder in ("scaleevent_ros", "test", "tools", "training", "benchmarks", "examples")
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for line in (ast.get_docstring(node) or "").splitlines()
        if vague.match(line)
    ]
    assert not found
