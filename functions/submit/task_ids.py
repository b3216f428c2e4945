"""The task id that belongs to an Idempotency-Key: the same at every gateway, and impossible to guess."""

import hashlib
import hmac
import secrets

from tasks.ports import ImageStore

SECRET_KEY = "system/id_secret"  # noqa: S105 - the name of the object that holds the secret
MAX_KEY = 255


class TaskIds:
    """Makes the ids. The secret behind them is made once for all gateways and kept in the store."""

    def __init__(self, store: ImageStore) -> None:
        """Reads the secret at the first Idempotency-Key."""
        self._store = store
        self._secret: bytes | None = None

    async def of(self, user: str, key: str) -> str:
        """The id of this user's request with this key: an HMAC of both. Raises StoreUnavailable while the secret cannot
        be read."""
        if self._secret is None:
            self._secret = await self._store.put_once(SECRET_KEY, secrets.token_bytes(32))
        message = f"{len(user)}:{user}{key}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]
