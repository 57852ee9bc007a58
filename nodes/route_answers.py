"""How Mirage's routes answer: only pages of this server, JSON in bounded size, every error one sentence of JSON.

What is answered is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any
from urllib.parse import urlsplit

import torch
from aiohttp import web

from ..mirage_core.tensor_files import plain_json

MAX_BYTES = 4_000_000  # 10 000 keyframes written with all their digits

Answer = Callable[[web.Request], Awaitable[web.Response]]


def is_same_origin(request: web.BaseRequest) -> bool:
    """True for questions of this server's own pages, and of programs, which send neither header."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:  # no address at all
        return False


def answered(answer: Answer) -> Answer:
    async def handler(request: web.Request) -> web.Response:
        if not is_same_origin(request):
            return web.json_response({"error": "Only pages of this ComfyUI may ask for its scenes."}, status=403)
        try:
            return await answer(request)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    return handler


async def asked(request: web.Request) -> dict[str, Any]:
    """The JSON object of a question. Raises ValueError for anything else, and for what is too large."""
    if request.content_length is not None and request.content_length > MAX_BYTES:
        raise ValueError(f"The question has {request.content_length} bytes; at most {MAX_BYTES} are read.")
    body = await request.content.read(MAX_BYTES + 1)
    while len(body) <= MAX_BYTES and (more := await request.content.read(MAX_BYTES + 1)):
        body += more
    if len(body) > MAX_BYTES:
        raise ValueError(f"The question has more than {MAX_BYTES} bytes.")
    try:
        question = plain_json(body)
    except ValueError as error:
        raise ValueError(f"The question cannot be answered: {error}.") from error
    if not isinstance(question, dict):
        raise ValueError("The question is a JSON object with settings.")
    return question


async def run(executor: Executor | None, work: Callable, *given: Any) -> Any:
    """Do work off the server's event loop; memories come from the host's inference mode and stay in it."""

    def in_inference_mode() -> Any:
        with torch.inference_mode():
            return work(*given)

    return await asyncio.get_running_loop().run_in_executor(executor, in_inference_mode)
