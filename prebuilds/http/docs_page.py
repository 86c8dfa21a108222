"""The documentation page: Swagger UI over `/openapi.json`. All of it comes from this server; no network is needed."""

from __future__ import annotations

from functools import cache
from importlib import resources

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Prebuilds: HTTP</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true, persistAuthorization: false});\n'
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
"""Nothing is loaded from elsewhere, and no script stands in the page. Swagger UI sets styles in its elements."""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> Response:
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/{file}")
async def docs_file(file: str) -> Response:
    if file == "start.js":
        return Response(START, media_type="text/javascript")
    if file not in FILES:
        raise HTTPException(404)
    return Response(read_file(file), media_type=FILES[file], headers={"Cache-Control": "max-age=3600"})


@cache
def read_file(name: str) -> bytes:
    """A file of Swagger UI, as the package `fastapi-swagger` carries it."""
    return resources.files("fastapi_swagger.resources").joinpath(name).read_bytes()
