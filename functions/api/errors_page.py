"""/docs/errors: every error in a table, where the `type` of a problem document leads."""

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from functions.api.openapi import TITLE
from tasks.errors import ERRORS


def add_errors_page(app: FastAPI) -> None:
    """Let the app serve the page."""
    page = _errors_page()

    async def errors(_: Request) -> HTMLResponse:
        return HTMLResponse(page)

    app.add_route("/docs/errors", errors, include_in_schema=False)


def _errors_page() -> str:
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{error.status}</td><td>{error.title()}</td></tr>'
        for code, error in sorted(ERRORS.items(), key=lambda item: (item[1].status, item[0]))
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>{TITLE}: errors</title>"
        "<style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}"
        "td,th{padding:.4rem .8rem;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
        "tr:target{background:#ffe9a8}</style>"
        f"<h1>Errors</h1><table><tr><th>code<th>status<th>meaning</tr>{rows}</table>"
    )
