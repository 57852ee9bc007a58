"""EXIF Field of View: what a photo's file says about the lens it was taken with."""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from PIL import ExifTags, Image

from .host_latents import fit_box

_SHORTEST, _LONGEST = 1.0, 10_000.0  # mm on 35 mm film: from a fisheye to beyond any telescope that takes photos
_LARGEST = 1e9
_DIAGONAL = math.hypot(36, 24)  # of a 35 mm film frame; equivalent focal lengths are told for its diagonal


class ExifFieldOfView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        folder = Path(folder_paths.get_input_directory())
        files = sorted(one.name for one in folder.iterdir() if one.is_file()) if folder.is_dir() else []
        return io.Schema(
            node_id="MirageExifFieldOfView",
            display_name="EXIF Field of View",
            category="Mirage/camera",
            description="The field of view of a photo, from the focal length that the camera wrote into its file.",
            search_aliases=["fov", "focal length", "exif", "lens", "photo"],
            inputs=[
                io.Combo.Input("image", options=folder_paths.filter_files_content_types(files, ["image"]), upload=io.UploadType.image, tooltip="The photo itself, as the camera or phone saved it; edited and sent copies have often lost what it says."),
                io.Int.Input("width", default=1280, min=0, max=16384, optional=True, tooltip="Width of the film, as on Camera Path: the photo is cut to its shape, which may narrow the view. 0 = the whole photo."),
                io.Int.Input("height", default=704, min=0, max=16384, optional=True, tooltip="Height of the film, as on Camera Path. 0 = the whole photo."),
            ],
            outputs=[
                io.Float.Output(display_name="fov", tooltip="Horizontal field of view in degrees; connect to fov of Camera Path."),
                io.String.Output(display_name="report", tooltip="Which lens that was."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, width=1280, height=704) -> io.NodeOutput:
        path = Path(folder_paths.get_annotated_filepath(image))
        focal, size = lens_of(path)
        fov = field_of_view(focal, size, (height, width) if width and height else size)
        return io.NodeOutput(fov, f"{focal:.0f} mm on 35 mm film, {fov:.1f} degrees across the film's picture")

    @classmethod
    def fingerprint_inputs(cls, image, width=1280, height=704) -> str:
        digest = hashlib.sha256()
        with open(folder_paths.get_annotated_filepath(image), "rb") as file:
            while part := file.read(1 << 22):
                digest.update(part)
        return digest.hexdigest()

    @classmethod
    def validate_inputs(cls, image) -> bool | str:
        return folder_paths.exists_annotated_filepath(image) or f"There is no picture {image} in the input folder."


def lens_of(path: Path) -> tuple[float, tuple[int, int]]:
    """What a photo's file says: the focal length in mm for 35 mm film, and its size (height, width) as it is shown.

    Raises ValueError when it does not tell a focal length, or is no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large and of damaged pictures, whose pixels are not read here
            with Image.open(path) as picture:
                exif, size = picture.getexif(), picture.size[::-1]
                upright = _number(exif.get(ExifTags.Base.Orientation))
                exif.get_ifd(ExifTags.IFD.Exif)  # read now, where damage is told as damage
    except Exception as error:  # Pillow's readers raise whatever the damage leads to
        raise ValueError(
            f"{path.name} cannot be read as a photo ({type(error).__name__}): it is damaged, or no picture. Choose the "
            "file as the camera saved it."
        ) from error
    return equivalent_focal(exif, path.name), size[::-1] if upright >= 5 else size  # the camera was held upright


def equivalent_focal(exif: Image.Exif, name: str) -> float:
    """Focal length in mm for 35 mm film, as the camera tells it, or from the size of its sensor.

    Raises ValueError when the file tells neither.
    """
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    told = _number(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if _SHORTEST <= told <= _LONGEST:
        return told
    focal = _number(tags.get(ExifTags.Base.FocalLength))
    resolution = [
        _number(tags.get(tag)) for tag in (ExifTags.Base.FocalPlaneXResolution, ExifTags.Base.FocalPlaneYResolution)
    ]
    pixels = [_number(tags.get(tag)) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)]
    unit = {3: 10.0, 4: 1.0}.get(int(_number(tags.get(ExifTags.Base.FocalPlaneResolutionUnit))), 25.4)
    if all(value > 0 for value in (focal, *resolution, *pixels)):
        diagonal = math.hypot(*(count / per_unit * unit for count, per_unit in zip(pixels, resolution, strict=True)))
        if diagonal > 0 and _SHORTEST <= focal * _DIAGONAL / diagonal <= _LONGEST:
            return focal * _DIAGONAL / diagonal
    raise ValueError(
        f"{name} does not say with which focal length it was taken: pictures that were edited, sent or made by a "
        "model do not. Set fov on Camera Path (55 fits most phones), or use MoGe."
    )


def _number(value: Any) -> float:
    """A tag's value, 0 where it is missing or no number that a camera writes: files hold anything under any tag."""
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return 0.0
    return number if abs(number) < _LARGEST else 0.0


def field_of_view(focal: float, size: tuple[int, int], target: tuple[int, int]) -> float:
    """Horizontal field of view in degrees of the part of a picture that a film of the shape `target` shows.

    focal: in mm, for 35 mm film.  size, target: (height, width).
    """
    _, _, _, width = fit_box(size, target)
    return math.degrees(2 * math.atan(width / math.hypot(*size) * _DIAGONAL / 2 / focal))
