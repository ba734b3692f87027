"""Secrets of HashiCorp Vault (KV version 2) fill the environment before the settings are read.

A secret's keys are variable names, its values their values. What stands in the environment already stays:
whoever sets a variable for one process means that process. Names are logged, values never.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigurationError, PipelineError, ServiceUnavailableError

log = structlog.get_logger(__name__)

#: Seconds one request may take.
TIMEOUT = 5.0

#: Tries at start, and seconds before the second; a Vault that changes its leader is away so long.
TRIES, WAIT = 3, 0.5

#: The part of a token's time after which it is renewed, and the shortest and longest wait for it in seconds.
RENEW_AT, SHORTEST, LONGEST = 2 / 3, 1.0, 3600.0

#: Seconds between two tries to renew, while Vault is away.
RETRY = 5.0

#: hvac's names for answers that pass by themselves: sealed, no leader, too busy.
_PASSING = frozenset(
    {"InternalServerError", "VaultNotInitialized", "BadGateway", "VaultDown", "RateLimitExceeded"}
)

Answer = TypeVar("Answer")

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


class VaultSettings(BaseModel):
    """Where Vault is and how this process logs in. Field names are the environment variables."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    #: The secret, below its mount.
    vault_path: str
    vault_addr: str
    vault_mount: str = "secret"
    vault_namespace: str | None = None
    vault_cacert: str | None = None
    vault_auth: Literal["token", "approle", "kubernetes"] = "token"
    vault_token: SecretStr | None = None
    vault_role_id: str | None = None
    vault_secret_id: SecretStr | None = None
    #: The Kubernetes role, and the file with the pod's own token.
    vault_role: str | None = None
    vault_jwt_path: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

    @field_validator("vault_addr")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if not value.startswith(("https://", "http://")):
            raise ValueError("it has no scheme: https://vault.example.org:8200")
        return value

    @model_validator(mode="after")
    def _can_log_in(self) -> Self:
        needed = {
            "token": ("vault_token",),
            "approle": ("vault_role_id", "vault_secret_id"),
            "kubernetes": ("vault_role",),
        }[self.vault_auth]
        if missing := [name.upper() for name in needed if not getattr(self, name)]:
            raise ValueError(f"VAULT_AUTH={self.vault_auth} needs {' and '.join(missing)}")
        return self


def environment() -> Mapping[str, str]:
    """The environment of this process, filled from Vault where VAULT_PATH names a secret; once for each.

    Raises ConfigurationError for what is refused, ServiceUnavailableError when Vault does not answer.
    """
    path = os.environ.get("VAULT_PATH")
    with _lock:
        if path and path not in _filled:
            _filled[path] = fill(os.environ)
    return os.environ


_lock = threading.Lock()
_filled: "dict[str, Vault]" = {}


def fill(environ: MutableMapping[str, str]) -> "Vault":
    """Read the secret that ``environ`` names into it, and keep the token alive from then on."""
    settings = _settings(environ)
    vault = Vault(settings)
    secret = vault.read()
    new = {name: value for name, value in secret.items() if not environ.get(name)}
    environ.update(new)
    log.info(
        "vault.read",
        path=vault.path,
        version=vault.version,
        set=sorted(new),
        kept=sorted(secret.keys() - new),
    )
    vault.keep()
    return vault


@dataclass(frozen=True, kw_only=True)
class _Lease:
    """How long a token lives."""

    #: 0: for ever.
    seconds: float
    renewable: bool


class Vault:
    """One login to Vault and the one secret it is for."""

    def __init__(self, settings: VaultSettings) -> None:
        self._settings = settings
        self.path = f"{settings.vault_mount}/{settings.vault_path}"
        #: The version of the secret that was read last.
        self.version: int | None = None
        self._client = _make_client(settings)
        self._lease = _Lease(seconds=0, renewable=False)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def read(self) -> dict[str, str]:
        """Log in and read the secret; a Vault that is away is asked again a few times."""
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
        """Renew the token on a thread of its own, which ends with the process; one without end needs none."""
        if self._lease.seconds and self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="vault", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Renew no more."""
        self._ended.set()
        if self._thread:
            self._thread.join()

    def _keep(self) -> None:
        wait = _before_the_end(self._lease)
        while not self._ended.wait(wait):
            wait = self._renew()

    def _renew(self) -> float:
        """Renew, or log in anew; the seconds until the next time."""
        try:
            lease = self._ask("renew the token", self._renewed) if self._lease.renewable else None
        except ConfigurationError:
            lease = None
        except ServiceUnavailableError as error:
            log.warning("vault.away", error=str(error))
            return RETRY
        # Near the longest life that its role allows, a token is renewed for less and less.
        if lease and lease.seconds > self._lease.seconds / 2:
            self._look_for_news()
            return _before_the_end(lease)
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
        self._look_for_news()
        return _before_the_end(self._lease)

    def _look_for_news(self) -> None:
        """Settings are read once: a secret that was changed since takes a restart, and somebody to know."""
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
            self._client.token = _shown(settings.vault_token)
            found = self._client.auth.token.lookup_self()["data"]
            return _Lease(seconds=found["ttl"], renewable=found["renewable"])
        if settings.vault_auth == "approle":
            answer = self._client.auth.approle.login(settings.vault_role_id, _shown(settings.vault_secret_id))
        else:
            answer = self._client.auth.kubernetes.login(settings.vault_role, _jwt(settings.vault_jwt_path))
        return _lease(answer)

    def _renewed(self) -> _Lease:
        return _lease(self._client.auth.token.renew_self())

    def _secret(self) -> dict[str, str]:
        answer = self._ask(f"read {self.path}", self._read_version)["data"]
        self.version = answer["metadata"]["version"]
        return {name: self._text(name, value) for name, value in answer["data"].items()}

    def _read_version(self) -> Any:
        return self._client.secrets.kv.v2.read_secret_version(
            path=self._settings.vault_path,
            mount_point=self._settings.vault_mount,
            raise_on_deleted_version=True,
        )

    def _text(self, name: str, value: object) -> str:
        if not _VARIABLE.fullmatch(name):
            raise ConfigurationError(
                f"Key {name!r} of Vault's {self.path} is no variable's name: capitals, digits and _ only."
            )
        if isinstance(value, bool):
            return str(value).lower()
        if not isinstance(value, str | int | float):
            raise ConfigurationError(f"Key {name} of Vault's {self.path} is no text: write it as text.")
        return str(value)

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
            # What requests raises: refused, timed out, no such host, a certificate of another authority.
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigurationError(f"{where}: {error} (correct VAULT_CACERT)") from error
            # urllib3's own reason, without the layers around it.
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
            "token": "give a VAULT_TOKEN that lives",
            "approle": "correct VAULT_ROLE_ID and VAULT_SECRET_ID",
            "kubernetes": "bind VAULT_ROLE to this pod's service account",
        }[self._settings.vault_auth]


def _settings(environ: Mapping[str, str]) -> VaultSettings:
    given: dict[str, Any] = {
        name: environ[name.upper()] for name in VaultSettings.model_fields if environ.get(name.upper())
    }
    try:
        return VaultSettings(**given)
    except ValidationError as error:
        wrong = "; ".join(_wrong(each) for each in error.errors())
        raise ConfigurationError(
            f"VAULT_PATH is set, but Vault cannot be asked: {wrong}. docs/security.md explains each."
        ) from error


def _wrong(error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0]).upper() if error["loc"] else "VAULT_*"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"


def _make_client(settings: VaultSettings) -> Any:
    try:
        import hvac
    except ImportError as error:
        raise ConfigurationError("VAULT_PATH is set: pip install 'pipeline[vault]'.") from error
    return hvac.Client(
        url=settings.vault_addr,
        # None would be taken from VAULT_TOKEN or the home folder.
        token="",
        verify=settings.vault_cacert or True,
        namespace=settings.vault_namespace,
        timeout=TIMEOUT,
    )


def _lease(answer: Mapping[str, Any]) -> _Lease:
    auth = answer["auth"]
    return _Lease(seconds=auth["lease_duration"], renewable=auth["renewable"])


def _before_the_end(lease: _Lease) -> float:
    return min(max(lease.seconds * RENEW_AT, SHORTEST), LONGEST)


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _jwt(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"VAULT_AUTH=kubernetes: no pod's token at VAULT_JWT_PATH={path} ({error.strerror})."
        ) from error
