"""The report of the demo."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.demo.progress import Progress

#: Lines of each list in the report.
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a run."""

    #: "embedded" or "local".
    services: str
    #: By job id.
    documents: Mapping[str, Path]
    progress: Progress
    #: From the jobs' records.
    jobs_completed: int
    jobs_failed: int
    #: From the first submission until the last job had ended.
    seconds: float
    differences: Sequence[str]

    @property
    def verified(self) -> bool:
        """Whether the plain loop has the same counts."""
        return not self.differences

    def fields(self) -> dict[str, Any]:
        """Return the result as one JSON object."""
        return {
            "services": self.services,
            "documents": len(self.documents),
            "chunks": self._total("chunks"),
            "words": self._total("words"),
            "jobs_completed": self.jobs_completed,
            "jobs_failed": self.jobs_failed,
            "verified": self.verified,
            "seconds": round(self.seconds, 3),
            "tasks_per_second": round(self.progress.tasks / self.seconds, 1),
        }

    def print(self, console: Console) -> None:
        """Print the result as text."""
        console.print(
            f"{len(self.documents):,} documents, {self._total('chunks'):,} chunks, "
            f"{self._total('lines'):,} lines, {self._total('words'):,} words"
        )
        console.print(f"{self.jobs_completed:,} jobs completed, {self.jobs_failed:,} failed")
        rate = self.progress.tasks / self.seconds
        console.print(
            f"{self.progress.tasks:,} tasks in {self.seconds:.1f} s, {rate:,.0f} tasks/s "
            f"on {self.services} services"
        )
        self._print_terms(console)
        self._print_slowest(console)
        self._print_failures(console)
        self._print_verdict(console)

    def _total(self, name: str) -> int:
        return sum(seen.summary[name] for seen in self.progress.jobs.values() if seen.summary)

    def _print_terms(self, console: Console) -> None:
        terms: Counter[str] = Counter()
        for seen in self.progress.jobs.values():
            terms.update(dict(seen.summary["top_terms"]) if seen.summary else {})
        listed = ", ".join(f"{term} {count:,}" for term, count in terms.most_common(_SHOWN))
        console.print(
            f"\nTop terms (added up over each document's 50 most frequent): {listed or 'none'}",
            soft_wrap=True,
        )

    def _print_slowest(self, console: Console) -> None:
        slowest = sorted(
            (
                (seen.ended - seen.began, seen.summary["chunks"], self.documents[job_id])
                for job_id, seen in self.progress.jobs.items()
                if seen.summary and seen.began and seen.ended and job_id in self.documents
            ),
            key=lambda job: job[0],
            reverse=True,
        )
        console.print("\nSlowest documents, from extracted to summarised, waiting included:")
        for seconds, chunks, path in slowest[: _SHOWN // 2]:
            _line(console, f"{seconds:6.2f} s  {chunks:4} chunks  {path}")

    def _print_failures(self, console: Console) -> None:
        failed = [
            f"{self.documents[job_id]}: {seen.failure}"
            for job_id, seen in self.progress.jobs.items()
            if job_id in self.progress.failed and job_id in self.documents
        ]
        _print_list(console, "Failed", failed)

    def _print_verdict(self, console: Console) -> None:
        if self.verified:
            console.print("\n[green]Verified[/]: a plain loop over the same files has the same counts.")
        else:
            _print_list(
                console, "NOT verified, a plain loop over the same files has other counts", self.differences
            )


def _print_list(console: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    console.print(f"\n{title} ({len(lines):,}):")
    for line in lines[:_SHOWN]:
        _line(console, line)
    if len(lines) > _SHOWN:
        console.print(f"  and {len(lines) - _SHOWN:,} more")


def _line(console: Console, text: str) -> None:
    """Print a line with a path: without markup, and never wrapped."""
    console.print(f"  {text}", markup=False, soft_wrap=True)
