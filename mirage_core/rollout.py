"""What travels from one segment of a film to the next: the memory, what has been filmed, and where the path is."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from .camera import Cameras
from .camera_path import CameraPath
from .latent_grid import WAN22, LatentGrid
from .latent_origin import UNKNOWN, LatentOrigin
from .memory import LatentMemory, MemoryBlock
from .movers import MoverLayer, with_movers
from .rgb_memory import is_rgb, sampled
from .segments import SEGMENT_FRAMES, Segment, plan_segments
from .zbuffer import MemoryView, project

_SIZE_STEP = 32  # a latent cell is 16 pixels, and Wan packs 2 x 2 cells into one token


@dataclass(frozen=True)
class Shot:
    """What the artist ordered: a camera path, a length and a picture size.

    frames: pixel frames, 4n+1.  image_size: (height, width) in pixels, multiples of 32.
    speed: 1 walks the whole path in the film; 0.5 its first half; 2 walks it in half the film, then rests at its end.
    fov_degrees: horizontal field of view of the first frame; None takes the one the geometry model finds.

    Raises ValueError for a length, size, speed or frame rate that cannot be filmed.
    """

    path: CameraPath
    frames: int
    image_size: tuple[int, int]
    fps: float = 16.0
    speed: float = 1.0
    fov_degrees: float | None = None

    def __post_init__(self) -> None:
        WAN22.latent_frames(self.frames)
        if any(side < _SIZE_STEP or side % _SIZE_STEP for side in self.image_size):
            near = [max(_SIZE_STEP, round(side / _SIZE_STEP) * _SIZE_STEP) for side in self.image_size]
            raise ValueError(
                f"The picture size is {self.image_size[1]}x{self.image_size[0]}; Wan2.2 needs multiples of "
                f"{_SIZE_STEP}. Use {near[1]}x{near[0]}."
            )
        for name, value in (("speed", self.speed), ("fps", self.fps)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be above 0.")

    @property
    def whole_frames(self) -> int:
        """Frames that the whole path takes at this speed; more than `frames` when the film ends before the path."""
        return max(2, round((self.frames - 1) / self.speed) + 1)

    def cameras(self, *, intrinsics: torch.Tensor, unit_length: float) -> Cameras:
        """One camera per pixel frame; the first is the identity.

        intrinsics: [3 3] of the first frame, pixels of image_size.  unit_length: median depth of the start picture in
        world units (what a path in median depths is measured in).
        """
        unit_length = unit_length if self.path.unit == "median_depth" else 1.0
        whole = self.whole_frames
        cameras = self.path.cameras(whole, intrinsics=intrinsics, image_size=self.image_size, unit_length=unit_length)
        return cameras[[min(frame, whole - 1) for frame in range(self.frames)]]


@dataclass(frozen=True)
class Rollout:
    """A film in the making. Nothing in it is ever changed in place; each step gives a new Rollout.

    memory: the points known so far: latents, or colours (rgb_memory.py).
    cameras: one per pixel frame of the whole film, image_size in pixels, world = camera of the first frame.
    plan: the segments of the whole film.
    latents: the filmed latents, normalised; one tensor [channels 1 rows columns] of the start picture, then one
        [channels n rows columns] per finished segment (its new latent frames, without the overlap).
    last_view: what the memory showed when the newest segment was made; one frame per latent frame of that segment,
        the overlap included. None before the first segment.
    coverage: per finished segment, the share of each of its latent frames that the memory knew, in [0, 1].
    unit_length: median depth of the start picture in world units.
    notes: one line per finished segment on what was written and why not more.
    grid: of the film's latents. The memory's own grid is the same, or that of pixels.
    depth_fit: scale and shift that fitted the newest depth to the memory (alignment.py), or None.
    movers: what moved at the end of the film so far, shown to the next segment (movers.py), or None.
    origin: of the film's latents.
    """

    memory: LatentMemory
    cameras: Cameras
    plan: tuple[Segment, ...]
    latents: tuple[torch.Tensor, ...]
    fps: float
    unit_length: float = 1.0
    last_view: MemoryView | None = None
    coverage: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    grid: LatentGrid = WAN22
    depth_fit: tuple[float, float] | None = None
    movers: MoverLayer | None = None
    origin: LatentOrigin = UNKNOWN

    @staticmethod
    def started(
        memory: LatentMemory,
        first_latents: torch.Tensor,
        cameras: Cameras,
        *,
        fps: float = 16.0,
        unit_length: float = 1.0,
        segment_frames: int = SEGMENT_FRAMES,
        grid: LatentGrid | None = None,
        origin: LatentOrigin = UNKNOWN,
    ) -> Rollout:
        """A film of which only the start picture exists.

        first_latents: [channels 1 rows columns], normalised, the start picture.
        cameras: one per pixel frame of the film; 4n+1 of them.
        grid: of the film's latents; default the memory's.  origin: of the film's latents; default unknown.
        Raises ValueError when the latents or the camera count do not fit the grid.
        """
        grid = grid or memory.grid
        grid.check_latents(first_latents)
        if first_latents.shape[1] != 1:
            raise ValueError(f"The start picture is one latent frame; {first_latents.shape[1]} were given.")
        if tuple(first_latents.shape[2:]) != grid.size_of(cameras.image_size):
            raise ValueError(
                f"The start picture has {list(first_latents.shape[2:])} latent cells; the path's picture size "
                f"{cameras.image_size} needs {list(grid.size_of(cameras.image_size))}. Use one size for both."
            )
        plan = plan_segments(len(cameras), grid, segment_frames=segment_frames)
        return Rollout(memory, cameras, plan, (first_latents,), fps, unit_length, grid=grid, origin=origin)

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of the latent grid."""
        rows, columns = self.latents[0].shape[2:]
        return int(rows), int(columns)

    @property
    def segments_done(self) -> int:
        """Finished segments."""
        return len(self.latents) - 1

    @property
    def is_finished(self) -> bool:
        """True when every planned segment has been made."""
        return self.segments_done == len(self.plan)

    @property
    def next_segment(self) -> Segment:
        """The segment to make now. Raises ValueError when the path has been filmed to its end."""
        if self.is_finished:
            raise ValueError(
                f"All {len(self.plan)} segments of the path are filmed ({len(self.cameras)} frames). "
                "Make the path longer, or use fewer segments."
            )
        return self.plan[self.segments_done]

    @property
    def film(self) -> torch.Tensor:
        """[channels frames rows columns] all filmed latents, normalised."""
        return torch.cat(self.latents, dim=1)

    @property
    def filmed_latents(self) -> int:
        """Number of latent frames filmed so far, the start picture included."""
        return sum(latents.shape[1] for latents in self.latents)

    @property
    def filmed_frames(self) -> int:
        """Number of pixel frames filmed so far, the start picture included."""
        return self.grid.frames(self.filmed_latents)

    def latent_frames(self, chosen: Sequence[int]) -> torch.Tensor:
        """[channels n rows columns] some filmed latents, normalised, by their number in the film; at least one.

        The rest of the film is not touched, which may lie on a disk.
        """
        starts = [0, *accumulate(latents.shape[1] for latents in self.latents)]
        frames = []
        for number in chosen:
            piece = bisect_right(starts, number) - 1
            frames.append(self.latents[piece][:, number - starts[piece]])
        return torch.stack(frames, dim=1)

    @property
    def overlap(self) -> torch.Tensor:
        """[channels 1 rows columns] the newest latent; the next segment starts with it."""
        return self.latents[-1][:, -1:]

    def cameras_of(self, segment: Segment) -> Cameras:
        """The cameras of a segment's latent frames, the overlap included; image_size in pixels."""
        return self.cameras[list(segment.target_frames)]

    def filmed_cameras(self) -> Cameras:
        """The cameras of all filmed latents."""
        stride = self.grid.temporal_stride
        return self.cameras[[frame * stride for frame in range(self.filmed_latents)]]

    def pixel_cameras_of(self, segment: Segment) -> Cameras:
        """The cameras of all pixel frames that the model makes for a segment, the overlap included."""
        return self.cameras[list(range(segment.target_frames[0], segment.target_frames[-1] + 1))]

    @property
    def landmarks(self) -> LatentMemory:
        """The memory at the latent grid's density, for telling which frames saw the same places."""
        return sampled(self.memory, self.grid) if is_rgb(self.memory) else self.memory

    def view(self, segment: Segment) -> MemoryView:
        """What a memory of latents shows to the latent frames of a segment.

        Raises ValueError for a memory of colours, whose view has to be rendered and encoded.
        """
        if is_rgb(self.memory):
            raise ValueError(
                "This film remembers colours: what they show has to be encoded, and no VAE is connected. Connect the "
                "Wan2.2 VAE to Project Memory, or start the film with the kind latent."
            )
        cameras = self.cameras_of(segment)
        view = project(self.memory, cameras, self.size)
        # The memory may hold half precision; what is sampled from is computed with.
        view = replace(view, latents=view.latents.float())
        if self.movers is None:
            return view
        first = segment.target_frames[0] // self.grid.temporal_stride
        return with_movers(view, self.movers, cameras, self.grid, first_latent_index=first)

    def preceding(self, count: int) -> tuple[torch.Tensor, MemoryView] | None:
        """Up to `count` latents just before the overlap latent, with what the memory showed when they were made.

        Returns latents [channels n rows columns] and their MemoryView, or None while the film is shorter.
        """
        if self.last_view is None or count < 1:
            return None
        last = self.filmed_latents - 1
        available = min(count, last, self.last_view.latents.shape[1] - 1)
        if available < 1:
            return None
        return self.latent_frames(range(last - available, last)), _frames_of(self.last_view, slice(-1 - available, -1))

    def extended(
        self,
        latents: torch.Tensor,
        view: MemoryView,
        block: MemoryBlock | None = None,
        *,
        memory: LatentMemory | None = None,
        note: str = "",
        depth_fit: tuple[float, float] | None = None,
        movers: MoverLayer | None = None,
    ) -> Rollout:
        """The film after the next segment.

        latents: [channels frames rows columns] of the whole segment, normalised, the overlap latent first.
        view: what the memory showed to that segment, one frame per latent frame.
        block: the points to remember, or None to remember nothing new.
        memory: the memory with the segment written into it (fusion.py), in place of `block`.
        depth_fit: of the segment's depth; None keeps the last one.  movers: at the segment's end.
        Raises ValueError when the latents are not those of the next segment.
        """
        segment = self.next_segment
        self.grid.check_latents(latents)
        expected = (segment.latent_frames, *self.size)
        if tuple(latents.shape[1:]) != expected:
            raise ValueError(
                f"Segment {segment.index + 1} has {segment.latent_frames} latent frames of {self.size} cells; latents "
                f"of shape {list(latents.shape)} were given. Connect the segment that Generate Segment "
                "made from this memory."
            )
        shares = view.is_covered.float().mean(dim=(1, 2)).tolist()
        return replace(
            self,
            memory=memory or (self.memory if block is None else self.memory.extended(block)),
            latents=(*self.latents, latents[:, 1:]),
            last_view=view,
            coverage=(*self.coverage, tuple(shares)),
            notes=(*self.notes, note),
            depth_fit=depth_fit or self.depth_fit,
            movers=movers,
        )

    def redirected(self, cameras: Cameras) -> Rollout:
        """The same film, continued along other cameras from where it is now.

        cameras: one per pixel frame still to film and one for the frame the film is at (4n+1 in all), relative to
            the camera of that frame: the first is the identity.
        """
        stride = self.grid.temporal_stride
        here = (sum(latents.shape[1] for latents in self.latents) - 1) * stride
        moved = cameras.moved(self.cameras.cam2world[here])
        joined = Cameras.joined([self.cameras[:here], moved]) if here else moved
        plan = self.plan[: self.segments_done]
        segment_frames = max([SEGMENT_FRAMES, *(segment.model_frames for segment in plan)])
        rest = plan_segments(len(cameras), self.grid, segment_frames=segment_frames)
        shifted = tuple(
            Segment(
                len(plan) + segment.index,
                range(
                    max(here + 1, here + segment.output.start) if here else segment.output.start,
                    here + segment.output.stop,
                ),
                segment.model_frames,
                tuple(here + frame for frame in segment.target_frames),
            )
            for segment in rest
        )
        return replace(self, cameras=joined, plan=(*plan, *shifted))


def _frames_of(view: MemoryView, frames: slice) -> MemoryView:
    holes = None if view.hole_latents is None else view.hole_latents[:, frames]
    return MemoryView(
        view.latents[:, frames], view.is_covered[frames], view.depth[frames], view.point_index[frames], holes
    )
