"""Revisit Score: where the camera comes back to, is it still the same place?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy_api.latest import io

from ..mirage_core.latent_grid import WAN22
from ..mirage_core.memory import LatentMemory, MemoryBlock
from ..mirage_core.metrics import Likeness, Pair, color_drift, hole_rate, likeness, same_pose_pairs
from ..mirage_core.rollout import Rollout
from ..mirage_core.segments import Segment
from ..mirage_core.zbuffer import project
from .film_nodes import picked_frames
from .host_latents import to_host
from .pictures import contact_sheet
from .sockets import MirageMemory
from .telling import tell

_DIFFERENCE_GAIN = 3.0  # differences are shown so many times stronger
_PAIRS = 24  # at most so many are scored: more say nothing new


class RevisitScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageRevisitScore",
            display_name="Revisit Score",
            category="Mirage",
            description="Finds frames that the film shows twice from the same pose and measures how alike they are, where the memory knew and where it did not.",
            search_aliases=["psnr", "ssim", "lpips", "metric", "closed loop", "consistency", "memory", "benchmark"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                MirageMemory.Input("memory", tooltip="The finished film, from Segment Loop End or the last Write Memory. Its path has to leave and return."),
                io.Video.Input("video", optional=True, tooltip="The film, from Decode Film. Read frame by frame, so long films are no burden."),
                io.Image.Input("images", optional=True, tooltip="All frames of the film instead of a video, such as lossless ones."),
                io.Vae.Input("vae", optional=True, tooltip="The Wan2.2 VAE; decodes the film here where neither video nor images are connected. All frames are in memory then."),
                io.Int.Input("min_gap", default=33, min=1, max=100000, optional=True, advanced=True, tooltip="Frames between the two of a pair. Below 33 the model may still have had the first before its eyes; 65 is beyond any doubt."),
                io.Float.Input("tolerance", default=1.0, min=0.01, max=10.0, step=0.1, optional=True, advanced=True, tooltip="How far apart two poses may be to count as one, in degrees; 1 % of the scene's median depth counts as one degree."),
                io.Int.Input("pictures", default=4, min=1, max=24, optional=True, tooltip="How many pairs the picture shows."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="PSNR, SSIM and (where the package is installed) LPIPS of the pairs, split by what the memory knew."),
                io.Image.Output(display_name="pairs", tooltip="Each pair side by side with its difference, three times stronger."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, memory: Rollout, video=None, images=None, vae=None, min_gap=33, tolerance=1.0, pictures=4
    ) -> io.NodeOutput:
        filmed = memory.filmed_frames
        found = same_pose_pairs(
            memory.cameras[:filmed], unit_length=memory.unit_length, min_gap=min_gap, tolerance=tolerance / 5
        )
        pairs = _spread(found, _PAIRS)
        wanted = sorted({frame for pair in pairs for frame in (pair.first, pair.again)}) or [0]
        frames = _frames(memory, wanted, video, images, vae)
        if not pairs:
            text = f"No pose of these {filmed} frames comes back {min_gap} frames later or more: nothing to compare. Use a path that returns, such as out_and_back, over at least 3 segments."
            tell(text, cls.hidden)
            return io.NodeOutput(text, contact_sheet([("frame 0", frames[0])]), ui={"text": (text,)})
        score = scored(memory, pairs, frames)
        text = _report(score, found)
        tell(text, cls.hidden)
        return io.NodeOutput(text, _picture(_spread(pairs, pictures), frames), ui={"text": (text,)})


@dataclass(frozen=True)
class Score:
    """Likeness of all pairs together: whole pictures, what the memory knew, what it did not.

    drift: CIE76 of each segment in which the camera came back, by the segment's index.
    """

    whole: Likeness
    covered: Likeness
    uncovered: Likeness
    holes: float
    drift: dict[int, float]


def scored(memory: Rollout, pairs: list[Pair], frames: dict[int, torch.Tensor]) -> Score:
    """frames: [height width 3] in [0, 1] by number, those of all pairs."""
    again = torch.stack([frames[pair.again] for pair in pairs])
    first = torch.stack([frames[pair.first] for pair in pairs])
    # Pairs are in the order of their second frames, so those of a segment are neighbours.
    segments = [segment_of(memory, pair.again).index for pair in pairs]
    spans = [range(segments.index(one), segments.index(one) + segments.count(one)) for one in dict.fromkeys(segments)]
    where = torch.cat([known_before(memory, pair.again) for pair in pairs])
    where = where.repeat_interleave(WAN22.spatial_stride, 1).repeat_interleave(WAN22.spatial_stride, 2)
    if where.shape[1:] != again.shape[1:3]:
        where = torch.nn.functional.interpolate(where[None].float(), again.shape[1:3], mode="nearest")[0] > 0
    return Score(
        whole=likeness(again, first),
        covered=likeness(again, first, where),
        uncovered=likeness(again, first, ~where),
        holes=hole_rate(where),
        drift=dict(zip(dict.fromkeys(segments), color_drift(again, first, spans), strict=True)),
    )


def segment_of(memory: Rollout, frame: int) -> Segment:
    """The segment that has filmed a pixel frame."""
    return next(one for one in memory.plan if frame in one.output)


def known_before(memory: Rollout, frame: int) -> torch.Tensor:
    """[1 rows columns] bool: cells of a pixel frame's view that the memory knew when its segment was begun."""
    segment = segment_of(memory, frame)
    last = segment.target_frames[0] // memory.grid.temporal_stride
    known = memory.landmarks
    blocks = tuple(_older(block, last) for block in known.blocks)
    older = LatentMemory(known.grid, tuple(block for block in blocks if len(block)))
    return project(older, memory.cameras[[frame]], memory.size).is_covered.cpu()


def _older(block: MemoryBlock, last: int) -> MemoryBlock:
    is_older = block.latent_index <= last
    return block if is_older.all() else block.chosen(is_older)


def _frames(memory: Rollout, wanted: list[int], video, images, vae) -> dict[int, torch.Tensor]:
    if video is not None:
        found = dict(picked_frames(video, wanted))
    else:
        if images is None and vae is None:
            raise ValueError(
                "There is nothing to look at. Connect the film to video or images, or the Wan2.2 VAE to vae."
            )
        if images is None:
            images = vae.decode(to_host(memory.film))[0]
        found = {frame: images[frame, ..., :3].float().cpu() for frame in wanted if frame < len(images)}
    if len(found) != len(wanted):
        raise ValueError(
            f"The pictures end before the film: frame {max(wanted)} is missing. Connect the whole film of this very memory."
        )
    return found


def _spread(pairs: list[Pair], count: int) -> list[Pair]:
    """At most `count` of them, evenly spread, the last included."""
    if len(pairs) <= count:
        return pairs
    return [pairs[round((index + 1) * len(pairs) / count) - 1] for index in range(count)]


def _report(score: Score, pairs: list[Pair]) -> str:
    gaps = [pair.again - pair.first for pair in pairs]
    perceptual = "not installed" if score.whole.lpips is None else f"{score.whole.lpips:.3f}"
    lines = [
        f"{len(pairs)} pairs of frames from one pose, {min(gaps)} to {max(gaps)} frames apart",
        f"whole pictures: PSNR {score.whole.psnr:.2f} dB, SSIM {score.whole.ssim:.3f}, LPIPS {perceptual}",
        _line("remembered pixels", score.covered),
        _line("the rest", score.uncovered),
        f"holes: {score.holes:.0%} of the pixels",
        "colour drift (CIE76; 2.3 is just noticed): "
        + ", ".join(f"{drift:.2f} in segment {index + 1}" for index, drift in score.drift.items()),
    ]
    return "\n".join(lines)


def _line(name: str, alike: Likeness) -> str:
    if alike.share == 0:
        return f"{name}: none"
    return f"{name} ({alike.share:.0%}): PSNR {alike.psnr:.2f} dB, SSIM {alike.ssim:.3f}"


def _picture(pairs: list[Pair], frames: dict[int, torch.Tensor]) -> torch.Tensor:
    shown = []
    for pair in pairs:
        first, again = frames[pair.first], frames[pair.again]
        difference = ((again - first).abs() * _DIFFERENCE_GAIN).clamp(0, 1)
        shown += [(f"frame {pair.first}", first), (f"frame {pair.again}", again), ("difference x3", difference)]
    return contact_sheet(shown, columns=3)
