"""The variables of a process, filled from the secret before the settings are read.

The keys of a secret are names of this project's variables; others are not taken. A variable that is already
set stays, so that one process can be given a value of its own. Names are logged, values never.
"""

import os
import re
import threading
from collections.abc import Mapping, MutableMapping

import structlog

from pipeline.errors import ConfigurationError
from pipeline.settings import TOPIC_VARIABLE, Settings
from pipeline.vault.client import Vault
from pipeline.vault.settings import load_vault_settings

log = structlog.get_logger(__name__)

#: OpenTelemetry's variable that may hold a key: taken from a secret as the settings are. Any other variable
#: (LD_PRELOAD, PYTHONPATH, HTTPS_PROXY, AWS_ENDPOINT_URL, …) would let whoever writes the secret run code in
#: this process, or read what it sends.
_COLLECTOR_KEY = "OTEL_EXPORTER_OTLP_HEADERS"

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def environment() -> Mapping[str, str]:
    """Return the environment of this process, filled from Vault if VAULT_PATH names a secret; once for each.

    Raises ConfigurationError if Vault refuses, ServiceUnavailableError if it does not answer.
    """
    path = os.environ.get("VAULT_PATH")
    with _lock:
        if path and path not in _filled:
            _filled[path] = fill(os.environ)
    return os.environ


_lock = threading.Lock()
_filled: dict[str, Vault] = {}


def fill(environ: MutableMapping[str, str]) -> Vault:
    """Read the secret that ``environ`` names into it, and keep the token alive from then on."""
    vault = Vault(load_vault_settings(environ))
    found = vault.read()
    secret = {name: _text(name, value, vault.path) for name, value in found.items() if _is_taken(name)}
    new = {name: value for name, value in secret.items() if not environ.get(name)}
    environ.update(new)
    log.info(
        "vault.read",
        path=vault.path,
        version=vault.version,
        set=sorted(new),
        kept=sorted(secret.keys() - new),
    )
    if ignored := sorted(found.keys() - secret):
        log.warning(
            "vault.ignored",
            path=vault.path,
            names=ignored,
            mend="only variables of docs/reference/settings.md are taken from a secret: take these out of it",
        )
    vault.keep()
    return vault


def _is_taken(name: str) -> bool:
    is_ours = name.lower() in Settings.model_fields or name.startswith(TOPIC_VARIABLE)
    return bool(_VARIABLE.fullmatch(name)) and (is_ours or name == _COLLECTOR_KEY)


def _text(name: str, value: object, path: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise ConfigurationError(f"Key {name} of Vault's {path} is not text: write it as text.")
    return str(value)
