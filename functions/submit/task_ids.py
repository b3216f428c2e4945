"""Task ids: 128 bits nobody can guess, and the same ones for the same Idempotency-Key at every gateway."""

import hashlib
import hmac
import secrets
import uuid

from tasks.ports import ImageStore

SECRET_KEY = "system/id_secret"  # noqa: S105 - where it lies, not what it is
MAX_KEY = 255


class TaskIds:
    """Makes ids; the secret behind the repeatable ones is made once for all gateways and kept in the store."""

    def __init__(self, store: ImageStore) -> None:
        """Asks the store at the first Idempotency-Key."""
        self._store = store
        self._secret: bytes | None = None

    def new(self) -> str:
        """An id for a request that is nobody's repetition."""
        return uuid.uuid4().hex

    async def of(self, user: str, key: str) -> str:
        """The id of this user's request of this key. Raises StoreUnavailable while the secret cannot be read."""
        if self._secret is None:
            self._secret = await self._store.put_once(SECRET_KEY, secrets.token_bytes(32))
        message = f"{len(user)}:{user}{key}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]
