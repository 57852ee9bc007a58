"""Stand-in models: small files in the formats of the real ones, made in seconds, always the same bits, never trained.

They let the demo and the tests run in a real ComfyUI where no checkpoint is installed. Host-free: torch and
safetensors only.
"""
