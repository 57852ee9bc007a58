"""Pictures that nodes show: a path from above, contact sheets, coverage over time."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..mirage_core.camera import Cameras

INK = (226, 228, 233)
DIM = (120, 126, 138)
PAPER = (24, 26, 31)
ACCENT = (94, 200, 174)
WARM = (240, 166, 90)


def to_image(picture: Image.Image) -> torch.Tensor:
    """PIL picture -> host IMAGE [1 height width 3] in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def to_picture(frame: torch.Tensor) -> Image.Image:
    """One frame [height width 3] in [0, 1] -> PIL picture."""
    return Image.fromarray((frame.clamp(0, 1) * 255).round().byte().cpu().numpy())


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def path_from_above(cameras: Cameras, segment_starts: list[int], *, size: int = 640) -> torch.Tensor:
    """The path seen from above with camera frusta, as an IMAGE [1 size size 3].

    cameras: one per pixel frame.  segment_starts: frames at which a segment begins (drawn with a dot and a number).
    Up in the picture is forward (+z) of the first camera, right is its right (+x).
    """
    centers = cameras.centers[:, [0, 2]].numpy()
    forward = cameras.cam2world[:, :3, 2].numpy()[:, [0, 2]]
    half_fov = math.atan(cameras.image_size[1] / 2 / float(cameras.intrinsics[0, 0, 0]))
    span = max(float(np.ptp(centers, axis=0).max()), 1e-6)
    reach = 0.35 * span if span > 1e-3 else 1.0
    low, high = centers.min(axis=0) - 1.3 * reach, centers.max(axis=0) + 1.3 * reach
    scale = (size - 60) / max(high - low)
    middle = (low + high) / 2

    def place(point: np.ndarray) -> tuple[float, float]:
        return size / 2 + (point[0] - middle[0]) * scale, size / 2 - (point[1] - middle[1]) * scale

    picture = Image.new("RGB", (size, size), PAPER)
    draw = ImageDraw.Draw(picture, "RGBA")
    frusta = np.linspace(0, len(cameras) - 1, min(len(cameras), 13)).round().astype(int)
    for frame in frusta:
        age = frame / max(1, len(cameras) - 1)
        corners = [place(centers[frame])]
        for side in (-1, 1):
            cos, sin = math.cos(side * half_fov), math.sin(side * half_fov)
            ahead = forward[frame]
            turned = np.array([ahead[0] * cos - ahead[1] * sin, ahead[0] * sin + ahead[1] * cos])
            corners.append(place(centers[frame] + turned * reach))
        color = tuple(round(a + (b - a) * age) for a, b in zip(ACCENT, WARM, strict=True))
        draw.polygon(corners, fill=(*color, 38), outline=(*color, 190))
    draw.line([place(center) for center in centers], fill=INK, width=3)
    placed: list[tuple[float, float]] = []
    for index, frame in enumerate(segment_starts):
        x, y = place(centers[frame])
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=WARM if index else ACCENT)
        shift = 16 * sum(math.hypot(x - a, y - b) < 12 for a, b in placed)
        placed.append((x, y))
        draw.text((x + 9 + shift, y - 8), str(index + 1), fill=INK, font=font(15))
    draw.text((14, 10), f"{len(cameras)} frames, {len(segment_starts)} segments, from above", fill=DIM, font=font(15))
    return to_image(picture)


def coverage_plot(coverage: list[list[float]], *, width: int = 900, height: int = 320) -> torch.Tensor:
    """Share of each filmed latent frame that the memory knew, over time; IMAGE [1 height width 3].

    coverage: per segment, the share of each of its latent frames in [0, 1].
    """
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    left, right, top, bottom = 64, width - 20, 44, height - 44
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), fill=(52, 56, 64))
        draw.text((14, y - 9), f"{share:4.0%}", fill=DIM, font=font(14))
    total = sum(len(shares) for shares in coverage)
    step = (right - left) / max(1, total - 1)
    at = 0
    for index, shares in enumerate(coverage):
        points = [(left + (at + i) * step, bottom - share * (bottom - top)) for i, share in enumerate(shares)]
        color = ACCENT if index % 2 == 0 else WARM
        if len(points) > 1:
            draw.line(points, fill=color, width=3)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=color)
        draw.text((points[0][0] + 4, bottom + 8), f"segment {index + 1}", fill=color, font=font(14))
        at += len(shares)
    draw.text((left, 12), "share of each target frame known from memory, over latent frames", fill=INK, font=font(16))
    return to_image(picture)


def contact_sheet(frames: list[tuple[str, torch.Tensor]], *, columns: int = 4, tile_width: int = 320) -> torch.Tensor:
    """Frames [height width 3] in [0, 1] with a caption each, as one IMAGE [1 height width 3]."""
    height, width = frames[0][1].shape[:2]
    tile_height = round(tile_width * height / width)
    rows = math.ceil(len(frames) / columns)
    picture = Image.new("RGB", (columns * (tile_width + 8) + 8, rows * (tile_height + 32) + 8), PAPER)
    draw = ImageDraw.Draw(picture)
    for index, (caption, frame) in enumerate(frames):
        x = 8 + index % columns * (tile_width + 8)
        y = 8 + index // columns * (tile_height + 32)
        picture.paste(to_picture(frame).resize((tile_width, tile_height), Image.Resampling.LANCZOS), (x, y))
        draw.text((x + 2, y + tile_height + 3), caption, fill=INK, font=font(15))
    return to_image(picture)
