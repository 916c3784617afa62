"""The API keys that hold now, and the tenant that each belongs to.

Keys come from the key file, which is followed while the process runs, from the configuration (`api_keys`), from the
environment variable LEARNWARE_API_KEYS, and there is the admin key. Each is known by its SHA-256 digest: what a client
sends is digested and looked up, so the time that this takes tells nothing about a key.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from serving.access.key_file import LIMITS, checked_name, read_keys
from serving.access.tenant import ADMIN_NAME, ANONYMOUS, Tenant
from specs.errors import Forbidden, InvalidConfig, Unauthorized

logger = logging.getLogger("ray.serve")

API_KEYS_VARIABLE = "LEARNWARE_API_KEYS"
"""Environment variable with further API keys: NAME:KEY, separated by commas."""
ADMIN_KEY_VARIABLE = "LEARNWARE_ADMIN_KEY"
"""Environment variable of the admin key, used where the configuration has none."""
LOOK_EVERY_S = 1.0
"""Seconds between two looks at the key file."""
ADMIN = Tenant(ADMIN_NAME, metrics=True, admin=True)
"""The tenant of the admin key: without limits."""
KEY_IS_NEEDED = "A valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY."
"""The message of a refusal. It does not say whether a key was missing or wrong."""


class KeysOfConfiguration(Protocol):
    """The parts of `serving.config.Config` that say which keys hold."""

    @property
    def api_keys(self) -> Sequence[str]: ...
    @property
    def keys(self) -> "KeyFileSettings": ...
    @property
    def limits(self) -> Any: ...
    @property
    def market(self) -> Any: ...


class KeyFileSettings(Protocol):
    """The section `keys` of the configuration."""

    @property
    def path(self) -> Path | None: ...


class Keyring:
    """Finds the tenant of a request by its key. It can be pickled; the file is read where it is used."""

    def __init__(
        self,
        path: Path | None = None,
        static: Sequence[tuple[str, Tenant]] = (),
        admin_key: str | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes a keyring.

        Args:
            path: the key file; None: there is none.
            static: pairs of a key's digest in hexadecimal and its tenant, which hold as long as the process runs.
            admin_key: the admin key itself, or None.
            defaults: fields of `Tenant` for what an entry of the file leaves out.
            clock: monotonic time in seconds.
        """
        self._path = path
        self._static = tuple(static)
        self._admin = None if admin_key is None else digest_of(admin_key)
        self._defaults = dict(defaults or {})
        self._clock = clock
        self._next_look = float("-inf")
        self._seen: tuple[int, ...] | str | None = None
        self._entries: tuple[tuple[str, Tenant], ...] = ()
        self._tenants = self._table()

    @property
    def required(self) -> bool:
        """Whether requests need a key: there is one, or a file for keys. A file that is empty, missing or broken opens
        nothing."""
        return self._path is not None or bool(self._static)

    @property
    def has_admin_key(self) -> bool:
        """Whether there is a key for changes."""
        return self._admin is not None

    def tenant(self, authorization: str | None = None, api_key: str | None = None) -> Tenant:
        """Returns the tenant of a request with these values of the headers `Authorization` and `x-api-key`. Of two keys
        the bearer token counts, unless only the other is known. Without any key that holds, it is `ANONYMOUS` where no
        key is required.

        Raises:
            Unauthorized: a key is required, and neither header has one that holds.
        """
        self._follow()
        for given in (_bearer(authorization), None if api_key is None else api_key.strip(" \t")):
            if given:
                found = self._tenants.get(_digest_of_sent(given))
                if found is not None:
                    return found
        if self.required:
            raise Unauthorized(KEY_IS_NEEDED)
        return ANONYMOUS

    def tenant_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Tenant:
        """Returns the tenant of a request with these headers, as ASGI has them: names in lower case.

        Raises:
            Unauthorized: as `tenant` does; also where one of the two headers is there more than once, since programs on
                the way might take different ones for the key.
        """
        given: dict[bytes, str] = {}
        for name, value in headers:
            if name in (b"authorization", b"x-api-key"):
                if name in given and self.required:
                    raise Unauthorized(f"The header {name.decode()} must be there once.")
                given[name] = value.decode("latin-1")
        return self.tenant(given.get(b"authorization"), given.get(b"x-api-key"))

    def _follow(self) -> None:
        """Reads the file again if it has changed since the last look. One that cannot be used changes nothing, and is
        told once."""
        now = self._clock()
        if self._path is None or now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_S
        try:
            found = self._path.stat()
            # the time of change of the inode also tells of a mode that lets this process read at last
            signature: tuple[int, ...] | str = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
        except OSError as error:
            signature = os.strerror(error.errno or 0)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            entries = read_keys(self._path)
        except InvalidConfig as error:
            logger.error("%s; the keys that held before hold on", error)
            return
        self._entries = tuple((entry.sha256, entry.tenant(self._defaults)) for entry in entries)
        self._tenants = self._table()

    def _table(self) -> dict[str, Tenant]:
        """Returns the tenant of each digest. Keys of one name are one tenant, with the limits of the last one."""
        keys = [*self._static, *self._entries]
        last = {tenant.name: tenant for _, tenant in keys}
        table = {digest: last[tenant.name] for digest, tenant in keys}
        return table if self._admin is None else table | {self._admin: ADMIN}


def check_metrics(tenant: Tenant) -> None:
    """Checks that a tenant may read metrics.

    Raises:
        Forbidden: its key does not allow it.
    """
    if not tenant.metrics:
        raise Forbidden(
            "This key may not read the metrics; the admin key may, and one made with `learnware-serving keys add NAME "
            "--metrics`."
        )


def digest_of(key: str) -> str:
    """Returns a key's SHA-256 digest in hexadecimal, for the bytes that clients send: UTF-8."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _digest_of_sent(key: str) -> str:
    """Returns the digest of a key from a header, which ASGI servers decode as Latin-1: that of the bytes sent."""
    try:
        return hashlib.sha256(key.encode("latin-1")).hexdigest()
    except UnicodeEncodeError:  # a caller that did not read it from a header
        return digest_of(key)


def admin_key_of(config: KeysOfConfiguration) -> str | None:
    """Returns the admin key: that of the configuration, else that of the environment; None without either."""
    return config.market.admin_key or os.environ.get(ADMIN_KEY_VARIABLE) or None


def configured_keyring(config: KeysOfConfiguration) -> Keyring:
    """Returns the keyring of a configuration and of this process's environment.

    Raises:
        InvalidConfig: a key of the configuration or the environment cannot be used, or the key file is there and
            cannot.
    """
    if config.keys.path is not None and config.keys.path.exists():
        read_keys(config.keys.path)
    defaults = default_limits(config)
    return Keyring(config.keys.path, _static_tenants(config, defaults), admin_key_of(config), defaults=defaults)


def keys_required(config: KeysOfConfiguration) -> bool:
    """Returns whether requests to a stack of this configuration and environment need a key.

    Raises:
        InvalidConfig: as `configured_keyring`.
    """
    return configured_keyring(config).required


def static_keys(config: KeysOfConfiguration) -> tuple[dict[str, Any], ...]:
    """Returns the keys of configuration and environment for the edge, as entries of a key file. The admin key's has
    `"opens": false`: it does not by itself make others need a key.

    Raises:
        InvalidConfig: as `configured_keyring`.
    """
    own: list[dict[str, Any]] = [
        {"name": tenant.name, "sha256": digest} for digest, tenant in _static_tenants(config, {})
    ]
    admin = admin_key_of(config)
    if admin is None:
        return tuple(own)
    unlimited = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent_requests", "max_tokens"))
    return (*own, {"name": ADMIN_NAME, "sha256": digest_of(admin), "opens": False, **unlimited})


def default_limits(config: KeysOfConfiguration) -> dict[str, Any]:
    """Returns the fields of `Tenant` that the configuration sets for keys which say nothing else."""
    return {name: getattr(config.limits, name) for name in LIMITS if hasattr(config.limits, name)}


class NamedKey(NamedTuple):
    """A key in plain text and its tenant's name."""

    name: str
    key: str


def named_keys(items: Iterable[str], source: str) -> list[NamedKey]:
    """Reads keys written as NAME:KEY, or as KEY alone, whose name is then made from its digest.

    Raises:
        InvalidConfig: a name or a key cannot be used. The message names `source` and the place, and no part of a key.
    """
    found = []
    for number, item in enumerate(items, 1):
        before, colon, after = item.strip().partition(":")
        name, key = (before, after) if colon else (f"key-{digest_of(before)[:8]}", before)
        where = f"key {number} of {source}"
        if not key:
            raise InvalidConfig(f"{where} is empty: write NAME:KEY, or the key alone")
        if not key.isprintable() or any(character.isspace() for character in key):
            raise InvalidConfig(f"{where} holds blanks or control characters, which no header can carry")
        try:
            checked_name(name)
        except ValueError as error:
            raise InvalidConfig(f"{where}: what stands before its colon is its name, and {error}") from None
        found.append(NamedKey(name, key))
    return found


def _static_tenants(config: KeysOfConfiguration, defaults: Mapping[str, Any]) -> list[tuple[str, Tenant]]:
    of_environment = [item for item in os.environ.get(API_KEYS_VARIABLE, "").split(",") if item.strip()]
    keys = named_keys(config.api_keys, "api_keys") + named_keys(of_environment, API_KEYS_VARIABLE)
    return [(digest_of(key), Tenant(name)._replace(**defaults)) for name, key in keys]


def _bearer(authorization: str | None) -> str | None:
    """Returns the token of an `Authorization` header of the scheme Bearer, None for another one."""
    if authorization is None:
        return None
    scheme, _, token = authorization.strip(" \t").partition(" ")
    return token.strip(" \t") if scheme.lower() == "bearer" else None
