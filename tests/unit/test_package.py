"""The package: its metadata, and what texts say about installing it."""

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.services import jars

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = set(PROJECT["optional-dependencies"])

#: Every text that a user reads: documents, settings, source.
TEXTS = sorted(
    path
    for path in chain(
        ROOT.glob("*.md"),
        *(
            (ROOT / folder).rglob("*")
            for folder in ("benchmarks", "config", "consumers", "docs", "pipeline", "tasks", "tests")
        ),
    )
    if path.suffix in (".md", ".py", ".env", ".html")
)

INSTALLED = re.compile(r"([\w.-]+)\\?\[([a-z]+(?:,[a-z]+)*)\\?\]'")


def test_texts_name_extras_of_this_distribution() -> None:
    """Each ``pip install`` of a document or a message installs this project, with an extra that it has."""
    found = [
        (path.relative_to(ROOT), name, extra)
        for path in TEXTS
        for name, extras in INSTALLED.findall(path.read_text())
        for extra in extras.split(",")
    ]
    assert len(found) > 10
    wrong = [each for each in found if each[1] not in (PROJECT["name"], ".") or each[2] not in EXTRAS]
    assert wrong == []


def test_no_text_names_the_distribution_of_another_project() -> None:
    """``pipeline`` on PyPI is another project: no text installs it."""
    another = re.compile(r"pip install ['\"]?pipeline\b")
    assert [path for path in TEXTS if another.search(path.read_text())] == []


def test_all_holds_what_a_service_may_need() -> None:
    """The extra ``all`` has every other one but those of this project's own development."""
    [everything] = PROJECT["optional-dependencies"]["all"]
    assert set(everything.split("[")[1].rstrip("]").split(",")) == EXTRAS - {"all", "bench", "dev"}


def test_the_package_is_typed_and_licensed() -> None:
    """Type checkers read its annotations, and its licence goes with it."""
    assert (ROOT / "pipeline" / "py.typed").exists()
    assert PROJECT["license"] == "Apache-2.0"
    assert all(list(ROOT.glob(pattern)) for pattern in PROJECT["license-files"])


def test_the_documented_versions_are_those_of_the_package() -> None:
    """docs/reference/versions.md names the Pythons, the Celery and the Kafka that the package is made for."""
    rows = (ROOT / "docs" / "reference" / "versions.md").read_text().splitlines()
    table = {
        cells[0]: cells[1:] for row in rows if (cells := [cell.strip() for cell in row.split("|")[1:-1]])
    }
    pythons = [line.split()[-1] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", line)]
    assert table["Python"][0] == ", ".join(pythons)
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    [celery] = [need for need in PROJECT["dependencies"] if need.startswith("celery>=")]
    assert celery.startswith(f"celery>={table['Celery, kombu'][0]},")
    assert table["Apache Kafka"][1] == jars.versions()["kafka"]
