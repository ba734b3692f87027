"""Clients of AWS services: botocore's, with lean calls for the operations that are called all the time."""

import os
import ssl
from collections.abc import Collection
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import boto3
import botocore
import botocore.session
from botocore import xform_name
from botocore.client import BaseClient
from botocore.config import Config
from botocore.httpsession import create_urllib3_context, get_cert_path
from botocore.utils import get_environ_proxies

from pipeline.aws.calls import LeanCall
from pipeline.aws.connections import Connections
from pipeline.aws.signature import Signer

#: The user agent in AWS's logs, with the versions that matter when a call goes wrong.
USER_AGENT = f"pipeline Boto3/{boto3.__version__} Botocore/{botocore.__version__}"


class LeanClient:
    """A botocore client whose frequent operations are lean calls. It makes all others itself."""

    def __init__(self, client: BaseClient, calls: dict[str, LeanCall]) -> None:
        """``calls`` by the name of the client's method."""
        self._client = client
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def make_client(
    service: Literal["sqs", "dynamodb", "s3"],
    frequent: Collection[str],
    *,
    connect_timeout: float,
    read_timeout: float,
    attempts: int,
    connections: int,
    style: Literal["auto", "path"] = "auto",
) -> Any:
    """Return a client with lean calls for the operations ``frequent``. Threads may share it.

    Region, endpoint, profile and credentials come from boto3's own chain. botocore makes all calls where
    there are no credentials, behind a proxy, and where the endpoint has a path. Timeouts are in seconds;
    ``attempts``: tries in all, in botocore's standard mode; ``connections``: how many are kept open.
    ``style``: how requests name a bucket of S3, in the host name or in the path.

    Raises BotoCoreError.
    """
    # A session of its own: making clients on boto3's shared default session is not thread-safe.
    core = botocore.session.get_session()
    session = boto3.session.Session(botocore_session=core)
    client = session.client(
        service,
        config=Config(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=connections,
            tcp_keepalive=True,
            s3={"addressing_style": style},
            # Requests are built from typed fields; checking them costs CPU at each call.
            parameter_validation=False,
            disable_request_compression=True,
            # Given, botocore does not put its own together anew for each request.
            user_agent=USER_AGENT,
        ),
    )
    url, credentials = client.meta.endpoint_url, session.get_credentials()
    proxied = urlsplit(url).scheme in get_environ_proxies(url)
    if not frequent or credentials is None or proxied or urlsplit(url).path.strip("/"):
        return client
    kept = Connections(
        url,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        limit=connections,
        tls=partial(_tls, core.get_config_variable("ca_bundle")),
    )
    signer = Signer(credentials, service=service, region=client.meta.region_name, host=_host(url))
    return LeanClient(client, {xform_name(name): LeanCall(client, name, kept, signer) for name in frequent})


def _tls(authorities: str | None) -> ssl.SSLContext:
    """Return botocore's own TLS settings; ``authorities``: its setting of a file."""
    context: ssl.SSLContext = create_urllib3_context()
    context.load_verify_locations(authorities or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True))
    context.check_hostname = True
    return context


def _host(url: str) -> str:
    """Return the Host header of a URL: without the scheme's own port, as it is signed."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}[parts.scheme]
    netloc = parts.netloc.rpartition("@")[2]
    return netloc.removesuffix(f":{default}")
