"""Run Celery's own integration suite against ``fifo://``, and compare the results with the expectations.

The modules are those of t/integration in Celery's source release, which is downloaded once. Exit code 1: a
test failed or passed that was not expected to (tests/celerysuite/expected.toml).

Examples:
  python -m tests.celerysuite                      # all, on Kafka, ElasticMQ and DynamoDB Local
  python -m tests.celerysuite test_inspect test_worker
  python -m tests.celerysuite --services embedded --json
"""

import argparse
import contextlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from pipeline.services.embedded import embedded_services
from pipeline.services.local import local_services
from tests.celerysuite import expected
from tests.celerysuite.run import Outcome, environment, redis, run

SERVICES = {"embedded": embedded_services, "local": local_services}


def main() -> int:
    """Run the modules that are named; return the exit code."""
    known = expected.read()
    parser = argparse.ArgumentParser(
        "python -m tests.celerysuite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--services", choices=SERVICES, default="local", help="default: local")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    if unknown := set(options.modules) - known.keys():
        parser.error(f"no module {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    folder = Path(tempfile.mkdtemp(prefix="celerysuite-"))
    results: dict[str, Outcome] = {}
    with contextlib.ExitStack() as stack:
        services = stack.enter_context(SERVICES[options.services]())
        variables = environment(services, stack.enter_context(redis()))
        for module in options.modules or known:
            results[module] = run(module, variables, folder)
            _tell(f"{module}: {results[module].seconds:.0f} s, log: {folder / module}.log")
    wrong = {module: expected.differences(known[module], outcome) for module, outcome in results.items()}
    _print(_as_json(results, wrong) if options.json else _as_table(results, wrong))
    return 1 if any(wrong.values()) else 0


def _as_json(results: dict[str, Outcome], wrong: dict[str, list[str]]) -> str:
    return json.dumps(
        {module: {**asdict(outcome), "differences": wrong[module]} for module, outcome in results.items()},
        indent=2,
    )


def _as_table(results: dict[str, Outcome], wrong: dict[str, list[str]]) -> str:
    lines = ["| module | passed / failed | seconds |", "| --- | --- | --- |"]
    lines += [
        f"| {module} | {outcome.passed}/{len(outcome.failed)} | {outcome.seconds:.0f} |"
        for module, outcome in results.items()
    ]
    lines += [f"{module}: {line}" for module in results for line in wrong[module]]
    return "\n".join([*lines, "differs from expected.toml" if any(wrong.values()) else "as expected"])


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
