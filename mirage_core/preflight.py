"""What a camera path will ask of the memory and of the machine, before anything is sampled.

Per frame: how much of the view is known, how fast the camera moves and turns, how near it comes to what is there.
For the film: segments, points, time and memory by formula. Drawing all this is not done here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch

from .camera import Cameras
from .latent_grid import WAN22, LatentGrid
from .memory import LatentMemory, lift
from .rgb_memory import is_rgb, sampled
from .segments import SEGMENT_FRAMES, Segment, plan_segments
from .zbuffer import project

Level = Literal["green", "amber", "red"]
Cause = Literal["", "unknown", "fast", "turn", "near", "through", "length"]

NEAR_SHARE = 0.05  # of the scene's median depth: nearer than this a surface fills the view with a handful of cells
KNOWN_SHARE = 0.25  # below, most of a frame is the model's own invention and the camera is hardly held
TOO_FAST = 2.0  # times the trained range, from where on a frame is red
_LEVELS: tuple[Level, ...] = ("green", "amber", "red")
_GRAVITY: tuple[Cause, ...] = ("through", "near", "fast", "turn", "unknown", "length", "")


@dataclass(frozen=True)
class TrainedRange:
    """The camera moves an adapter has seen in training, per pixel frame.

    turn_degrees: largest turn of the view direction or roll.  speed: largest step of the camera, median depths of the
    scene.

    The default: clips of 33 frames at 16 fps (the recipe of microsoft/LatentSpatialMemory@b2cd738, whose SpatialVID-HQ
    clips come without a stated speed limit), and in them the largest of WorldScore's ten moves, on which Mirage was
    measured: 30 degrees, or one camera_speed, which is the distance to the orbit's pivot. Files may say otherwise.
    """

    turn_degrees: float = 30.0 / (SEGMENT_FRAMES - 1)
    speed: float = 1.0 / (SEGMENT_FRAMES - 1)

    def __post_init__(self) -> None:
        for name in ("turn_degrees", "speed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"The trained range says {name} = {value}; it is a number per frame above 0.")

    @staticmethod
    def stated(*, turn_degrees: float | None, speed: float | None) -> TrainedRange:
        """The range of an adapter whose file states so much of it (weights.Stated); the default for the rest.

        Raises ValueError when an entry is not above 0.
        """
        default = TrainedRange()
        return TrainedRange(
            default.turn_degrees if turn_degrees is None else turn_degrees, default.speed if speed is None else speed
        )


@dataclass(frozen=True)
class Preflight:
    """What was found. Tuples with one entry per pixel frame of the film, unless they say otherwise.

    known: share of the view that the memory shows now, in [0, 1].  expected: the same when the film up to the segment
        before has been remembered, with what is not known yet taken to lie at the median depth of its frame.
    speed: step from the frame before, in median depths.  turn_degrees: turn from the frame before.
    clearance: distance from the camera to the nearest remembered surface in its view, in median depths; infinite when
        there is none within one.  is_through: True where the way from the frame before crosses a remembered surface.
    levels, causes: the verdict per frame and what it is for ("" for green).
    trained: the range that speed and turns were measured against.
    plan: segments of the film.  points: of the memory after the film, at most.  mib: what they take.
    level, suggestion: the worst of the frames, and one sentence on what to do ("" when nothing is to be done).
    """

    known: tuple[float, ...]
    expected: tuple[float, ...]
    speed: tuple[float, ...]
    turn_degrees: tuple[float, ...]
    clearance: tuple[float, ...]
    is_through: tuple[bool, ...]
    levels: tuple[Level, ...]
    causes: tuple[Cause, ...]
    trained: TrainedRange
    plan: tuple[Segment, ...]
    points: int
    mib: float
    level: Level
    suggestion: str

    @property
    def frames(self) -> int:
        """Pixel frames of the film."""
        return len(self.known)

    def to_json(self) -> str:
        """For an editor's strip: all fields, of the plan only segment_starts; infinity as null."""
        document = {name: value for name, value in vars(self).items() if name not in ("plan", "trained")}
        document["trained"] = vars(self.trained)
        document["clearance"] = [value if math.isfinite(value) else None for value in self.clearance]
        document["segment_starts"] = [segment.target_frames[0] for segment in self.plan]
        return json.dumps(document, allow_nan=False)


def preflight(
    memory: LatentMemory,
    cameras: Cameras,
    size: tuple[int, int],
    *,
    unit_length: float,
    trained: TrainedRange | None = None,
    segment_frames: int = SEGMENT_FRAMES,
    grid: LatentGrid = WAN22,
) -> Preflight:
    """Check a camera path against a memory.

    memory: of latents or of colours.  cameras: one per pixel frame of the film, in the memory's world.
    size: (rows, columns) of the film's latents.  unit_length: median depth of the scene, world units.
    A number of frames that is not 4n+1 is a finding, no error.

    Raises ValueError for a unit_length that is not above 0.
    """
    if not (math.isfinite(unit_length) and unit_length > 0):
        raise ValueError(
            f"The scene's median depth is {unit_length}; it must be above 0. Check the depth of the picture."
        )
    trained = trained or TrainedRange()
    frames = len(cameras)
    planned = max(1, (frames - 1) // grid.temporal_stride * grid.temporal_stride + 1)
    plan = plan_segments(planned, grid, segment_frames=segment_frames)
    latent_frame = [
        min(frame + grid.temporal_stride - 1, planned - 1) // grid.temporal_stride for frame in range(frames)
    ]
    # Of a memory of colours some points will do; all of them take a minute to look at.
    seen = sampled(memory, grid) if is_rgb(memory) else memory
    shown = project(seen, cameras[list(range(0, planned, grid.temporal_stride))], size).is_covered
    known = shown.float().mean(dim=(1, 2)).tolist()
    expected = _expected_shares(seen, cameras, plan, size, unit_length)
    speed, turn_degrees = _motion(cameras, unit_length)
    clearance, is_through = _surfaces(seen, cameras, unit_length)
    found = [
        _verdict(share, step, turn, distance, crosses, trained)
        for share, step, turn, distance, crosses in zip(
            (expected[index] for index in latent_frame), speed, turn_degrees, clearance, is_through, strict=True
        )
    ]
    beyond: tuple[Level, Cause] = ("red", "length")
    found[planned:] = [beyond] * (frames - planned)
    points_per_frame = size[0] * size[1] * (grid.spatial_stride // memory.grid.spatial_stride) ** 2
    points = memory.count + sum(segment.latent_frames - 1 for segment in plan) * points_per_frame
    report = Preflight(
        known=tuple(known[index] for index in latent_frame),
        expected=tuple(expected[index] for index in latent_frame),
        speed=tuple(speed),
        turn_degrees=tuple(turn_degrees),
        clearance=tuple(clearance),
        is_through=tuple(is_through),
        levels=tuple(level for level, _ in found),
        causes=tuple(cause for _, cause in found),
        trained=trained,
        plan=plan,
        points=points,
        mib=points * _bytes_per_point(memory) / 2**20,
        level=_LEVELS[max(_LEVELS.index(level) for level, _ in found)],
        suggestion="",
    )
    return replace(report, suggestion=_suggestion(report, cameras, grid, segment_frames))


@dataclass(frozen=True)
class ModelSize:
    """What time and memory follow from.

    parameters: of the model, and of the side branch where there is one.  width, ffn_width, layers: of its transformer.
    weight_bytes: of all parameters as they are stored.
    """

    parameters: float
    width: int
    ffn_width: int
    layers: int
    weight_bytes: float


WAN22_TI2V_5B = ModelSize(parameters=5.0e9, width=3072, ffn_width=14336, layers=30, weight_bytes=10.0e9)


@dataclass(frozen=True)
class Cost:
    """What sampling a film costs by formula; encoding, decoding and depth are not in it.

    tokens: of the longest segment in one pass, N.  petaflop: of the whole film, the sum over its segments and passes of
    2 parameters N + 4 layers width N^2.  seconds: at the given speed.  gib: of the weights and, at 2 bytes a number, of
    what one block holds at once, N (7 width + ffn_width): its input twice, q, k, v, the attention's result, the sum,
    and the widened feed-forward.
    """

    tokens: int
    petaflop: float
    seconds: float
    gib: float


def sampling_cost(
    plan: tuple[Segment, ...],
    size: tuple[int, int],
    *,
    model: ModelSize = WAN22_TI2V_5B,
    steps: int = 20,
    passes_per_step: int = 1,
    extra_latent_frames: int = 0,
    teraflops: float = 50.0,
) -> Cost:
    """Time and memory of sampling a film.

    size: (rows, columns) of the latents; Wan packs 2 x 2 cells into one token.  passes_per_step: 2 with guidance (CFG).
    extra_latent_frames: references and preceding frames that go along with every segment.
    teraflops: what the machine really reaches, about half of what is printed on its box.

    Raises ValueError when steps, passes or teraflops are not above 0.
    """
    for name, value in (("steps", steps), ("passes_per_step", passes_per_step), ("teraflops", teraflops)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; the estimate needs a number above 0.")
    per_frame = size[0] // 2 * (size[1] // 2)
    tokens = [(segment.latent_frames + extra_latent_frames) * per_frame for segment in plan]
    flop = sum(2 * model.parameters * n + 4 * model.layers * model.width * n * n for n in tokens)
    flop *= steps * passes_per_step
    block_bytes = 2 * max(tokens) * (7 * model.width + model.ffn_width)
    return Cost(max(tokens), flop / 1e15, flop / (teraflops * 1e12), (model.weight_bytes + block_bytes) / 2**30)


def _expected_shares(
    memory: LatentMemory, cameras: Cameras, plan: tuple[Segment, ...], size: tuple[int, int], unit_length: float
) -> list[float]:
    """Per latent frame of the film: the share that the memory will know when the segment is made."""
    # Only where things are counts here: one channel instead of 48 keeps a long film small.
    grid = replace(memory.grid, channels=1)
    grown = LatentMemory(grid, tuple(replace(block, latents=block.latents[:, :1]) for block in memory.blocks))
    shares: list[float] = []
    for segment in plan:
        targets = cameras[list(segment.target_frames)]
        view = project(grown, targets, size)
        shares += view.is_covered.float().mean(dim=(1, 2)).tolist()[1 if segment.index else 0 :]
        if segment is plan[-1]:
            break
        depth = view.depth.clone()
        for one, is_known in zip(depth, view.is_covered, strict=True):
            one[~is_known] = one[is_known].median() if is_known.any() else unit_length
        nothing = torch.zeros(1, *depth.shape, dtype=depth.dtype, device=depth.device)
        grown = grown.extended(lift(nothing, depth, targets, grid, is_static=~view.is_covered))
    return shares


def _motion(cameras: Cameras, unit_length: float) -> tuple[list[float], list[float]]:
    """Step and turn from the frame before, in median depths and degrees; 0 for the first frame."""
    steps = cameras.centers.diff(dim=0).norm(dim=1) / unit_length
    rotation = cameras.cam2world[:, :3, :3]
    turned = rotation[:-1].mT @ rotation[1:]
    trace = turned.diagonal(dim1=1, dim2=2).sum(1)
    # atan2 of the skew part: the arc cosine of the trace loses half of the digits of small turns.
    sine = (turned - turned.mT).flatten(1).norm(dim=1) / math.sqrt(2)
    turns = torch.rad2deg(torch.atan2(sine, trace - 1))
    return [0.0, *steps.tolist()], [0.0, *turns.tolist()]


def _surfaces(memory: LatentMemory, cameras: Cameras, unit_length: float) -> tuple[list[float], list[bool]]:
    """Clearance and is_through of a Preflight."""
    centers = cameras.centers
    low, high = centers.amin(0) - unit_length, centers.amax(0) + unit_length
    near = []
    for block in memory.blocks:
        points = block.points.double().cpu()
        is_near = ((points >= low) & (points <= high)).all(dim=1)
        near.append((points[is_near], block.sides.double().cpu()[is_near]))
    points, sides = (torch.cat(parts) for parts in zip(*near, strict=True)) if near else (None, None)
    if points is None or sides is None or not len(points):
        return [math.inf] * len(cameras), [False] * len(cameras)
    clearance, is_through = [], []
    for frame in range(len(cameras)):
        distance = _distance_in_view(points, sides, cameras[frame]) / unit_length
        clearance.append(distance if distance <= 1 else math.inf)
        is_through.append(frame > 0 and _crosses(points, sides, centers[frame - 1], centers[frame]))
    return clearance, is_through


def _distance_in_view(points: torch.Tensor, sides: torch.Tensor, camera: Cameras) -> float:
    """From one camera to the nearest place on a patch whose nearest place is in the camera's view; infinite if none."""
    to_point = points - camera.centers[0]
    distance = to_point.norm(dim=1)
    # No patch that begins beyond the nearest visible point can be nearer: that leaves few to look at closely.
    in_view = _is_in_view(to_point, camera)
    bound = float(distance[in_view].min()) if in_view.any() else math.inf
    may_be = distance - sides.norm(dim=2).sum(1) / 2 <= bound
    to_point, sides = to_point[may_be], sides[may_be]
    gram = sides @ sides.mT
    along = (sides @ -to_point[..., None])[..., 0]
    determinant = (gram[:, 0, 0] * gram[:, 1, 1] - gram[:, 0, 1] ** 2).clamp_min(1e-300)
    a = (gram[:, 1, 1] * along[:, 0] - gram[:, 0, 1] * along[:, 1]) / determinant
    b = (gram[:, 0, 0] * along[:, 1] - gram[:, 0, 1] * along[:, 0]) / determinant
    coordinates = torch.stack([a, b], dim=1).clamp(-0.5, 0.5)
    nearest = to_point + (coordinates[:, :, None] * sides).sum(1)
    near = nearest[_is_in_view(nearest, camera)].norm(dim=1)
    return min(bound, float(near.min())) if len(near) else bound


def _is_in_view(offsets: torch.Tensor, camera: Cameras) -> torch.Tensor:
    """[n] bool: places at `offsets` [n 3] from one camera's centre that fall into its image."""
    height, width = camera.image_size
    u, v, z = (offsets @ (camera.intrinsics[0] @ camera.cam2world[0, :3, :3].mT).mT).unbind(1)
    return (z > 0) & (u >= 0) & (u <= width * z) & (v >= 0) & (v <= height * z)


def _crosses(points: torch.Tensor, sides: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> bool:
    """Whether the way from `start` to `end` [3] goes through a patch."""
    way = end - start
    normals = torch.linalg.cross(sides[:, 0], sides[:, 1])
    toward = normals @ way
    share = ((points - start) * normals).sum(1) / torch.where(toward == 0, 1, toward)
    may_hit = (toward != 0) & (share > 0) & (share <= 1)
    if not may_hit.any():
        return False
    offset = start + share[may_hit, None] * way - points[may_hit]
    sides, normals = sides[may_hit], normals[may_hit]
    area = (normals * normals).sum(1)
    a = (torch.linalg.cross(offset, sides[:, 1]) * normals).sum(1) / area
    b = (torch.linalg.cross(sides[:, 0], offset) * normals).sum(1) / area
    return bool((torch.maximum(a.abs(), b.abs()) <= 0.5).any())


def _verdict(
    expected: float, speed: float, turn_degrees: float, clearance: float, is_through: bool, trained: TrainedRange
) -> tuple[Level, Cause]:
    """The worst finding of one frame; of equals the one that comes first here."""
    findings: list[tuple[Level, Cause]] = []
    if is_through:
        findings.append(("red", "through"))
    if clearance < NEAR_SHARE:
        findings.append(("red" if clearance < NEAR_SHARE / 2 else "amber", "near"))
    rates: tuple[tuple[Cause, float], ...]
    rates = (("fast", speed / trained.speed), ("turn", turn_degrees / trained.turn_degrees))
    for cause, ratio in rates:
        if ratio > 1 + 1e-6:  # a path that keeps exactly to the range is green, whatever its last digits
            findings.append(("red" if ratio > TOO_FAST else "amber", cause))
    if expected < KNOWN_SHARE:
        findings.append(("red" if expected < KNOWN_SHARE / 10 else "amber", "unknown"))
    return max(findings, key=lambda finding: _LEVELS.index(finding[0]), default=("green", ""))


def _suggestion(report: Preflight, cameras: Cameras, grid: LatentGrid, segment_frames: int) -> str:
    """One sentence on the gravest finding."""
    if "length" in report.causes:
        below = report.causes.index("length")
        above = below + grid.temporal_stride
        return f"The film has {report.frames} frames; the model packs frames as 4n+1: use {below} or {above}."
    if report.level == "green":
        return ""
    found = {cause for level, cause in zip(report.levels, report.causes, strict=True) if level == report.level}
    cause = min(found, key=_GRAVITY.index)
    first = next(
        frame for frame in range(report.frames) if (report.levels[frame], report.causes[frame]) == (report.level, cause)
    )
    if cause in ("through", "near"):
        away = (cameras.centers - cameras.centers[0]).norm(dim=1)
        before = float(away[:first].max()) if first else 0.0
        smaller = math.floor(20 * before / max(float(away.max()), 1e-12)) / 20
        size = f"make the move smaller ({smaller:.2g}x ends before it)" if smaller else "start farther away"
        what = "passes through a surface" if cause == "through" else "comes too near to a surface"
        return f"At frame {first} the camera {what}: {size}, or lead the path around it."
    if cause == "unknown":
        return (
            f"At frame {first} only {report.expected[first]:.0%} of the view will be known: move or turn less per "
            "segment, or lead the path back over what has been seen."
        )
    ratio = max(max(report.speed) / report.trained.speed, max(report.turn_degrees) / report.trained.turn_degrees)
    slower = max(0.05, math.floor(20 / ratio) / 20)
    step = segment_frames - 1
    needed = math.ceil((report.frames - 1) * ratio / step - 1e-6)
    more = max(1, needed - math.ceil((report.frames - 1) / step))
    what = "moves" if cause == "fast" else "turns"
    return (
        f"At frame {first} the camera {what} {ratio:.2g} times as fast as the model was trained on: slow to "
        f"{slower:g}x, or add {more} segment{'s' if more > 1 else ''} (length {(needed if needed else 1) * step + 1})."
    )


def _bytes_per_point(memory: LatentMemory) -> int:
    if not memory.blocks:
        return 4 * (3 + memory.grid.channels + 1 + 1 + 1 + 6)
    block = memory.blocks[0]
    tensors = [getattr(block, field.name) for field in fields(block)]
    return sum(values[0].numel() * values.element_size() for values in tensors if values is not None)
