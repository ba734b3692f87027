"""ARNs (Amazon's resource names) of a service's queues, table, bucket and topics, from its settings."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.errors import ConfigurationError
from pipeline.payloads.bucket import bucket_arn
from pipeline.settings import Settings

#: The region in a host name of SQS: current, dual-stack, FIPS and VPC endpoints; then the legacy ones.
_REGION = re.compile(r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.|^([a-z]+(?:-[a-z]+)+-\d)\.queue\.")

#: The partition of regions by the prefix of their names; "aws" for all others.
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "eusc-": "aws-eusc"}


@dataclass(frozen=True, kw_only=True)
class Arns:
    """The ARNs of one account and region."""

    partition: str
    region: str
    account: str
    #: "name/uuid" of the MSK cluster, which the ARNs of its topics and groups repeat.
    cluster: str | None
    cluster_arn: str | None

    def queue(self, url: str) -> str:
        """Return the ARN of a queue, by its URL or name."""
        return f"arn:{self.partition}:sqs:{self.region}:{self.account}:{url.rsplit('/', 1)[-1]}"

    def table(self, name: str) -> str:
        """Return the ARN of a table."""
        return f"arn:{self.partition}:dynamodb:{self.region}:{self.account}:table/{name}"

    def index(self, table: str, index: str) -> str:
        """Return the ARN of an index of a table."""
        return f"{self.table(table)}/index/{index}"

    def bucket(self, name: str) -> str:
        """Return the ARN of a bucket."""
        return bucket_arn(name, self.partition)

    def topic(self, name: str) -> str:
        """Return the ARN of a topic on MSK."""
        return self._kafka("topic", name)

    def group(self, name: str) -> str:
        """Return the ARN of a consumer group on MSK."""
        return self._kafka("group", name)

    def _kafka(self, kind: str, name: str) -> str:
        assert self.cluster_arn
        return f"{self.cluster_arn.split(':cluster/')[0]}:{kind}/{self.cluster}/{name}"


def arns_of(settings: Settings) -> Arns:
    """Return the ARNs of a service. Raises ConfigurationError if its queue's URL has no account or region."""
    url = urlsplit(settings.sqs_task_queue_url)
    account = url.path.strip("/").split("/")[0]
    if not account.isdigit():
        raise ConfigurationError(
            f"SQS_TASK_QUEUE_URL={settings.sqs_task_queue_url} has no account: it should end in "
            "/<account>/<name>.fifo."
        )
    found = _REGION.search(url.hostname or "")
    region = next(filter(None, found.groups()), None) if found else None
    region = region or settings.aws_default_region
    if not region:
        raise ConfigurationError(
            f"SQS_TASK_QUEUE_URL={settings.sqs_task_queue_url} has no region: set AWS_DEFAULT_REGION."
        )
    partition = next((name for start, name in _PARTITIONS.items() if region.startswith(start)), "aws")
    cluster = settings.msk_cluster_arn
    return Arns(
        partition=partition,
        region=region,
        account=account,
        cluster=cluster.split(":cluster/")[1] if cluster else None,
        cluster_arn=cluster,
    )
