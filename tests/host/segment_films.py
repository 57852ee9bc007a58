"""Small films as kept segments, made without a host's server."""

from __future__ import annotations

import os

import torch

SIZE, CELLS = (64, 64), (4, 4)


def path_of(core, move, frames):
    """Cameras of a preset over so many frames. core: as the fixture."""
    shot = core("rollout").Shot(core("path_presets").preset(move, amount=20), frames, SIZE)
    return shot.cameras(intrinsics=core("camera").pinhole_intrinsics(60, SIZE), unit_length=4.0)


def grown(rollout, value=0.0):
    """A film after its next segment, all of whose latents are `value`."""
    segment = rollout.next_segment
    return rollout.extended(torch.full((48, segment.latent_frames, *CELLS), value), rollout.view(segment))


class Films:
    """Films of three segments each, as their files; each used later than the one before."""

    def __init__(self, module, root, started):
        self.module, self.root, self.started, self.clock = module, root, started, 1_000_000_000

    def add(self, name, *, take=0):
        one = self.module.SegmentStore(self.root, self.root / name)
        kept, of = None, {}
        for number in range(4):
            rollout = self.started if kept is None else grown(kept.rollout)
            key = f"{hash((name, number, take)) % 2**64:016x}" * 4
            places = kept.places if kept else {}
            kept = one.write(rollout, key=key, made_from={}, before=kept, of=of, places=places)
            of[key] = kept.file
        self.use(name)
        return [file.path for file in of.values()]

    def use(self, name):
        self.clock += 100
        for path in (self.root / name).glob("*.json"):
            os.utime(path, (self.clock, self.clock))

    def names(self):
        return sorted(path.relative_to(self.root).as_posix()[:13] for path in self.root.glob("*/*.json"))

    def bytes(self):
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())
