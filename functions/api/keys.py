"""`python -m functions.api.keys new USER` makes an API key."""

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from functions.api.api_keys import BadKeys, new_key


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the line for the file on standard output, and the key itself, only this once, on standard error."""
    parser = argparse.ArgumentParser(prog="python -m functions.api.keys", description="Make an API key.")
    new = parser.add_subparsers(required=True).add_parser("new", help="make a key for a user")
    new.add_argument("user")
    new.add_argument("--lane", action="append", default=[], help="a lane it may use; none named: every lane")
    new.add_argument("--model", action="append", default=[], help="a model it may use; none named: every model")
    options = parser.parse_args(arguments)
    try:
        key, line = new_key(options.user, options.lane, options.model)
    except ValidationError as error:
        parser.error(str(error.errors(include_url=False)[0]["msg"]))
    except BadKeys as error:
        parser.error(str(error))
    print(f"The key, shown only this once: {key}", file=sys.stderr)
    # In ASCII, because a terminal or a file may have another encoding than the UTF-8 that the gateway reads.
    print(line.model_dump_json(exclude_none=True, ensure_ascii=True))


if __name__ == "__main__":
    main()
