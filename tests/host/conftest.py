"""A real ComfyUI in this process, on the CPU, with the pack loaded beside it. No part of the host is imitated."""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from host.segment_films import CELLS, Films, path_of

REPOSITORY = Path(__file__).resolve().parents[2]


def find_host() -> Path | None:
    """The ComfyUI of $COMFYUI_PATH, else the one `dev.py` has put into .host; None when there is none."""
    candidates = [os.environ.get("COMFYUI_PATH"), REPOSITORY / ".host" / "ComfyUI"]
    return next((Path(one) for one in candidates if one and (Path(one) / "comfy").is_dir()), None)


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Where the reference's numbers and tiny weights lie; see the fixture `golden`."""
    folder = Path(os.environ.get("MIRAGE_GOLDEN") or REPOSITORY.parent / "shared" / "golden")
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}; set MIRAGE_GOLDEN to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def host():
    """The host's modules: host.comfy, host.nodes, host.folder_paths."""
    path = find_host()
    if path is None:
        pytest.skip("No ComfyUI found: set $COMFYUI_PATH, or run `python3 dev.py test` once.")
    sys.path.insert(0, str(path))  # before the repository, whose nodes/ would hide the host's nodes.py
    for name in [name for name in sys.modules if name == "nodes" or name.startswith("nodes.")]:
        del sys.modules[name]
    options = importlib.import_module("comfy.options")
    options.enable_args_parsing(False)
    importlib.import_module("comfy.cli_args").args.cpu = True
    modules = {name: importlib.import_module(name) for name in ("comfy.sd", "comfy.sample", "comfy.samplers", "nodes")}
    comfy = importlib.import_module("comfy")
    return types.SimpleNamespace(
        comfy=comfy, nodes=modules["nodes"], folder_paths=importlib.import_module("folder_paths")
    )


@pytest.fixture(scope="session")
def pack(host):
    """pack("branch_patch") imports nodes/branch_patch.py as a part of the pack, next to the host."""
    for name, folder in (("mirage_pack", REPOSITORY), ("mirage_pack.nodes", REPOSITORY / "nodes")):
        if name not in sys.modules:  # packages without their __init__: a test imports only what it tests
            package = types.ModuleType(name)
            package.__path__ = [str(folder)]
            sys.modules[name] = package
    return lambda module: importlib.import_module(f"mirage_pack.nodes.{module}")


@pytest.fixture
def core(pack):
    """core("camera"): mirage_core as the pack has it, whose types are its own."""
    pack("segment_store")
    return lambda name: importlib.import_module(f"mirage_pack.mirage_core.{name}")


@pytest.fixture
def started(core):
    """A film of three segments to make, without a memory."""
    memory = core("memory").LatentMemory.empty(core("latent_grid").WAN22)
    return core("rollout").Rollout.started(memory, torch.zeros(48, 1, *CELLS), path_of(core, "pan_right", 97))


@pytest.fixture
def store(pack):
    return pack("segment_store")


@pytest.fixture
def pruning(pack):
    return pack("segment_pruning")


@pytest.fixture
def films(store, tmp_path, started):
    """Folders of kept films of three segments each."""
    return Films(store, tmp_path / "mirage", started)


@pytest.fixture(scope="session")
def models(host, golden_folder, tmp_path_factory):
    """Folder with the reference's tiny model and branch as float32 files, known to the host's loaders."""
    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp("models")
    for name in ("tiny_dit", "tiny_vace"):
        tensors = {key: value.float() for key, value in load_file(golden_folder / f"{name}.safetensors").items()}
        save_file(tensors, folder / f"{name}.safetensors")
    host.folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return folder


@pytest.fixture(scope="session")
def model(host, models):
    """The reference's tiny model through the host's own loader node."""
    return host.nodes.UNETLoader().load_unet("tiny_dit.safetensors", "default")[0]


@pytest.fixture(scope="session")
def adapter(pack, models):
    """The reference's tiny branch through our loader."""
    loading = pack("adapter")
    return loading.Adapter(loading.load_branch(str(models / "tiny_vace.safetensors"), layout="white_latent"))


@pytest.fixture(scope="session")
def view_of():
    """view_of(latents): a memory's view that covers everything."""
    return lambda scene: types.SimpleNamespace(
        latents=scene, is_covered=torch.ones(scene.shape[1:], dtype=torch.bool), hole_latents=None
    )


@pytest.fixture(scope="session")
def forward(host):
    """forward(patched, latents, timesteps, context): one call of the diffusion model, loaded by the host."""

    def call(patched, latents, timesteps, context, *, sigma=None):
        host.comfy.model_management.load_models_gpu([patched, *patched.get_nested_additional_models()])
        options = host.comfy.model_patcher.create_model_options_clone(patched.model_options)["transformer_options"]
        options["wrappers"] = patched.wrappers
        if sigma is not None:
            options["sigmas"] = torch.tensor([sigma])
        with torch.inference_mode():
            return patched.model.diffusion_model(latents, timesteps, context=context, transformer_options=options)

    return call


@pytest.fixture(scope="session")
def sample(host, pack):
    """One segment, whose first latent frame is given, through the host's sampling; all latents normalised."""

    def call(patched, noise, first_latent, context, negative=None, *, cfg=1.0, steps=4, shift=5.0, sampler=None):
        unipc, latent_format = pack("flow_unipc"), patched.model.latent_format
        samples = torch.zeros_like(noise)
        samples[:, :, :1] = first_latent
        mask = torch.ones(1, 1, *noise.shape[2:])
        mask[:, :, 0] = 0
        negative = torch.zeros_like(context) if negative is None else negative
        with torch.inference_mode():
            latents = host.comfy.sample.sample_custom(
                patched, noise, cfg, sampler or unipc.flow_unipc_sampler(), unipc.flow_sigmas(steps, shift),
                [[context, {}]], [[negative, {}]], latent_format.process_out(samples),
                noise_mask=mask, disable_pbar=True, seed=0,
            )  # fmt: skip
        return latent_format.process_in(latents.float())

    return call
