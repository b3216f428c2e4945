"""The task id that belongs to an Idempotency-Key: the same at every gateway, and impossible to guess."""

import hashlib
import hmac
import logging
import secrets

from tasks.errors import StoreUnavailable
from tasks.ports import ImageStore

logger = logging.getLogger(__name__)

SECRET_KEY = "system/id_secret"  # noqa: S105 - the name of the object that holds the secret
_SECRET_BYTES = 32
MAX_KEY = 255


class TaskIds:
    """Makes the ids. The secret behind them is made once for all gateways and kept in the store."""

    def __init__(self, store: ImageStore) -> None:
        """Reads the secret at the first Idempotency-Key."""
        self._store = store
        self._secret: bytes | None = None

    async def of(self, user: str, key: str) -> str:
        """The id of this user's request with this key: an HMAC of both. Raises StoreUnavailable while the secret cannot
        be read, or while something else lies in its place."""
        if self._secret is None:
            self._secret = await self._read_secret()
        message = f"{len(user)}:{user}{key}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]

    async def _read_secret(self) -> bytes:
        secret = await self._store.put_once(SECRET_KEY, secrets.token_bytes(_SECRET_BYTES))
        if len(secret) != _SECRET_BYTES:
            # With a secret that somebody else chose, they could compute the id of every task.
            logger.error("%s in the store has %d bytes instead of %d", SECRET_KEY, len(secret), _SECRET_BYTES)
            raise StoreUnavailable("The secret behind Idempotency-Keys cannot be used.", retry_after=60)
        return secret
