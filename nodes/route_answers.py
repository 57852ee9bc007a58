"""How Mirage's routes answer: only pages of this server, JSON in bounded size, every error one sentence of JSON.

What is answered is not known here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch
from aiohttp import web

from ..mirage_core.tensor_files import plain_json

MAX_BYTES = 4_000_000  # 10 000 keyframes written with all their digits

MAX_WAITING = 8  # an editor has one question under way, or two; a page that asks on and on fills no memory

Result = TypeVar("Result")
Answer = Callable[[web.Request], Awaitable[web.Response]]


class Busy(Exception):
    """Too many questions wait; the text says how many."""


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
        except Busy as error:
            return web.json_response({"error": str(error)}, status=503)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        except web.HTTPException:
            raise
        except Exception as error:  # a page reads every answer as JSON; the log has the rest
            logging.exception("Mirage could not answer %s", request.path)
            why = f"Mirage could not answer ({type(error).__name__}); the log of ComfyUI says where it went wrong."
            return web.json_response({"error": why}, status=500)

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


class Worker:
    """Does the work of questions off the server's event loop, one after the other, and lets only so many wait."""

    def __init__(self, name: str, *, limit: int = MAX_WAITING) -> None:
        """name: of its thread.  limit: questions that may wait or be worked on."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._limit, self._asked = limit, 0

    async def run(self, work: Callable[..., Result], *given: Any) -> Result:
        """What `work` returns. Memories come from the host's inference mode and stay in it. Raises Busy."""
        if self._asked >= self._limit:
            raise Busy(f"{self._asked} questions wait for an answer already. Ask again in a moment.")

        def in_inference_mode() -> Result:
            with torch.inference_mode():
                return work(*given)

        self._asked += 1
        waiting = asyncio.get_running_loop().run_in_executor(self._executor, in_inference_mode)
        waiting.add_done_callback(self._answered)
        return await waiting

    def _answered(self, _: object) -> None:
        self._asked -= 1
