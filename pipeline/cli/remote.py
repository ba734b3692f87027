"""``--url``: commands over the API of a jobs page, without access to Kafka, SQS and DynamoDB."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urljoin

import click
from pydantic import TypeAdapter, ValidationError

from pipeline.cli.service import job_ids_of
from pipeline.deadletters import Filter
from pipeline.errors import ServiceRefusedError, ServiceUnavailableError
from pipeline.jobs import Job
from pipeline.vault import environment
from pipeline.web.model import JobDetail, JobFilter, JobList, LetterDetail, LetterList

#: Seconds to wait for an answer: longer than the page waits for its services.
TIMEOUT = 30.0

#: Jobs of one request.
PAGE = 200

T = TypeVar("T")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would send the token to the other host."""

    def redirect_request(self, *_: Any) -> None:
        """Return None: the redirect becomes an error with its status."""


_OPENER = urllib.request.build_opener(_NoRedirects)

url_option = click.option(
    "--url",
    metavar="URL",
    help="Read from the jobs page at URL (http://host:8080) with WEB_TOKEN, instead of from the services.",
)


class Remote:
    """The API of one jobs page. Raises a ServiceError when it does not answer, or refuses."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise click.UsageError(f"--url {url} is not an address: write http://host:port.")
        self._url = url.rstrip("/")
        self._token = environment().get("WEB_TOKEN", "")

    def jobs(self, wanted: JobFilter) -> Iterator[Job]:
        """Give every job that matches, newest first, page by page."""
        query = {"limit": PAGE} | _set_values(asdict(wanted))
        while True:
            page = self._get("/jobs", JobList, query)
            assert page is not None
            yield from (row.job for row in page.rows)
            if page.next is None:
                return
            query["before"] = page.next

    def job(self, job_id: str) -> JobDetail | None:
        """Return a job with its stages and first failures; None for an unknown id."""
        return self._get(f"/jobs/{quote(job_id, safe='')}", JobDetail)

    def job_ids(self, text: str) -> Sequence[str]:
        """Return the ids of jobs that a text is, or begins."""
        return job_ids_of(text, lambda job_id: self.job(job_id) is not None, self._starting_with)

    def _starting_with(self, prefix: str) -> list[str]:
        """Return the ids that start with ``prefix`` among the newest jobs."""
        page = self._get("/jobs", JobList, {"limit": PAGE, "text": prefix})
        assert page is not None
        return [row.job.job_id for row in page.rows if row.job.job_id.startswith(prefix)]

    def letters(self, wanted: Filter) -> LetterList:
        """Return the dead letters that a search of a few seconds finds."""
        names = ("stage", "job_id", "error", "since", "before", "place")
        query = _set_values({name: getattr(wanted, name) for name in names})
        found = self._get("/dead-letters", LetterList, query)
        assert found is not None
        return found

    def letter(self, letter_id: str) -> LetterDetail | None:
        """Return one dead letter; None if unknown."""
        return self._get(f"/dead-letters/{quote(letter_id, safe='')}", LetterDetail)

    def _get(self, path: str, kind: type[T], query: Mapping[str, Any] | None = None) -> T | None:
        url = f"{self._url}/api/v1{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http and https only, see above
        try:
            with _OPENER.open(request, timeout=TIMEOUT) as answer:
                return TypeAdapter(kind).validate_json(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                reason, leads_to = _reason(error), error.headers["Location"]
            if leads_to:
                other = urljoin(url, leads_to).removesuffix(url.removeprefix(self._url))
                raise ServiceRefusedError(
                    f"{self._url} redirects to {other}. WEB_TOKEN is not sent to another address: "
                    "if the jobs page is there, give that address as --url"
                ) from error
            if error.code == 404 and reason:
                return None
            kind_of = ServiceUnavailableError if error.code == 503 else ServiceRefusedError
            raise kind_of(f"{url} answered {error.code}: {reason or 'it is not a jobs page'}") from error
        except (OSError, ValidationError) as error:
            raise ServiceUnavailableError(f"{url} does not answer as a jobs page does: {error}") from error


def _set_values(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are set."""
    return {name: value for name, value in wanted.items() if value is not None}


def _reason(error: urllib.error.HTTPError) -> str:
    """Return the error text of the API; empty for another server."""
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, LookupError, TypeError):
        return ""
