"""Who may read the market over HTTP, and who may change it."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import NamedTuple

from serving.config import Config
from specs.errors import Forbidden, Unauthorized

ADMIN_KEY_VARIABLE = "LEARNWARE_ADMIN_KEY"


class Access(NamedTuple):
    """The keys. Without an admin key nobody changes anything; without API keys everybody reads."""

    admin_key: str | None
    api_keys: Sequence[str]

    def check_change(self, authorization: str | None) -> None:
        """Raises Forbidden without an admin key, Unauthorized when the header does not hold it."""
        if self.admin_key is None:
            raise Forbidden(
                "Changes over HTTP are off: no admin key is set (market.admin_key in the configuration, or the "
                f"variable {ADMIN_KEY_VARIABLE})."
            )
        if not _matches(authorization, [self.admin_key]):
            raise Unauthorized("Changes need the admin key: Authorization: Bearer KEY.")

    def check_read(self, authorization: str | None) -> None:
        """Raises Unauthorized when there are API keys and the header holds neither one of them nor the admin key."""
        keys = [*self.api_keys, *filter(None, [self.admin_key])]
        if self.api_keys and not _matches(authorization, keys):
            raise Unauthorized("An API key is needed: Authorization: Bearer KEY.")


def configured_access(config: Config) -> Access:
    """As the configuration and the environment say."""
    return Access(config.market.admin_key or os.environ.get(ADMIN_KEY_VARIABLE) or None, config.api_keys)


def _matches(authorization: str | None, keys: Sequence[str]) -> bool:
    """Whether the header holds one of the keys; takes as long whichever it is, or none."""
    scheme, _, given = (authorization or "").partition(" ")
    digest = hashlib.sha256(given.strip().encode()).digest()
    matches = [hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest()) for key in keys]
    return scheme.lower() == "bearer" and any(matches)
