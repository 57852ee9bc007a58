"""Mirage camera files in Blender: import a path as an animated camera, export an animated camera as a path.

In Blender: Scripting workspace > Open this file > Run Script. The menu entries File > Import > Mirage camera (.json)
and File > Export > Mirage camera (.json) appear. Or from Python: import_camera(path), export_camera(path).

Mirage: OpenCV axes, camera to world (x right, y down, z forward), intrinsics in pixels of the render size.
Blender: z up, a camera looks down its own -z with +y up. The first camera of a Mirage path stands at Blender's origin
and looks along +y. The file's frame rate and image size become the scene's. Plain Blender Python, nothing to install.
"""

import json

import bpy
from mathutils import Matrix

FORMAT, VERSION = "mirage_cameras", 1
NAME = "Mirage camera"
WORLD = Matrix(((1, 0, 0, 0), (0, 0, 1, 0), (0, -1, 0, 0), (0, 0, 0, 1)))  # Mirage's world to Blender's: z up
CAMERA = Matrix(((1, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, 1)))  # a camera's y and z flipped, and back


def import_camera(path, first_frame=1):
    """A new camera with one keyframe per camera of the file; it becomes the scene's camera. Returns the object."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise ValueError(f"{path} is no Mirage camera file of version {VERSION}. Export it as json in Mirage.")
    height, width = document["image_size"]
    frames = document["frames"]
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = width, height
    scene.render.resolution_percentage = 100
    scene.render.pixel_aspect_x = scene.render.pixel_aspect_y = 1.0
    if document.get("fps"):
        scene.render.fps = max(1, round(document["fps"]))
        scene.render.fps_base = scene.render.fps / document["fps"]
    scene.frame_start, scene.frame_end = first_frame, first_frame + len(frames) - 1
    lens = bpy.data.cameras.new(NAME)
    camera = bpy.data.objects.new(NAME, lens)
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.rotation_mode = "QUATERNION"
    lens.sensor_fit = "HORIZONTAL"  # so that lens and shift are measured in image widths, whatever the aspect
    before = None
    for index, frame in enumerate(frames):
        (fx, _, cx), (_, fy, cy), _ = frame["intrinsics"]
        if abs(fx / fy - 1) > 1e-4:
            raise ValueError(f"frame {index} has pixels that are not square; Blender's camera has square ones.")
        matrix = WORLD @ Matrix(frame["cam2world"]) @ CAMERA
        rotation = matrix.to_quaternion()
        if before is not None:
            rotation.make_compatible(before)  # no spin the long way round between two frames
        before = rotation.copy()
        camera.location, camera.rotation_quaternion = matrix.to_translation(), rotation
        lens.lens = fx / width * lens.sensor_width
        lens.shift_x = (width / 2 - cx) / width
        lens.shift_y = (cy - height / 2) / width
        at = first_frame + index
        camera.keyframe_insert("location", frame=at)
        camera.keyframe_insert("rotation_quaternion", frame=at)
        for channel in ("lens", "shift_x", "shift_y"):
            lens.keyframe_insert(channel, frame=at)
    scene.frame_set(first_frame)
    return camera


def export_camera(path, camera=None):
    """The scene's camera (or `camera`) over the scene's frame range, constraints and parents included."""
    scene = bpy.context.scene
    camera = camera or scene.camera
    if camera is None or camera.type != "CAMERA":
        raise ValueError("The scene has no camera. Select one as the active camera (Ctrl+Numpad 0).")
    if camera.data.type != "PERSP":
        raise ValueError(f"{camera.name} is {camera.data.type}; Mirage's cameras are perspective ones.")
    render = scene.render
    if abs(render.pixel_aspect_x - render.pixel_aspect_y) > 1e-6:
        raise ValueError("The render has pixels that are not square. Set Output > Aspect to 1.")
    width = round(render.resolution_x * render.resolution_percentage / 100)
    height = round(render.resolution_y * render.resolution_percentage / 100)
    kept_frame = scene.frame_current
    frames = []
    for number in range(scene.frame_start, scene.frame_end + 1):
        scene.frame_set(number)
        seen = camera.evaluated_get(bpy.context.evaluated_depsgraph_get())
        location, rotation, _ = seen.matrix_world.decompose()  # a scaled parent does not scale the camera's axes
        pose = WORLD.inverted() @ Matrix.LocRotScale(location, rotation, None) @ CAMERA
        frames.append(
            {
                "name": str(number),
                "cam2world": [list(row) for row in pose],
                "intrinsics": intrinsics_of(seen.data, width, height),
            }
        )
    scene.frame_set(kept_frame)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "fps": render.fps / render.fps_base,
        "image_size": [height, width],
        "frames": frames,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
    return len(frames)


def intrinsics_of(lens, width, height):
    """[3][3] pixel intrinsics of a Blender camera. Its shift is in units of the side the sensor is fitted to."""
    is_horizontal = lens.sensor_fit == "HORIZONTAL" or (lens.sensor_fit == "AUTO" and width >= height)
    side = width if is_horizontal else height
    # AUTO fits sensor_width to the longer side; only VERTICAL uses sensor_height.
    sensor = lens.sensor_height if lens.sensor_fit == "VERTICAL" else lens.sensor_width
    focal = side * lens.lens / sensor
    return [
        [focal, 0.0, width / 2 - lens.shift_x * side],
        [0.0, focal, height / 2 + lens.shift_y * side],
        [0.0, 0.0, 1.0],
    ]


class _MirageFile:
    filename_ext = ".json"
    filepath: bpy.props.StringProperty(subtype="FILE_PATH")
    filter_glob: bpy.props.StringProperty(default="*.json", options={"HIDDEN"})

    def invoke(self, context, event):
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context):
        try:
            self.run(self.filepath)
        except (OSError, ValueError, KeyError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class MIRAGE_OT_import_camera(_MirageFile, bpy.types.Operator):
    """Import a camera path from Mirage"""

    bl_idname, bl_label = "mirage.import_camera", "Mirage camera (.json)"

    def run(self, path):
        import_camera(path)


class MIRAGE_OT_export_camera(_MirageFile, bpy.types.Operator):
    """Export the scene's camera for Mirage"""

    bl_idname, bl_label = "mirage.export_camera", "Mirage camera (.json)"

    def run(self, path):
        export_camera(path if path.endswith(".json") else path + ".json")


def _import_menu(menu, context):
    menu.layout.operator(MIRAGE_OT_import_camera.bl_idname, text=MIRAGE_OT_import_camera.bl_label)


def _export_menu(menu, context):
    menu.layout.operator(MIRAGE_OT_export_camera.bl_idname, text=MIRAGE_OT_export_camera.bl_label)


def register():
    """Add the menu entries."""
    for operator in (MIRAGE_OT_import_camera, MIRAGE_OT_export_camera):
        bpy.utils.register_class(operator)
    bpy.types.TOPBAR_MT_file_import.append(_import_menu)
    bpy.types.TOPBAR_MT_file_export.append(_export_menu)


if __name__ == "__main__":
    register()
