"""The harness of Celery's own suite: what it reads of a run, and what it takes for a difference."""

from pathlib import Path

from tests.celerysuite import expected, run
from tests.celerysuite.expected import Expected
from tests.celerysuite.run import Outcome

REPORT = """<testsuites><testsuite>
<testcase classname="t.integration.test_x" name="test_plain"/>
<testcase classname="t.integration.test_x.test_Class" name="test_bad[1]"><failure message="no&#10;x"/>
</testcase>
<testcase classname="t.integration.test_x.test_Class" name="test_torn"><error message="down"/></testcase>
<testcase classname="t.integration.test_x.test_Class" name="test_not"><skipped message="no redis"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_read_by_the_names_of_its_tests(tmp_path: Path) -> None:
    """A test fails by an assertion or by its fixtures; the reason is one line."""
    report = tmp_path / "x.xml"
    report.write_text(REPORT)
    assert run._read(report, 1.0) == Outcome(
        passed=1,
        failed={"test_Class::test_bad[1]": "no", "test_Class::test_torn": "down"},
        skipped={"test_Class::test_not": "no redis"},
        seconds=1.0,
    )


def test_a_run_that_came_to_nothing_differs(tmp_path: Path) -> None:
    """Without a report no test has passed."""
    outcome = run._read(tmp_path / "none.xml", 1.0)
    assert expected.differences(Expected(passed=3, failed={}), outcome) == ["0 tests pass, expected 3"]


def test_every_difference_is_named() -> None:
    """A failure and a pass that were not expected."""
    known = Expected(passed=2, failed={"bad": "a reason", "mended": "a reason"})
    outcome = Outcome(passed=2, failed={"bad": "x", "new": "y"}, skipped={"left": "z"}, seconds=1.0)
    assert expected.differences(known, outcome) == [
        "fails: new: y",
        "passes, or is gone: mended",
    ]
    as_known = Outcome(passed=2, failed={"bad": "x", "mended": "x"}, skipped={}, seconds=1.0)
    assert expected.differences(known, as_known) == []


def test_each_expected_failure_has_a_reason() -> None:
    """The file names the modules in the order in which they run."""
    known = expected.read()
    assert list(known)[:2] == ["test_inspect", "test_worker"]
    assert all(len(reason) > 20 for module in known.values() for reason in module.failed.values())
