"""EXIF Field of View: what a photo's file says about the lens it was taken with."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import folder_paths
from comfy_api.latest import io
from PIL import ExifTags, Image

from .host_latents import fit_box

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
        path = folder_paths.get_annotated_filepath(image)
        with Image.open(path) as picture:
            exif = picture.getexif()
            size = picture.size[::-1]
            if exif.get(ExifTags.Base.Orientation, 1) >= 5:  # the camera was held upright
                size = size[::-1]
            focal = equivalent_focal(exif, Path(path).name)
        fov = field_of_view(focal, size, (height, width) if width and height else size)
        return io.NodeOutput(fov, f"{focal:.0f} mm on 35 mm film, {fov:.1f} degrees across the film's picture")

    @classmethod
    def fingerprint_inputs(cls, image, width=1280, height=704) -> str:
        return hashlib.sha256(Path(folder_paths.get_annotated_filepath(image)).read_bytes()).hexdigest()

    @classmethod
    def validate_inputs(cls, image) -> bool | str:
        return folder_paths.exists_annotated_filepath(image) or f"There is no picture {image} in the input folder."


def equivalent_focal(exif: Image.Exif, name: str) -> float:
    """Focal length in mm for 35 mm film, as the camera tells it, or from the size of its sensor.

    Raises ValueError when the file tells neither.
    """
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    told = float(tags.get(ExifTags.Base.FocalLengthIn35mmFilm, 0) or 0)
    if math.isfinite(told) and told > 0:
        return told
    focal = float(tags.get(ExifTags.Base.FocalLength, 0) or 0)
    resolution = [
        float(tags.get(tag, 0) or 0)
        for tag in (ExifTags.Base.FocalPlaneXResolution, ExifTags.Base.FocalPlaneYResolution)
    ]
    pixels = [float(tags.get(tag, 0) or 0) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)]
    unit = {2: 25.4, 3: 10.0, 4: 1.0}.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2), 25.4)
    if not all(math.isfinite(value) and value > 0 for value in (focal, *resolution, *pixels)):
        raise ValueError(
            f"{name} does not say with which focal length it was taken: pictures that were edited, sent or made by a "
            "model do not. Set fov on Camera Path (55 fits most phones), or use MoGe."
        )
    diagonal = math.hypot(*(count / per_unit * unit for count, per_unit in zip(pixels, resolution, strict=True)))
    return focal * _DIAGONAL / diagonal


def field_of_view(focal: float, size: tuple[int, int], target: tuple[int, int]) -> float:
    """Horizontal field of view in degrees of the part of a picture that a film of the shape `target` shows.

    focal: in mm, for 35 mm film.  size, target: (height, width).
    """
    _, _, _, width = fit_box(size, target)
    return math.degrees(2 * math.atan(width / math.hypot(*size) * _DIAGONAL / 2 / focal))
