"""The README's picture and the workflows' thumbnails from films of 97 frames.

python workflows/api/pictures.py FILM SECOND_SHOT [NANO]: films of stand_in_long_flight, of stand_in_second_shot after it,
and of nano_flight.
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

WORKFLOWS = Path(__file__).parents[1]
STORY = (
    (0, "the first picture"),
    (24, "the camera moves away"),
    (48, "grey was never seen"),
    (96, "back: the room is the same"),
)
THUMBNAILS = {
    "first_flight": (0, 12, 24, 32),
    "long_flight": (0, 24, 48, 96),
    "mirage_adapter": (16, 40, 64, 88),
    "spatia_weights": (8, 32, 56, 80),
}


def frames_of(film: str) -> list[Image.Image]:
    with av.open(film) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def story(frames: list[Image.Image], *, width: int = 400) -> Image.Image:
    """Frames side by side, each with its caption."""
    height = round(width * frames[0].height / frames[0].width)
    picture = Image.new("RGB", (len(STORY) * (width + 8) - 8, height + 34), (24, 26, 31))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    for index, (at, caption) in enumerate(STORY):
        picture.paste(frames[at].resize((width, height), Image.Resampling.LANCZOS), (index * (width + 8), 0))
        draw.text((index * (width + 8) + 8, height + 6), f"frame {at}: {caption}", fill=(226, 228, 233), font=font)
    return picture


def mosaic(frames: list[Image.Image], chosen: tuple[int, ...], *, width: int = 320) -> Image.Image:
    """Four frames, two by two."""
    height = round(width * frames[0].height / frames[0].width)
    picture = Image.new("RGB", (2 * width + 4, 2 * height + 4), (24, 26, 31))
    for index, at in enumerate(chosen):
        tile = frames[at].resize((width, height), Image.Resampling.LANCZOS)
        picture.paste(tile, (index % 2 * (width + 4), index // 2 * (height + 4)))
    return picture


def main() -> None:
    frames = frames_of(sys.argv[1])
    story(frames).save(WORKFLOWS / "flight.jpg", quality=85)
    for name, chosen in THUMBNAILS.items():
        mosaic(frames, chosen).save(WORKFLOWS / f"{name}.jpg", quality=82)
    second = frames_of(sys.argv[2])
    mosaic([frames[48], *second], (0, 1, 24, 49)).save(WORKFLOWS / "second_shot.jpg", quality=82)
    if len(sys.argv) > 3:
        mosaic(frames_of(sys.argv[3]), (0, 12, 48, 96)).save(WORKFLOWS / "nano_flight.jpg", quality=85)


if __name__ == "__main__":
    main()
