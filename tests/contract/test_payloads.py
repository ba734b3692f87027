"""The behaviour of S3 that this project relies on, on ministack and on S3Mock."""

import uuid
from collections.abc import Iterator

import pytest

from pipeline.errors import (
    MessageRefusedError,
    PayloadLostError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pipeline.payloads import Payloads, PayloadsOffError
from pipeline.payloads.bucket import PUBLIC_ACCESS_BLOCK, Bucket, BucketNeed, bucket_need
from pipeline.payloads.client import s3_client
from pipeline.services.environment import Services
from pipeline.settings import Settings
from pipeline.wire import references
from pipeline.wire.references import Reference
from tests.conftest import MakeSettings
from tests.payloads import keys, s3mock
from tests.proxies import Proxy

DATA = b'{"text": "' + b"x" * 2_000_000 + b'"}'


@pytest.fixture(scope="module")
def s3mock_url(local_programs: None) -> Iterator[str]:
    """S3Mock, for the tests of this module."""
    with s3mock() as url:
        yield url


@pytest.fixture(scope="module", params=["ministack", "s3mock"])
def url(request: pytest.FixtureRequest, embedded_services: Services) -> str:
    """Each server's URL in turn."""
    if request.param == "ministack":
        return embedded_services.environment["AWS_ENDPOINT_URL_S3"]
    found: str = request.getfixturevalue("s3mock_url")
    return found


@pytest.fixture
def settings(url: str, embedded_services: Services, make_settings: MakeSettings) -> Settings:
    """A service with a bucket that exists."""
    made = make_settings(
        embedded_services, AWS_ENDPOINT_URL_S3=url, PAYLOAD_BUCKET=f"payloads-{uuid.uuid4().hex[:12]}"
    )
    Bucket(_need(made)).provision(update=False)
    return made


def _need(settings: Settings) -> BucketNeed:
    need = bucket_need(settings)
    assert need
    return need


def test_what_is_kept_is_read_again(settings: Settings) -> None:
    """Byte for byte; a repetition is the same object, other data under the same id is another one."""
    payloads = Payloads(settings)
    first = payloads.put("task", "t-1", DATA)
    assert payloads.put("task", "t-1", DATA) == first
    other = payloads.put("task", "t-1", DATA[:-1] + b" }")
    assert payloads.get(first) == DATA
    assert payloads.get(other) == DATA[:-1] + b" }"
    assert keys(settings) == sorted([first.key, other.key])
    assert payloads.wait_for(first, 1) == DATA


def test_an_object_that_is_gone_is_told_with_its_mend(settings: Settings) -> None:
    """No retry brings it back, and the reason says what deleted it."""
    payloads = Payloads(settings)
    reference = payloads.put("event", "e-1", DATA)
    s3_client().delete_object(Bucket=str(settings.payload_bucket), Key=reference.key)
    with pytest.raises(PayloadLostError, match=r"is gone.*lifecycle rule.*submit the data anew"):
        payloads.get(reference)


@pytest.mark.parametrize("damaged", [DATA[:-100], DATA + b" ", DATA.replace(b"x", b"y"), b""])
def test_an_object_with_other_bytes_is_refused(settings: Settings, damaged: bytes) -> None:
    """Truncated, longer, changed or empty: nothing runs on it."""
    payloads = Payloads(settings)
    reference = payloads.put("task", "t-2", DATA)
    s3_client().put_object(Bucket=str(settings.payload_bucket), Key=reference.key, Body=damaged)
    with pytest.raises(PayloadLostError, match=r"is damaged.*2,000,012 bytes"):
        payloads.get(reference)


def test_data_of_others_is_not_read(settings: Settings) -> None:
    """Only events are, of services that share the bucket: a reference in a message may be made up."""
    payloads = Payloads(settings)
    others = Payloads(settings.model_copy(update={"service_name": "others"}))
    for role in ("task", "part", "result"):
        reference = others.put(role, "t-1", DATA)
        with pytest.raises(PayloadLostError, match=f"a {role} of service 'others', and is not read here"):
            payloads.get(reference)
    assert payloads.get(others.put("event", "e-1", DATA)) == DATA


def test_without_a_bucket_the_setting_is_named(settings: Settings) -> None:
    """Before anything is sent, and where a message refers to data."""
    payloads = Payloads(settings.model_copy(update={"payload_bucket": None}))
    with pytest.raises(PayloadsOffError, match=r"2,000,012 bytes.*set PAYLOAD_BUCKET"):
        payloads.put("task", "t-1", DATA)
    reference = Reference.to(DATA, service=settings.service_name, role="task", id="t-1")
    with pytest.raises(PayloadLostError, match="no PAYLOAD_BUCKET"):
        payloads.get(reference)


def test_data_that_no_process_could_hold_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused where it is sent."""
    monkeypatch.setattr("pipeline.payloads.store.LARGEST_BYTES", 1_000)
    with pytest.raises(MessageRefusedError, match="the most that is kept on S3 is 1,000"):
        Payloads(settings).put("task", "t-1", DATA)
    assert references.LARGEST_BYTES == 268_435_456


def test_a_missing_bucket_is_a_refusal_with_its_mend(settings: Settings) -> None:
    """Asking again would not help."""
    away = Payloads(settings.model_copy(update={"payload_bucket": "no-such-bucket-here"}))
    with pytest.raises(ServiceRefusedError, match=r'run "pipeline provision"'):
        away.put("task", "t-1", DATA)
    with pytest.raises(ServiceRefusedError, match="PAYLOAD_BUCKET"):
        away.get(Reference.to(DATA, service=settings.service_name, role="task", id="t-1"))


def test_s3_away_is_waited_for(url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put and a read ask to be repeated; a child waits until it answers, or its time is over."""
    payloads = Payloads(settings)
    reference = payloads.put("task", "t-3", DATA)
    with Proxy(url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        assert payloads.get(reference) == DATA
        proxy.cut()
        with pytest.raises(ServiceUnavailableError):
            payloads.put("task", "t-3", DATA)
        with pytest.raises(ServiceUnavailableError):
            payloads.wait_for(reference, 0.2)
        proxy.restore()
        assert payloads.wait_for(reference, 60) == DATA
        assert payloads.put("task", "t-3", DATA) == reference


def test_the_bucket_is_made_as_it_is_needed(settings: Settings) -> None:
    """With the rule that deletes, and nothing public; a second run changes nothing."""
    need = _need(settings)
    assert need.days == 45 + 28
    client = s3_client()
    rules = client.get_bucket_lifecycle_configuration(Bucket=need.name)["Rules"]
    assert [(each["ID"], each["Expiration"]["Days"]) for each in rules] == [(need.rule_id, need.days)]
    report = Bucket(need).inspect()
    assert (report.outcome, report.differences) == ("present", ())
    assert Bucket(need).provision(update=True).outcome == "present"


def test_services_share_a_bucket(settings: Settings) -> None:
    """Each adds a rule of its own; one that deletes too soon is told, and changed on request."""
    need = _need(settings)
    other = _need(settings.model_copy(update={"service_name": "another"}))
    report = Bucket(other).provision(update=False)
    assert report.differences == (f"no lifecycle rule deletes another/* after {other.days} days",)
    assert Bucket(other).provision(update=True).outcome == "changed"
    client = s3_client()
    rules = client.get_bucket_lifecycle_configuration(Bucket=need.name)["Rules"]
    assert {each["ID"] for each in rules} == {need.rule_id, other.rule_id}
    soon = {"ID": "soon", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(
        Bucket=need.name,
        LifecycleConfiguration={"Rules": [*rules, soon]},  # type: ignore[list-item]
    )
    assert any("rule soon deletes" in text for text in Bucket(need).inspect().differences)


def test_public_access_is_blocked(settings: Settings, url: str, embedded_services: Services) -> None:
    """Where the server knows the setting."""
    if url != embedded_services.environment["AWS_ENDPOINT_URL_S3"]:
        pytest.skip("S3Mock does not know it")
    need, client = _need(settings), s3_client()
    found = client.get_public_access_block(Bucket=need.name)["PublicAccessBlockConfiguration"]
    assert found == PUBLIC_ACCESS_BLOCK
    client.delete_public_access_block(Bucket=need.name)
    assert Bucket(need).inspect().differences == ("it does not block all public access",)


def test_a_key_of_kms_is_the_buckets_default(
    settings: Settings, url: str, embedded_services: Services
) -> None:
    """Also of a bucket that had none."""
    if url != embedded_services.environment["AWS_ENDPOINT_URL_S3"]:
        pytest.skip("S3Mock does not know it")
    arn = "arn:aws:kms:us-east-1:000000000000:key/k-1"
    need = _need(settings.model_copy(update={"kms_key_arn": arn}))
    assert Bucket(need).inspect().differences == (f"it is not encrypted with {arn}",)
    assert Bucket(need).provision(update=True).outcome == "changed"
    rules = s3_client().get_bucket_encryption(Bucket=need.name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"] == arn
    assert Bucket(need).inspect().differences == ()
