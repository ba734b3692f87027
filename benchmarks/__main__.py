"""``python -m benchmarks``: the worker and the bridge against their peers, in one run on one machine."""

from collections.abc import Sequence

import click

from benchmarks.ground import running_services
from benchmarks.rows import show

EXAMPLES = """
\b
Examples:
  python -m benchmarks worker                      all peers at 0 and 10 ms round trip
  python -m benchmarks worker --peer ours --rtt 10 --json
  python -m benchmarks worker --services local     ElasticMQ instead of ministack
  python -m benchmarks soak                        200,000 tasks: does memory stay level?
"""

services_option = click.option(
    "--services",
    "services_name",
    type=click.Choice(["embedded", "local"]),
    default="embedded",
    show_default=True,
    help="What serves: embedded (ministack, the faster SQS) or local (Kafka, ElasticMQ, DynamoDB Local).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One line of JSON a row.")
rtt_option = click.option(
    "--rtt",
    "rtts",
    type=click.FloatRange(min=0),
    multiple=True,
    default=(0.0, 10.0),
    show_default=True,
    help="Milliseconds to the services and back. May be given more than once.",
)
repeat_option = click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Rounds; a row is their median.",
)


@click.group(epilog=EXAMPLES)
def main() -> None:
    """Measure ours against its peers. Compare rows of one run only: machines differ."""


@main.command(epilog=EXAMPLES)
@click.option("--peer", "peers", type=click.Choice(["ours", "stock", "raw", "redis"]), multiple=True)
@click.option("--tasks", type=click.IntRange(min=100), default=3000, show_default=True, help="Tasks a round.")
@rtt_option
@repeat_option
@services_option
@json_option
def worker(
    peers: Sequence[str], tasks: int, rtts: Sequence[float], repeat: int, services_name: str, as_json: bool
) -> None:
    """Tasks per second of a worker with two children, task events on, and a function that does nothing."""
    from benchmarks import worker as benchmark

    with running_services(services_name) as services:
        for rows in benchmark.run(services, peers or tuple(benchmark.PEERS), rtts, tasks, repeat):
            show(rows, as_json)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
