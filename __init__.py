"""Mirage: latent spatial memory for Wan2.2 in ComfyUI."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./js"
__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
