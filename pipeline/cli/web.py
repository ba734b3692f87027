"""``pipeline web``: the jobs page and the health endpoints, as a process of their own."""

import click

from pipeline.cli.edge import read_settings, read_stages
from pipeline.cli.jobspage import jobs_page
from pipeline.telemetry.logs import log_to_stderr


@click.command(
    short_help="Serve the jobs page and the health endpoints.",
    epilog="""\b
Examples:
  pipeline web
  pipeline web --host 0.0.0.0 --port 8080
  curl -f http://127.0.0.1:8080/health

Bridge and worker serve the health endpoints themselves where HEALTH_PORT is set.""",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port to listen on."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 (or ::) lets other machines ask.",
)
def web(port: int, host: str) -> None:
    """Serve the jobs page, and /health, /kafka/health, /sqs/health, /live and /ready, until Ctrl-C.

    Without WEB_TOKEN this machine may look, and nobody may act. docs/jobs-page.md.
    """
    settings = read_settings()
    log_to_stderr(settings.log_level)
    with jobs_page(settings, read_stages(settings), host, port) as server:
        click.echo(f"Serving {server.url}", err=True)
        server.run()
