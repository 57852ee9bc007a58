"""The small trained models that come with this pack, made known to the host's own loaders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

NANO_FOLDER = Path(__file__).parents[1] / "workflows" / "nano"


def register_nano_models() -> None:
    """Let the host's loaders list them behind the user's own files: below NANO_FOLDER folders have the host's names.

    Nothing is copied into the user's models folder, and a pack without them changes nothing.
    """
    for folder in sorted(NANO_FOLDER.glob("*/")):
        if folder.name in folder_paths.folder_names_and_paths:
            folder_paths.add_model_folder_path(folder.name, str(folder))
