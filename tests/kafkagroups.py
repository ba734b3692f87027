"""Consumer groups as tests look at them."""

from collections.abc import Collection
from contextlib import closing

from pipeline.errors import ServiceUnavailableError
from pipeline.kafka import Group, GroupOffsets, Member, describe_groups
from pipeline.settings import Settings


def members(settings: Settings) -> list[Member]:
    """Return the members of the service's group; none while its coordinator is not there yet."""
    name = settings.kafka_consumer_group
    try:
        found = describe_groups(settings, [name])[name]
    except ServiceUnavailableError:
        return []
    if isinstance(found, ServiceUnavailableError):
        return []
    if not isinstance(found, Group):
        raise found
    return list(found.members)


def lag(settings: Settings, topics: Collection[str]) -> int:
    """Return the events of topics that the service's group has not committed."""
    with closing(GroupOffsets(settings, settings.kafka_consumer_group)) as offsets:
        return sum(offsets.lag(topics).values())
