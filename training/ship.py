"""Gather the trained nano models for users of the pack: python -m training.ship

Copies each stage's file to where the pack's loaders find it, workflows/nano/<models folder>/mirage_nano_*.safetensors,
and writes what the files say about themselves, with their sizes and sums, as workflows/nano/figures.json. The model
card beside it, README.md, is written by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from safetensors import safe_open

from .encoders import check_encoders
from .nano_films import Codec

SHIPPED = Path(__file__).parents[1] / "workflows" / "nano"
MOST_MIB = 57.2  # 60 MB
FILES = {
    "autoencoder/nano_vae.safetensors": "vae/mirage_nano_vae.safetensors",
    "base/nano_base.safetensors": "diffusion_models/mirage_nano_base.safetensors",
    "adapter/branch/nano_branch.safetensors": "mirage/mirage_nano_side_branch.safetensors",
    "adapter/lora/nano_lora.safetensors": "mirage/mirage_nano_lora.safetensors",
    "depth/nano_depth.safetensors": "geometry_estimation/mirage_nano_depth.safetensors",
}


def ship(trained: Path, into: Path, *, autoencoder: Path | None = None) -> list[Path]:
    """Copy all files of FILES from the trainers' folder. autoencoder: another than the one there.

    Raises FileNotFoundError for a stage that has not been trained, ValueError when together they are too large to ship
    or were not trained with one encoder.
    """
    sources = {trained / source: target for source, target in FILES.items()}
    if autoencoder is not None:
        sources = dict(zip([autoencoder, *list(sources)[1:]], FILES.values(), strict=True))
    for source in sources:
        if not source.is_file():
            raise FileNotFoundError(f"There is no {source}. Train that stage first, or give its folder as --trained.")
    vae, *models, _ = sources
    check_encoders(Codec(vae), *models)
    total = sum(source.stat().st_size for source in sources) / 2**20
    if total > MOST_MIB:
        raise ValueError(f"The files take {total:.1f} MiB together; at most {MOST_MIB} may be shipped.")
    figures, written = {}, []
    for source, target in sources.items():
        path = into / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        with safe_open(path, framework="pt") as file:
            said = {name: text for name, text in (file.metadata() or {}).items() if name != "mirage.scene_words"}
            numbers = sum(file.get_tensor(name).numel() for name in file.keys())
        figures[target] = {
            "MiB": round(path.stat().st_size / 2**20, 2),
            "numbers": numbers,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **said,
        }
        written.append(path)
    report = into / "figures.json"
    report.write_text(json.dumps(figures, indent=1) + "\n")
    return [*written, report]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.ship", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trained", type=Path, default=Path("output/nano"), help="where the trainers wrote")
    parser.add_argument("--autoencoder", type=Path, help="another file than the one there")
    parser.add_argument("--into", type=Path, default=SHIPPED)
    asked = parser.parse_args()
    for path in ship(asked.trained, asked.into, autoencoder=asked.autoencoder):
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
