"""A login to HashiCorp Vault (KV version 2): reads the secret and keeps the token alive."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import SecretStr

from pipeline.errors import ConfigurationError, PipelineError, ServiceUnavailableError
from pipeline.vault.settings import VaultSettings

log = structlog.get_logger(__name__)

#: Seconds one request may take.
TIMEOUT = 5.0

#: Tries at start, and seconds before the second: enough for Vault to change its leader.
TRIES, WAIT = 3, 0.5

#: The share of a token's life after which it is renewed, and the shortest and longest wait in seconds.
RENEW_AT, SHORTEST, LONGEST = 2 / 3, 1.0, 3600.0

#: Seconds between two tries to renew while Vault is away.
RETRY = 5.0

#: hvac's names for errors that pass by themselves: sealed, no leader, too busy.
_PASSING = frozenset(
    {"InternalServerError", "VaultNotInitialized", "BadGateway", "VaultDown", "RateLimitExceeded"}
)

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class _Lease:
    """The life of a token."""

    #: 0: no expiry.
    seconds: float
    renewable: bool


class Vault:
    """One login to Vault, and the secret that it reads."""

    def __init__(self, settings: VaultSettings) -> None:
        self._settings = settings
        self.path = f"{settings.vault_mount}/{settings.vault_path}"
        #: The version of the secret that was read last.
        self.version: int | None = None
        self._client = _make_client(settings)
        self._lease = _Lease(seconds=0, renewable=False)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def read(self) -> dict[str, object]:
        """Log in and read the secret; try again a few times while Vault is away."""
        for attempt in range(1, TRIES + 1):
            try:
                self._lease = self._ask("log in", self._log_in)
                return self._secret()
            except ServiceUnavailableError:
                if attempt == TRIES:
                    raise
                time.sleep(WAIT * attempt)
        raise AssertionError  # the last try returns or raises

    def keep(self) -> None:
        """Renew the token on a daemon thread; a token without expiry needs none."""
        if self._lease.seconds and self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="vault", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop renewing the token."""
        self._ended.set()
        if self._thread:
            self._thread.join()

    def _keep(self) -> None:
        wait = _renewal_delay(self._lease)
        while not self._ended.wait(wait):
            wait = self._renew()

    def _renew(self) -> float:
        """Renew the token or log in again; return the seconds until the next time."""
        try:
            lease = self._ask("renew the token", self._renew_token) if self._lease.renewable else None
        except ConfigurationError:
            lease = None
        except ServiceUnavailableError as error:
            log.warning("vault.away", error=str(error))
            return RETRY
        # Near the longest life that its role allows, each renewal of a token is shorter.
        if lease and lease.seconds > self._lease.seconds / 2:
            self._check_version()
            return _renewal_delay(lease)
        return self._start_over()

    def _start_over(self) -> float:
        if self._settings.vault_auth == "token":
            log.error(
                "vault.token_ends", path=self.path, mend="restart with a new VAULT_TOKEN before it does"
            )
            return LONGEST
        try:
            self._lease = self._ask("log in", self._log_in)
        except PipelineError as error:
            log.warning("vault.login_failed", error=str(error))
            return RETRY
        self._check_version()
        return _renewal_delay(self._lease)

    def _check_version(self) -> None:
        """Log if the secret was changed: settings are read once, so the change takes a restart."""
        known = self.version
        try:
            self._secret()
        except PipelineError as error:
            log.warning("vault.secret_unreadable", error=str(error))
            return
        if self.version != known:
            log.warning(
                "vault.secret_changed", path=self.path, version=self.version, mend="restart to use it"
            )

    def _log_in(self) -> _Lease:
        settings = self._settings
        if settings.vault_auth == "token":
            self._client.token = _reveal(settings.vault_token)
            found = self._client.auth.token.lookup_self()["data"]
            return _Lease(seconds=found["ttl"], renewable=found["renewable"])
        if settings.vault_auth == "approle":
            answer = self._client.auth.approle.login(
                settings.vault_role_id, _reveal(settings.vault_secret_id)
            )
        else:
            answer = self._client.auth.kubernetes.login(settings.vault_role, _jwt(settings.vault_jwt_path))
        return _lease(answer)

    def _renew_token(self) -> _Lease:
        return _lease(self._client.auth.token.renew_self())

    def _secret(self) -> dict[str, object]:
        answer = self._ask(f"read {self.path}", self._read_version)["data"]
        self.version = answer["metadata"]["version"]
        return dict(answer["data"])

    def _read_version(self) -> Any:
        return self._client.secrets.kv.v2.read_secret_version(
            path=self._settings.vault_path,
            mount_point=self._settings.vault_mount,
            raise_on_deleted_version=True,
        )

    def _ask(self, action: str, call: Callable[[], Answer]) -> Answer:
        from hvac.exceptions import VaultError

        where = f"Could not {action} at Vault {self._settings.vault_addr}"
        try:
            return call()
        except VaultError as error:
            reason = str(error.args[0])
            if type(error).__name__ in _PASSING:
                raise ServiceUnavailableError(f"{where}: {reason or type(error).__name__}") from error
            mend = self._mend(type(error).__name__, action)
            raise ConfigurationError(f"{where}: {reason or type(error).__name__} ({mend})") from error
        except OSError as error:
            # Errors of requests: refused, timed out, no such host, a certificate of another authority.
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigurationError(f"{where}: {error} (correct VAULT_CACERT)") from error
            # urllib3's reason, without the errors around it.
            cause = getattr(error.args[0], "reason", error) if error.args else error
            raise ServiceUnavailableError(f"{where}: {cause}") from error

    def _mend(self, error: str, action: str) -> str:
        if action.startswith("read"):
            return (
                f"write the secret with: vault kv put -mount={self._settings.vault_mount} "
                f"{self._settings.vault_path} NAME=value; or correct VAULT_MOUNT and VAULT_PATH"
                if error == "InvalidPath"
                else f'allow "read" of {self._settings.vault_mount}/data/{self._settings.vault_path}'
            )
        return {
            "token": "set a VAULT_TOKEN that has not expired",
            "approle": "correct VAULT_ROLE_ID and VAULT_SECRET_ID",
            "kubernetes": "bind VAULT_ROLE to this pod's service account",
        }[self._settings.vault_auth]


def _make_client(settings: VaultSettings) -> Any:
    try:
        import hvac
        import requests
    except ImportError as error:
        raise ConfigurationError("VAULT_PATH is set: pip install 'celery-stages[vault]'.") from error
    session = requests.Session()
    # hvac leaves a session's own value, and requests prefers REQUESTS_CA_BUNDLE to the default.
    session.verify = settings.vault_cacert or True
    session.hooks["response"].append(_refuse_redirect)
    return hvac.Client(
        url=settings.vault_addr,
        # None would make hvac read VAULT_TOKEN or the home folder.
        token="",
        namespace=settings.vault_namespace,
        timeout=TIMEOUT,
        session=session,
        allow_redirects=False,
    )


def _refuse_redirect(response: Any, **_: Any) -> None:
    """Refuse to follow: the request, with its token, would go to any host that the answer names."""
    if response.is_redirect:
        response.close()
        raise ConfigurationError(
            f"Vault {response.url} redirects to {response.headers['Location']}, which is not followed: the "
            "token would go there, too. Set VAULT_ADDR to the address that answers itself."
        )


def _lease(answer: Mapping[str, Any]) -> _Lease:
    auth = answer["auth"]
    return _Lease(seconds=auth["lease_duration"], renewable=auth["renewable"])


def _renewal_delay(lease: _Lease) -> float:
    return min(max(lease.seconds * RENEW_AT, SHORTEST), LONGEST)


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _jwt(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"VAULT_AUTH=kubernetes: no pod token at VAULT_JWT_PATH={path} ({error.strerror})."
        ) from error
