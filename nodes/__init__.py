"""The host's door: which nodes this pack has."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .branch_nodes import ApplyMirageMemory, FlowUniPCSampler, LoadMirageAdapter, register_model_folder
from .camera_nodes import CameraPathNode
from .camera_socket_nodes import CameraPathFrom3D, CameraPathFromWan, CameraPathTo3D, CameraPathToWan
from .check_nodes import PathCheck
from .depth_precision_nodes import FullPrecisionDepthModel
from .drift_nodes import ColorAnchorNode
from .evidence_nodes import SceneEvidence
from .example_nodes import ExampleScene
from .exif_nodes import ExifFieldOfView
from .export_nodes import ExportMemory
from .film_nodes import DecodeFilm, FilmReport
from .geometry_nodes import FramesForDepth, SimpleDepth
from .loop_nodes import LoopFilm, LoopKeep, LoopStep, LoopTurn, SegmentLoopEnd, SegmentLoopStart
from .mask_nodes import DynamicSkyMask
from .mask_routes import add_mask_routes
from .memory_file_nodes import LoadMemory, SaveMemory
from .memory_library import register_memory_folder
from .memory_nodes import InitLatentMemory, ProjectMemory, WriteMemory
from .memory_tool_nodes import EditMemory, InspectMemory, MergeMemories
from .metric_nodes import RevisitScore
from .nano_files import register_nano_models
from .nano_nodes import NanoSceneWords
from .path_nodes import LoadCameraPath, SaveCameraPath, WorldScoreMoves
from .receipt_nodes import CameraReceipt, FilmFrames
from .run_nodes import LoadSegmentRun
from .scene_routes import add_routes
from .segment_nodes import GenerateSegment
from .stand_in_nodes import StandInText
from .write_film_nodes import WriteFilm

NODES: list[type[io.ComfyNode]] = [
    InitLatentMemory,
    CameraPathNode,
    SimpleDepth,
    ExampleScene,
    FullPrecisionDepthModel,
    SceneEvidence,
    DynamicSkyMask,
    FramesForDepth,
    ProjectMemory,
    GenerateSegment,
    ColorAnchorNode,
    WriteMemory,
    SegmentLoopStart,
    SegmentLoopEnd,
    LoadSegmentRun,
    LoopTurn,
    LoopStep,
    LoopKeep,
    LoopFilm,
    DecodeFilm,
    WriteFilm,
    FilmReport,
    LoadMirageAdapter,
    ApplyMirageMemory,
    FlowUniPCSampler,
    PathCheck,
    LoadCameraPath,
    SaveCameraPath,
    WorldScoreMoves,
    CameraPathFrom3D,
    CameraPathTo3D,
    CameraPathFromWan,
    CameraPathToWan,
    FilmFrames,
    CameraReceipt,
    ExifFieldOfView,
    ExportMemory,
    SaveMemory,
    LoadMemory,
    InspectMemory,
    EditMemory,
    MergeMemories,
    RevisitScore,
    NanoSceneWords,
    StandInText,
]

register_model_folder()
register_memory_folder()
register_nano_models()
add_routes()
add_mask_routes()


class MirageExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> MirageExtension:
    return MirageExtension()
