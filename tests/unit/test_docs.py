"""The documents: links that lead somewhere, named files that exist, and tables that are complete."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

#: Files whose comments and messages name documents.
SPEAKING = (".py", ".yml", ".yaml", ".toml", ".env", ".html", "Dockerfile", "Procfile")

FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
#: [text](target) and images, and the images of HTML.
LINK = re.compile(r"\]\(([^)\s]+)\)|<(?:img|a) (?:src|href)=\"([^\"]+)\"")
#: A path of this repository in code style: `pipeline/wire/events.py`, `deploy/alerts.yml`.
NAMED = re.compile(
    r"`((?:\.ci|benchmarks|config|consumers|deploy|docs|examples|pipeline|tasks|tests)/[^`\s*…<]*)`"
)
#: The same with a file's ending, wherever it stands: in a diagram, too.
FILE = re.compile(
    r"(?<![\w/.-])((?:benchmarks|config|consumers|deploy|docs|examples|pipeline|tasks|tests)/[\w./-]*"
    r"\w\.(?:conf|env|json|md|properties|py|toml|yml))\b"
)
#: A document that code or a configuration names, with the heading it names.
DOCUMENT = re.compile(r"\b(docs/[\w./-]+\.(?:md|json))(#[\w-]+)?")


#: Folders of this repository; the root's own files come beside them.
FOLDERS = ("benchmarks", "config", "consumers", "deploy", "docs", "examples", "pipeline", "tasks", "tests")


@cache
def files() -> tuple[Path, ...]:
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return tuple(path for path in (*ROOT.iterdir(), *inside) if path.is_file())


DOCUMENTS = tuple(sorted(path for path in files() if path.suffix == ".md"))


@cache
def anchors(document: Path) -> frozenset[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = FENCE.sub("", document.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings)


def broken(document: Path) -> Iterator[str]:
    for match in LINK.finditer(FENCE.sub("", document.read_text())):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (document.parent / path).resolve() if path else document
        if not aim.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(aim):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_documents_resolve(document: Path) -> None:
    """Every relative link leads to a file, and every anchor to a heading of it."""
    assert list(broken(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_documents_name_exist(document: Path) -> None:
    """A path of this repository in a document is the path of a file or folder."""
    text = document.read_text()
    paths = {re.sub(r"[:#].*", "", path) for path in [*NAMED.findall(text), *FILE.findall(text)]}
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    tests = {path.name for path in files()}
    assert set(re.findall(r"`(test_\w+\.py)`", text)) <= tests


@cache
def names_of_tests(path: str) -> frozenset[str]:
    """The tests that a file has."""
    source = (ROOT / path).read_text()
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_documents_name_exist(document: Path) -> None:
    """A name such as ``tests/unit/test_docs.py::test_…`` is that of a test."""
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", document.read_text())
    assert [f"{path}::{name}" for path, name in named if name not in names_of_tests(path)] == []


def test_what_the_threat_model_excludes_is_shown() -> None:
    """Each row of a table of what somebody cannot do names a test."""
    tables = (DOCS / "threat-model.md").read_text().split("| cannot | shown by |\n| --- | --- |\n")[1:]
    rows = [row for table in tables for row in table.partition("\n\n")[0].splitlines()]
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r"::test_\w+`", row)] == []


def test_documents_that_code_names_exist() -> None:
    """Messages, comments and alerts lead to documents and headings that exist."""
    missing = []
    for path in files():
        if not path.name.endswith(SPEAKING):
            continue
        for name, anchor in DOCUMENT.findall(path.read_text()):
            if not (ROOT / name).exists() or (anchor and anchor[1:] not in anchors(ROOT / name)):
                missing.append(f"{path.relative_to(ROOT)}: {name}{anchor}")
    assert missing == []


def test_every_document_is_reached_from_the_index() -> None:
    """Following links from docs/index.md and README.md leads to every document."""
    seen: set[Path] = set()
    waiting = [DOCS / "index.md", ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document in seen:
            continue
        seen.add(document)
        for match in LINK.finditer(FENCE.sub("", document.read_text())):
            path = (document.parent / (match[1] or match[2]).partition("#")[0]).resolve()
            if path.suffix == ".md" and path.exists():
                waiting.append(path)
    assert {path for path in DOCUMENTS if path.is_relative_to(DOCS)} <= seen


def test_every_setting_is_in_the_reference() -> None:
    """docs/reference/settings.md has a row for each variable of config/example.env, and no other row."""
    rows = re.findall(
        r"^\| `([A-Z][A-Z0-9_]*)` \|", (DOCS / "reference" / "settings.md").read_text(), re.MULTILINE
    )
    example = re.findall(
        r"^(?:# )?([A-Z][A-Z0-9_]*)=", (ROOT / "config" / "example.env").read_text(), re.MULTILINE
    )
    # The example of KAFKA_TOPIC_<NAME>, which stands for one variable for each topic.
    assert sorted(rows) == sorted(set(example) - {"KAFKA_TOPIC_ORDER_PLACED"})


def test_every_command_is_in_the_reference() -> None:
    """docs/reference/commands.md names each command of ``pipeline``, and each subcommand."""
    text = (DOCS / "reference" / "commands.md").read_text()
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+).*$", text, re.MULTILINE)}
    for name, command in main.commands.items():
        assert name in rows
        for sub in getattr(command, "commands", {}):
            assert re.search(rf"[ `]{sub}`", rows[name]), f"pipeline {name} {sub}"


def test_the_example_of_the_readme_works() -> None:
    """Its two stages load, and calling one runs its function."""
    [source] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    call = "print(price(Order(customer='ada', amounts=[1, 2])))"
    done = subprocess.run(
        [sys.executable, "-c", f"{source}\n{call}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "30\n", done.stderr


def test_the_architecture_has_every_room_and_the_layers_as_checked() -> None:
    """The table names each package of pipeline/, and the layers are those of the import contract."""
    text = (DOCS / "architecture.md").read_text()
    rooms = {f"pipeline/{path.parent.name}/" for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(pipeline/\w+/)` \|", text, re.MULTILINE)) == rooms
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    assert "".join(f"    {layer.replace('pipeline.', '')}\n" for layer in layers) in text


def test_the_glossary_has_each_word_once() -> None:
    """No word is in two tables, and each table is in alphabetical order."""
    tables = (DOCS / "glossary.md").read_text().split("## ")[1:]
    words = [re.findall(r"^\| (?!word |---)([^|]+?) \|", table, re.MULTILINE) for table in tables]
    assert [sorted(table, key=str.lower) for table in words] == words
    assert len({word for table in words for word in table}) == sum(map(len, words))
