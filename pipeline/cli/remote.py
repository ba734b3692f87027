"""``--url``: a command asks the API of a jobs page, and needs no access to Kafka, SQS and DynamoDB itself."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urljoin

import click
from pydantic import TypeAdapter, ValidationError

from config.vault import environment
from pipeline.deadletters import Filter
from pipeline.errors import ServiceRefusedError, ServiceUnavailableError
from pipeline.jobs import Job
from pipeline.web.model import JobDetail, JobFilter, JobList, LetterDetail, LetterList

#: Seconds that an answer is waited for: longer than the page waits for the services.
TIMEOUT = 30.0

#: Jobs asked for at once.
PAGE = 200

T = TypeVar("T")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would take the token along to whatever host it names."""

    def redirect_request(self, *_: Any) -> None:
        """None: the answer is an error with its status."""


_OPENER = urllib.request.build_opener(_Stay)

url_option = click.option(
    "--url",
    metavar="URL",
    help="Ask the jobs page there (http://host:8080), with WEB_TOKEN, and no service itself.",
)


class Remote:
    """The API of one jobs page. Raises a ServiceError when it is away, or refuses."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise click.UsageError(f"--url {url} is no address: write http://host:port.")
        self._url = url.rstrip("/")
        self._token = environment().get("WEB_TOKEN", "")

    def jobs(self, wanted: JobFilter) -> Iterator[Job]:
        """Every such job, the newest first; asked for page by page."""
        query = {"limit": PAGE} | _given(asdict(wanted))
        while True:
            page = self._get("/jobs", JobList, query)
            assert page is not None
            yield from (row.job for row in page.rows)
            if page.next is None:
                return
            query["before"] = page.next

    def job(self, job_id: str) -> JobDetail | None:
        """A job with its stages and the first of its failures; None when there is none."""
        return self._get(f"/jobs/{quote(job_id, safe='')}", JobDetail)

    def letters(self, wanted: Filter) -> LetterList:
        """The dead letters that a look of a few seconds finds."""
        names = ("stage", "job_id", "error", "since", "before", "place")
        query = _given({name: getattr(wanted, name) for name in names})
        found = self._get("/dead-letters", LetterList, query)
        assert found is not None
        return found

    def letter(self, letter_id: str) -> LetterDetail | None:
        """One dead letter; None when there is none."""
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
                    f"{self._url} leads to {other}, where WEB_TOKEN is not sent unasked: "
                    "if the jobs page is there, give that address"
                ) from error
            if error.code == 404 and reason:
                return None
            kind_of = ServiceUnavailableError if error.code == 503 else ServiceRefusedError
            raise kind_of(f"{url} answered {error.code}: {reason or 'it is no jobs page'}") from error
        except (OSError, ValidationError) as error:
            raise ServiceUnavailableError(f"{url} does not answer as a jobs page does: {error}") from error


def _given(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What a filter asks for."""
    return {name: value for name, value in wanted.items() if value is not None}


def _reason(error: urllib.error.HTTPError) -> str:
    """What the API says of a problem; empty where it is not the API that speaks."""
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, LookupError, TypeError):
        return ""
