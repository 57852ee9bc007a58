"""Write the stand-in models below a ComfyUI base directory: python -m training.stand_in BASE_DIRECTORY [--tests]."""

from __future__ import annotations

import argparse
from pathlib import Path

from .files import write_demo_models, write_test_models


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.stand_in", description=__doc__)
    parser.add_argument("base_directory", type=Path, help="folder with (or for) the host's models/ folder")
    parser.add_argument("--tests", action="store_true", help="also write the random models that only tests use")
    asked = parser.parse_args()
    written = write_demo_models(asked.base_directory)
    if asked.tests:
        written += write_test_models(asked.base_directory)
    print("\n".join(str(path) for path in written))


if __name__ == "__main__":
    main()
