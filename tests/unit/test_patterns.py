"""Every regular expression of the package takes linear time, whatever the text."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.patterns import is_linear

ROOT = Path(__file__).parents[2]

#: Functions that take a pattern.
TAKING = {
    *("re.compile", "re.search", "re.match", "re.fullmatch"),
    *("re.split", "re.findall", "re.finditer", "re.sub"),
}

#: Why these need not be so, by file: nobody else has a say in the text, or a match begins at its beginning
#: only, so that no search starts again.
EXCEPTIONS = {
    "pipeline/author/samples.py": "an author's own schema",
    "pipeline/cli/capacity.py": "what was typed, from its beginning",
    "pipeline/cli/options.py": "what was typed, from its beginning",
    "pipeline/control/topicreader.py": "the keys that this process subscribes to",
    "pipeline/demo/verify.py": "text of the demo",
    "pipeline/infra/arns.py": "addresses in settings",
    "pipeline/kafka/configuration.py": "log lines of librdkafka, from their beginning",
    "pipeline/kafka/security.py": "names of settings",
    "pipeline/wire/deadletter.py": "names of headers, from their beginning",
}


def calls(path: Path) -> list[ast.Call]:
    """Return the calls that take a pattern."""
    found = [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Call)]
    return [each for each in found if ast.unparse(each.func) in TAKING]


FILES = [path for path in sorted((ROOT / "pipeline").rglob("*.py")) if calls(path)]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_nothing_can_fail_after_a_repeat_without_bound(path: Path) -> None:
    """Else a long text that was made for it takes time out of proportion, under the interpreter's lock."""
    name = str(path.relative_to(ROOT))
    if name in EXCEPTIONS:
        return
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    for call in calls(path):
        expression = compile(ast.Expression(call.args[0]), name, "eval")
        pattern = re.compile(eval(expression, vars(module)))  # noqa: S307 - our own code
        assert is_linear(pattern.pattern, pattern.flags), f"{name}:{call.lineno}"


def test_exceptions_are_still_there() -> None:
    """Each names a file with a pattern."""
    assert set(EXCEPTIONS) <= {str(path.relative_to(ROOT)) for path in FILES}


def test_quadratic_patterns_are_seen() -> None:
    """The check refuses what was slow, and what is slow in the usual ways."""
    for slow in (r"\beyJ[\w-]{8,}\.", r"\s+$", r"(a+)+b", r"(?:a|b)*c", r"x(?=a*b)", r"a*?b"):
        assert not is_linear(slow)
    for quick in (r"a{1,9}b", r"ab*", r"a(?:b*+|c)", r"a*+b?", r"(?<!a)b"):
        assert is_linear(quick)
