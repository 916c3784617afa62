"""The keys with which clients read the market over HTTP, and change it."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import NamedTuple

from serving.config import Config
from specs.errors import Forbidden, Unauthorized

ADMIN_KEY_VARIABLE = "LEARNWARE_ADMIN_KEY"
"""Environment variable of the admin key, used where the configuration has none."""


class Access(NamedTuple):
    """The keys. Without an admin key nobody may change anything; without API keys everybody may read."""

    admin_key: str | None
    api_keys: Sequence[str]

    def check_change(self, authorization: str | None) -> None:
        """Checks that the `Authorization` header holds the admin key.

        Raises:
            Forbidden: no admin key is set.
            Unauthorized: the header does not hold it.
        """
        if self.admin_key is None:
            raise Forbidden(
                "Changes over HTTP are off: no admin key is set (market.admin_key in the configuration, or the "
                f"variable {ADMIN_KEY_VARIABLE})."
            )
        if not _matches(authorization, [self.admin_key]):
            raise Unauthorized("Changes need the admin key: Authorization: Bearer KEY.")

    def check_read(self, authorization: str | None) -> None:
        """Checks that the `Authorization` header holds an API key or the admin key, where there are API keys.

        Raises:
            Unauthorized: it holds none of them.
        """
        keys = [*self.api_keys, *filter(None, [self.admin_key])]
        if self.api_keys and not _matches(authorization, keys):
            raise Unauthorized("An API key is needed: Authorization: Bearer KEY.")


def configured_access(config: Config) -> Access:
    """Returns the keys of the configuration; the admin key comes from the environment where the configuration has
    none."""
    return Access(config.market.admin_key or os.environ.get(ADMIN_KEY_VARIABLE) or None, config.api_keys)


def _matches(authorization: str | None, keys: Sequence[str]) -> bool:
    """Returns whether the header holds one of the keys, in a time that does not depend on which one, if any."""
    scheme, _, given = (authorization or "").partition(" ")
    digest = hashlib.sha256(given.strip().encode()).digest()
    matches = [hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest()) for key in keys]
    return scheme.lower() == "bearer" and any(matches)
