"""What the tuner on Dynamic/Sky Mask asks the server: which rules there are, and what given rules make of a frame.

Nothing is written to disk and no model is run. The answers are those of the code that makes the mask.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from server import PromptServer

from ..mirage_core.latent_grid import WAN22
from ..mirage_core.mask_rules import MaskRules, derived_cells, derived_mask, described
from .mask_pictures import cell_overlay, encoded, mask_overlay
from .mask_previews import PREVIEWS, Tuned
from .route_answers import Worker, answered, asked

MASK_CHANGED = "mirage.mask"
VIEWS = ("pixels", "cells")

# One at a time: the page itself asks only for the newest setting.
_tuning = Worker("mirage-mask")


def add_mask_routes() -> None:
    """Put the routes on the running server. Does nothing without one."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    server.routes.get("/mirage/mask_rules")(answered(_rules))
    server.routes.get("/mirage/masks")(answered(_masks))
    server.routes.post("/mirage/mask")(answered(_mask))
    PREVIEWS.listeners.append(lambda node, tuned: server.send_sync(MASK_CHANGED, _told(node, tuned)))


async def _rules(request: web.Request) -> web.Response:
    return web.json_response(described())


async def _masks(request: web.Request) -> web.Response:
    return web.json_response([_told(node, tuned) for node, tuned in PREVIEWS.all().items()])


async def _mask(request: web.Request) -> web.Response:
    question = await asked(request)
    if unknown := sorted(question.keys() - {"node", "tuning", "frame", "view"}):
        raise ValueError(f"The question has {unknown[0][:80]!r}; it knows node, tuning, frame and view.")
    node, view = question.get("node"), question.get("view", VIEWS[0])
    if not isinstance(node, str):
        raise ValueError(f"node is {str(node)[:80]!r}; it is the id of a node on the canvas.")
    if view not in VIEWS:
        raise ValueError(f"view is {str(view)[:80]!r}; it is one of {', '.join(VIEWS)}.")
    tuned, rules = PREVIEWS.get(node), MaskRules.of(question.get("tuning"))
    frame = question.get("frame", 0)
    if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < tuned.evidence.frames:
        raise ValueError(f"frame is {str(frame)[:80]!r}; it is a whole number from 0 to {tuned.evidence.frames - 1}.")
    picture, shares = await _tuning.run(shown, tuned, rules, frame, view)
    headers = {"X-Mirage-Shares": json.dumps(shares), "Cache-Control": "no-store"}
    return web.Response(body=picture, content_type="image/jpeg", headers=headers)


def shown(tuned: Tuned, rules: MaskRules, frame: int, view: str) -> tuple[bytes, dict[str, float]]:
    """A frame under the overlay as a JPEG, and the shares of it that are written, sky, moving and unsure."""
    evidence = tuned.evidence
    frames = range(frame, frame + 1) if view == "pixels" else _latent_frame_at(frame, evidence.frames, evidence.stride)
    mask = derived_mask(evidence, rules, painted=tuned.painted, kept=tuned.kept, frames=frames)
    picture = tuned.pictures[frames.stop - 1 : frames.stop].float() / 255
    if view == "pixels":
        return encoded(mask_overlay(picture, mask)[0]), mask.shares
    cells = derived_cells(_joined(mask), WAN22.size_of(evidence.image_size), stride=WAN22.temporal_stride)
    shares = {"written": cells.is_static, "sky": cells.is_sky, "moving": cells.is_moving, "unsure": cells.is_unsure}
    return encoded(cell_overlay(picture, cells)[0]), {name: float(one.float().mean()) for name, one in shares.items()}


def _latent_frame_at(frame: int, frames: int, stride: int) -> range:
    """The frames that one latent frame covers, among them `frame`."""
    if stride > 1 or not WAN22.is_frame_count(frames) or frame == 0:
        return range(frame, frame + 1)
    step = WAN22.temporal_stride
    last = -(-frame // step) * step
    return range(last - step + 1, last + 1)


def _joined(mask):
    """One frame that is left out where any of the mask's frames is."""
    parts = (mask.is_sky, mask.is_moving, mask.is_unsure)
    return type(mask)(*(part.any(0, keepdim=True) for part in parts), mask.excluded.amax(0, keepdim=True))


def _told(node: str, tuned: Tuned) -> dict[str, Any]:
    evidence = tuned.evidence
    return {
        "node": node,
        "version": tuned.version,
        "frames": evidence.frames,
        "image_size": evidence.image_size,
        "size": evidence.size,
        "sources": list(evidence.scores),
        "notes": list(evidence.notes),
    }
