"""The types that travel between Mirage nodes. Everything else is the host's own socket type."""

from __future__ import annotations

from comfy_api.latest import io

# mirage_core.rollout.Rollout: the memory, what has been filmed, where the path is. The one carried value of a loop.
MirageMemory = io.Custom("MIRAGE_MEMORY")
# mirage_core.rollout.Shot: a camera path with its length, picture size and frame rate.
MiragePath = io.Custom("MIRAGE_PATH")
# mirage_core.zbuffer.MemoryView: what the memory shows to the cameras of one segment.
MirageView = io.Custom("MIRAGE_VIEW")
# nodes.adapter.Adapter: a side branch and / or LoRA, loaded and checked.
MirageAdapter = io.Custom("MIRAGE_ADAPTER")
# mirage_core.evidence.Evidence: scores per pixel and frame of what may be sky, may move, may be wrong.
MirageEvidence = io.Custom("MIRAGE_EVIDENCE")
# The sliders of Dynamic/Sky Mask: plain JSON that mirage_core.mask_rules.MaskRules.of checks. A widget, not a wire.
MirageMaskRules = io.Custom("MIRAGE_MASK_RULES")
# The wire that pairs Segment Loop Start with its End; carries the number of segments.
MirageLoop = io.Custom("MIRAGE_LOOP")

# The host's own geometry packets (comfy_extras/nodes_moge.py, nodes_depth_anything_3.py).
MoGeModel = io.Custom("MOGE_MODEL")
MoGeGeometry = io.Custom("MOGE_GEOMETRY")
DA3Geometry = io.Custom("DA3_GEOMETRY")
