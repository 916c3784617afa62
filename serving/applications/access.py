"""Access to the small applications beside the endpoint: any key reads, the admin key changes."""

from typing import NamedTuple

from starlette.requests import Request

from serving.access.keyring import ADMIN_KEY_VARIABLE, Keyring, check_metrics, configured_keyring
from serving.access.tenant import Tenant
from serving.config import Config
from specs.errors import Forbidden, Unauthorized


class Access(NamedTuple):
    """The rules, over a keyring. Without an admin key nobody may change anything; where no key is required, everybody
    may read."""

    keyring: Keyring

    def check_change(self, request: Request) -> Tenant:
        """Checks that a request has the admin key, and returns its tenant.

        Raises:
            Forbidden: no admin key is set.
            Unauthorized: the request does not have it.
        """
        if not self.keyring.has_admin_key:
            raise Forbidden(
                "Changes over HTTP are off: no admin key is set (market.admin_key in the configuration, or the "
                f"variable {ADMIN_KEY_VARIABLE})."
            )
        try:
            tenant = self.check_read(request)
        except Unauthorized:
            tenant = None
        if tenant is None or not tenant.admin:
            raise Unauthorized("Changes need the admin key: Authorization: Bearer KEY, or x-api-key: KEY.")
        return tenant

    def check_read(self, request: Request) -> Tenant:
        """Checks that a request has a key that holds, where one is required, and returns its tenant.

        Raises:
            Unauthorized: it has none.
        """
        return self.keyring.tenant_of(request.scope["headers"])

    def check_metrics(self, request: Request) -> Tenant:
        """Checks that a request may read the metrics: with the admin key, or a key that says so, where keys are
        required.

        Raises:
            Unauthorized: it has no key that holds.
            Forbidden: its key does not allow it.
        """
        tenant = self.check_read(request)
        check_metrics(tenant)
        return tenant


def configured_access(config: Config) -> Access:
    """Returns the rules over the keys of a configuration and of this process's environment.

    Raises:
        InvalidConfig: a key cannot be used.
    """
    return Access(configured_keyring(config))
