"""The bucket of payloads: what a service needs of it, compared with what there is, made and changed.

Services may share a bucket: each has a lifecycle rule of its own, for its own prefix, and the rules of others
stay as they are.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from botocore.exceptions import ClientError

from pipeline.aws.errors import VENDOR_ERRORS
from pipeline.payloads.client import s3_client
from pipeline.payloads.errors import error_code, s3_error
from pipeline.settings import Settings
from pipeline.sqs import QUEUE_RETENTION

DAY: Final = 86_400

#: Codes of a setting that a bucket does not have.
_UNSET: Final = frozenset(
    {
        "NoSuchBucketPolicy",
        "NoSuchLifecycleConfiguration",
        "NoSuchPublicAccessBlockConfiguration",
        "ServerSideEncryptionConfigurationNotFoundError",
    }
)
#: Codes of a server that does not know a setting: it is not judged then, as emulators leave some out.
_UNKNOWN: Final = frozenset({"405", "501", "MethodNotAllowed", "NotImplemented"})

#: All that a bucket of payloads blocks: nothing in it is for the public.
PUBLIC_ACCESS_BLOCK: Final = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}

_SID: Final = "DenyRequestsWithoutTls"

Outcome = Literal["missing", "made", "present", "changed"]


@dataclass(frozen=True, kw_only=True)
class BucketNeed:
    """The bucket that a service needs."""

    name: str
    #: What its keys begin with, and its lifecycle rule is for.
    prefix: str
    #: The id of the rule.
    rule_id: str
    #: Days after which the rule deletes an object.
    days: int
    #: The key of KMS that encrypts it; None: S3's own, which always does.
    key: str | None

    @property
    def rule(self) -> dict[str, Any]:
        """The lifecycle rule, as S3 has it."""
        return {
            "ID": self.rule_id,
            "Status": "Enabled",
            "Filter": {"Prefix": self.prefix},
            "Expiration": {"Days": self.days},
        }

    @property
    def encryption(self) -> dict[str, Any]:
        """The default encryption of its objects, as S3 has it. A bucket key saves calls of KMS."""
        by: dict[str, Any] = {"SSEAlgorithm": "AES256"}
        if self.key:
            by = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": self.key}
        return {"ApplyServerSideEncryptionByDefault": by, "BucketKeyEnabled": self.key is not None}


@dataclass(frozen=True, kw_only=True)
class BucketReport:
    """The state of the bucket."""

    name: str
    outcome: Outcome
    #: What is less than the service needs, a clause each; with "changed" what was.
    differences: tuple[str, ...] = ()


def bucket_need(settings: Settings) -> BucketNeed | None:
    """Return the bucket that a service needs; None where nothing is kept on S3."""
    if settings.payload_bucket is None:
        return None
    return BucketNeed(
        name=settings.payload_bucket,
        prefix=f"{settings.service_name}/",
        rule_id=f"{settings.service_name}-payloads",
        days=kept_days(settings),
        key=settings.kms_key_arn,
    )


def kept_days(settings: Settings) -> int:
    """Return the days for which an object may be named by something that is to be read.

    An event is taken for JOB_EXPIRY_DAYS after it was written, and then refused; its task, a part or a gather
    is on a queue for as long as SQS keeps it, and its dead letter once more. Parts and results are named by
    items that expire before.
    """
    return settings.job_expiry_days + 2 * QUEUE_RETENTION // DAY


class Bucket:
    """The bucket of a service. Every method raises the ServiceError of S3."""

    def __init__(self, need: BucketNeed) -> None:
        self._need = need

    def inspect(self) -> BucketReport:
        """Return whether it exists, and what differs."""
        if not self.exists():
            return BucketReport(name=self._need.name, outcome="missing")
        differences = tuple(text for text, _ in self._differences())
        return BucketReport(name=self._need.name, outcome="present", differences=differences)

    def provision(self, update: bool) -> BucketReport:
        """Make it if it is missing; change what differs only with ``update``."""
        if not self.exists():
            self._make()
            for _, change in self._differences():
                change()
            return BucketReport(name=self._need.name, outcome="made")
        found = list(self._differences())
        if update:
            for _, change in found:
                change()
        outcome: Outcome = "changed" if update and found else "present"
        return BucketReport(
            name=self._need.name, outcome=outcome, differences=tuple(text for text, _ in found)
        )

    def exists(self) -> bool:
        """Whether it exists, and this process may use it."""
        try:
            s3_client().head_bucket(Bucket=self._need.name)
        except ClientError as error:
            if error_code(error) in ("404", "NoSuchBucket"):
                return False
            raise s3_error(error, f"look at bucket {self._need.name}") from error
        except VENDOR_ERRORS as error:
            raise s3_error(error, f"look at bucket {self._need.name}") from error
        return True

    def _make(self) -> None:
        client = s3_client()
        region = client.meta.region_name
        # S3 refuses to be told its oldest region.
        where: Any = {} if region == "us-east-1" else {"LocationConstraint": region}
        more: Any = {"CreateBucketConfiguration": where} if where else {}
        try:
            client.create_bucket(Bucket=self._need.name, **more)
        except ClientError as error:
            # Another process made it meanwhile.
            if error_code(error) != "BucketAlreadyOwnedByYou":
                raise s3_error(error, f"make bucket {self._need.name}") from error
        except VENDOR_ERRORS as error:
            raise s3_error(error, f"make bucket {self._need.name}") from error

    def _differences(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield what differs, and what changes it."""
        need, name = self._need, self._need.name
        rules = self._ask("get_bucket_lifecycle_configuration", "Rules", [])
        if rules is not None and not any(_keeps(rule, need) for rule in rules):
            others = [rule for rule in rules if rule.get("ID") != need.rule_id]
            text = f"no lifecycle rule deletes {need.prefix}* after {need.days} days"
            yield (
                text,
                self._put(
                    "put_bucket_lifecycle_configuration",
                    LifecycleConfiguration={"Rules": [*map(_writable, others), need.rule]},
                ),
            )
        if shorter := [rule for rule in rules or () if _deletes_sooner(rule, need)]:
            ids = ", ".join(str(rule.get("ID")) for rule in shorter)
            rest = [rule for rule in rules or () if rule not in shorter and rule.get("ID") != need.rule_id]
            yield (
                f"lifecycle rule {ids} deletes {need.prefix}* before {need.days} days",
                self._put(
                    "put_bucket_lifecycle_configuration",
                    LifecycleConfiguration={"Rules": [*map(_writable, rest), need.rule]},
                ),
            )
        encryption = self._ask("get_bucket_encryption", "ServerSideEncryptionConfiguration", {})
        if encryption is not None and not _is_encrypted(encryption, need):
            yield (
                f"it is not encrypted with {need.key}",
                self._put(
                    "put_bucket_encryption", ServerSideEncryptionConfiguration={"Rules": [need.encryption]}
                ),
            )
        block = self._ask("get_public_access_block", "PublicAccessBlockConfiguration", {})
        if block is not None and block != PUBLIC_ACCESS_BLOCK:
            yield (
                "it does not block all public access",
                self._put("put_public_access_block", PublicAccessBlockConfiguration=PUBLIC_ACCESS_BLOCK),
            )
        if not str(s3_client().meta.endpoint_url).startswith("https://"):
            return
        text = self._ask("get_bucket_policy", "Policy", "")
        if text is not None and not _is_tls_only(text):
            document = json.loads(text or "{}")
            statements = [*document.get("Statement", []), *tls_only_policy(bucket_arn(name))["Statement"]]
            policy = {"Version": "2012-10-17", **document, "Statement": statements}
            yield (
                "its policy does not deny requests without TLS",
                self._put("put_bucket_policy", Policy=json.dumps(policy)),
            )

    def _ask(self, method: str, field: str, unset: Any) -> Any:
        """Return a setting of the bucket: ``unset`` if it has none, None if the server does not tell."""
        try:
            return getattr(s3_client(), method)(Bucket=self._need.name).get(field) or None
        except ClientError as error:
            if error_code(error) in _UNSET:
                return unset
            if error_code(error) in _UNKNOWN:
                return None
            raise s3_error(error, f"{method} of bucket {self._need.name}") from error
        except VENDOR_ERRORS as error:
            raise s3_error(error, f"{method} of bucket {self._need.name}") from error

    def _put(self, method: str, **arguments: Any) -> Callable[[], None]:
        def put() -> None:
            try:
                getattr(s3_client(), method)(Bucket=self._need.name, **arguments)
            except VENDOR_ERRORS as error:
                raise s3_error(error, f"{method} of bucket {self._need.name}") from error

        return put


def bucket_arn(name: str, partition: str = "aws") -> str:
    """Return the ARN of a bucket."""
    return f"arn:{partition}:s3:::{name}"


def tls_only_policy(arn: object, objects: object | None = None) -> dict[str, Any]:
    """Return the policy of a bucket that denies every request without TLS.

    ``arn`` and ``objects`` are ARNs, or a template's references to them.
    """
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": _SID,
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, objects or f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }


def _is_tls_only(policy: str) -> bool:
    statements = json.loads(policy or "{}").get("Statement", [])
    return any(
        each.get("Effect") == "Deny"
        and each.get("Principal") in ("*", {"AWS": "*"})
        and each.get("Action") in ("s3:*", ["s3:*"])
        and each.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        for each in statements
    )


def _is_encrypted(found: Mapping[str, Any], need: BucketNeed) -> bool:
    """Whether objects get the needed key; without one S3 encrypts all by itself, since January 2023."""
    if need.key is None:
        return True
    applied = [rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in found.get("Rules", ())]
    return any(each.get("KMSMasterKeyID") == need.key for each in applied)


def _keeps(rule: Mapping[str, Any], need: BucketNeed) -> bool:
    """Whether a rule deletes the service's objects, and not before their time."""
    days = rule.get("Expiration", {}).get("Days")
    return _is_on(rule, need) and isinstance(days, int) and days >= need.days


def _deletes_sooner(rule: Mapping[str, Any], need: BucketNeed) -> bool:
    days = rule.get("Expiration", {}).get("Days")
    return (
        _is_on(rule, need) and isinstance(days, int) and days < need.days and rule.get("ID") != need.rule_id
    )


def _is_on(rule: Mapping[str, Any], need: BucketNeed) -> bool:
    found = rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))
    return rule.get("Status") == "Enabled" and need.prefix.startswith(found)


def _writable(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule as S3 takes it: some servers give the old form and the new one together."""
    return {name: value for name, value in rule.items() if name != "Prefix" or "Filter" not in rule}
