"""Moments as people type them: ISO 8601 (in UTC where it does not say), or a duration: so long ago (2h)."""

import time
from datetime import UTC, datetime
from typing import Any

import click

from pipeline.cli.duration import Duration, is_duration


class Moment(click.ParamType[float]):
    """Seconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds since 1970; fails with the two ways to write it."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        if is_duration(text):
            return time.time() - Duration().convert(text, param, ctx)
        try:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time. Write 2026-11-24T07:30 (UTC), 2026-11-24T08:30+01:00 or 2h (ago).",
                param,
                ctx,
            )
