"""The API key of a request, and the caller it stands for."""

from urllib.parse import unquote

from fastapi import Request

from functions.api.api_keys import PREFIX, ApiKeyFile
from functions.api.caller import Caller
from tasks.errors import KeyInUrl, Unauthorized


class Authenticator:
    """Finds the caller of a request by its API key."""

    def __init__(self, keys: ApiKeyFile) -> None:
        """The keys in force."""
        self._keys = keys

    def caller(self, request: Request) -> Caller:
        """The caller of the request. Raises KeyInUrl, Unauthorized."""
        # Not request.url: it is built from the Host header, into which a client may write anything.
        if PREFIX in request.scope["path"] or PREFIX in unquote(request.scope["query_string"].decode("latin-1")):
            raise KeyInUrl
        presented = _presented_keys(request)
        if len(presented) > 1:
            raise Unauthorized("The request has two different keys.")
        for text in presented:
            if key := self._keys.find(text):
                return Caller(key.user, key.lanes, key.models)
            raise Unauthorized("The key is unknown, or was withdrawn.")
        raise Unauthorized


def _presented_keys(request: Request) -> set[str]:
    keys = {value.strip() for value in request.headers.getlist("x-api-key")}
    for value in request.headers.getlist("authorization"):
        scheme, _, credentials = value.strip().partition(" ")
        # Credentials of another scheme may be meant for a proxy in between.
        if scheme.lower() == "bearer":
            keys.add(credentials.strip())
    return keys
