"""The settings of Vault: its address, the secret and the login of this process."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigurationError
from pipeline.loopback import is_loopback

#: Characters that begin another part of a URL, escape one, or end a line.
_NOT_IN_PATH = re.compile(r"[?#%\\\x00-\x1f\x7f]")


class VaultSettings(BaseModel):
    """The address of Vault and the login of this process. Field names are the environment variables."""

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
    #: The Kubernetes role, and the file with the pod's token.
    vault_role: str | None = None
    vault_jwt_path: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

    @field_validator("vault_addr")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if not value.startswith(("https://", "http://")):
            raise ValueError("it has no scheme: https://vault.example.org:8200")
        if value.startswith("http://") and not is_loopback(urlsplit(value).hostname):
            raise ValueError(
                "the token and the secret would cross the network unencrypted: use https:// (http:// is for "
                "this machine only), and VAULT_CACERT for an authority of your own"
            )
        return value

    @field_validator("vault_path", "vault_mount")
    @classmethod
    def _stays_below(cls, value: str) -> str:
        if {"", ".", ".."} & set(value.split("/")) or _NOT_IN_PATH.search(value):
            raise ValueError(
                "no path below a mount: write names with a slash between them, and no . or .. among them"
            )
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


def load_vault_settings(environ: Mapping[str, str]) -> VaultSettings:
    """Read the settings from ``environ``; raise one ConfigurationError that lists every fault."""
    given: dict[str, Any] = {
        name: environ[name.upper()] for name in VaultSettings.model_fields if environ.get(name.upper())
    }
    try:
        return VaultSettings(**given)
    except ValidationError as error:
        wrong = "; ".join(_describe(each) for each in error.errors())
        raise ConfigurationError(
            f"VAULT_PATH is set, but Vault cannot be asked: {wrong}. docs/guides/security.md explains each."
        ) from error


def _describe(error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0]).upper() if error["loc"] else "VAULT_*"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"
