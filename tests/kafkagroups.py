"""Consumer groups as tests look at them."""

from collections.abc import Collection
from contextlib import closing

from pipeline.kafka import Group, GroupOffsets, Member, describe_groups
from pipeline.settings import Settings


def members(settings: Settings) -> list[Member]:
    """Return the members of the service's group."""
    name = settings.kafka_consumer_group
    found = describe_groups(settings, [name])[name]
    if not isinstance(found, Group):
        raise found
    return list(found.members)


def lag(settings: Settings, topics: Collection[str]) -> int:
    """Return the events of topics that the service's group has not committed."""
    with closing(GroupOffsets(settings, settings.kafka_consumer_group)) as offsets:
        return sum(offsets.lag(topics).values())
