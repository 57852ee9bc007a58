"""A loop over kept segments without a server: which start it goes on from, and what it does on a disk that is full."""

from __future__ import annotations

import errno
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from host.segment_films import CELLS, grown

SEGMENTS = 3


@pytest.fixture
def studio(pack, started, tmp_path):
    """Everything to film with; studio.film(): what a loop said, in its first and its last report, and its film."""
    return Studio(pack, started, tmp_path / "mirage")


class Studio:
    def __init__(self, pack, started, root):
        self.pack, self.root = pack, root
        picture = torch.randn(48, 1, *CELLS, generator=torch.Generator().manual_seed(3))
        self.start = replace(started, latents=(picture,))
        self.graph = {"LoadImage image": '"room.jpg"', "MirageSimpleDepth fov": "60.0"}

    def run(self, start=None, *, run="castle", origin="the same", seed=1):
        starts, keys = self.pack("film_starts"), self.pack("segment_keys")
        conditions = self.pack("conditions").conditions()
        made_from = {**self.graph, **conditions, keys.ORIGIN: origin + str(conditions)}
        return self.run_from(starts.kept_start(start or self.start, made_from=made_from, root=self.root, run=run), seed)

    def run_from(self, film, seed=1):
        keys, conditions = self.pack("segment_keys"), self.pack("conditions").conditions()
        turns = self.pack("loop_turns").loop_turns(SEGMENTS, seed, "increment", "a room")
        body = keys.GraphParts(conditions, frozenset({3}), False)
        return self.pack("loop_run").LoopRun(self.pack("loop_turns").LoopOrder(film.memory, turns), film, body)

    def film(self, start=None, **options):
        return self.filmed(self.run(start, **options))

    def film_from(self, start):
        return self.filmed(self.run_from(start))

    def filmed(self, run):
        said, memory = run.begin(), run.memory
        for index in range(SEGMENTS):
            kept = run.reused(index, memory)
            memory = run.keep(index, grown(memory, float(run.order.turns[index].seed))) if kept is None else kept
        report = run.report()
        run.finish()
        return SimpleNamespace(said=said, report=report, memory=memory)

    def files(self):
        return {path.name: path.read_bytes() for path in sorted(self.root.glob("*/*")) if path.suffix != ".mark"}


def rounded_otherwise(film, share=1e-7):
    """A film as another run of the same GPU code gives it: no number is the same, all are nearly."""
    cameras = film.cameras
    moved = cameras.cam2world.clone()
    moved[:, :3, 3] *= 1 + share
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2] *= 1 + share
    return replace(
        film,
        latents=tuple(latents * (1 + share) for latents in film.latents),
        unit_length=film.unit_length * (1 + share),
        cameras=replace(cameras, cam2world=moved, intrinsics=intrinsics),
    )


def test_a_start_that_rounds_otherwise_goes_on_from_the_kept_one_to_the_bit(studio):
    first = studio.film()
    files = studio.files()
    again = studio.film(rounded_otherwise(studio.start))
    assert again.said == again.report == "reused 1-3"
    assert torch.equal(first.memory.film, again.memory.film)
    assert torch.equal(first.memory.cameras.cam2world, again.memory.cameras.cam2world)
    assert studio.files() == files


def test_a_start_of_other_origin_or_of_another_picture_begins_a_film_of_its_own(studio):
    studio.film()
    assert studio.film(rounded_otherwise(studio.start), origin="another").said.startswith("rendering 1-3")
    other = replace(studio.start, latents=(studio.start.latents[0] * 1.5,))
    assert studio.film(other).said.startswith("rendering 1-3")
    assert len(list(studio.root.glob("castle/start_*.json"))) == 3


def test_without_a_name_too_the_kept_start_is_found(studio):
    studio.film(run="")
    assert studio.film(rounded_otherwise(studio.start), run="").said == "reused 1-3"
    assert len(list(studio.root.iterdir())) == 1


def test_a_kept_start_takes_a_new_path_and_keeps_its_own_cameras_where_both_agree(studio, pack):
    studio.film()
    ours = rounded_otherwise(studio.start)
    turned = ours.cameras.cam2world.clone()
    turned[70:, 0, 3] += 0.5
    longer = replace(ours, cameras=replace(ours.cameras, cam2world=turned))
    said = studio.film(longer).said
    assert said == "reused 1-2, rendering 3 (changed: path of segment 3)"


def test_where_no_reason_can_be_told_the_loop_says_that(studio):
    studio.film()
    other = replace(studio.start, latents=(studio.start.latents[0] * 1.5,))
    assert "nothing in front of the loop has changed, yet it gives another start" in studio.film(other).said


def start_prompt(*, prefix="", preset="pan_right", image="room.jpg"):
    """The nodes of a film's start as the host gets them."""

    def node(class_type, **inputs):
        return {"class_type": class_type, "inputs": inputs}

    return {
        f"{prefix}1": node("LoadImage", image=image),
        f"{prefix}2": node("MirageCameraPath", preset=preset),
        f"{prefix}3": node("MirageSimpleDepth", image=[f"{prefix}1", 0], fov=60.0),
        f"{prefix}4": node("MirageInitLatentMemory", geometry=[f"{prefix}3", 0], path=[f"{prefix}2", 0]),
    }


@pytest.mark.parametrize(
    "changes, rounding, said",
    [
        ({"prefix": "8:"}, True, "reused 1-3"),
        ({"preset": "pan_left"}, True, "reused 1-3"),
        ({"image": "garden.jpg"}, True, "rendering 1-3 (changed: LoadImage image)"),
        ({"image": "copy_of_the_room.jpg"}, False, "reused 1-3"),
    ],
)
def test_a_start_is_known_by_its_graph_or_by_its_content(studio, pack, changes, rounding, said):
    graph = pytest.importorskip("comfy_execution.graph")
    for changed in ({}, changes):
        prompt = graph.DynamicPrompt(start_prompt(**changed))
        film = rounded_otherwise(studio.start) if changed and rounding else studio.start
        link = [f"{changed.get('prefix', '')}4", 0]
        start = pack("film_starts").film_start(film, prompt=prompt, link=link, root=studio.root, run="castle")
        told = studio.film_from(start).said
    assert told == said


def test_another_version_of_the_code_makes_every_segment_anew_and_says_so(studio, pack, monkeypatch):
    studio.film()
    monkeypatch.setattr(pack("conditions"), "_VERSION", "another")
    assert studio.film().said == "rendering 1-3 (changed: the version of Mirage)"
    monkeypatch.undo()
    assert studio.film().said == "reused 1-3", "and the film of the first version is there as it was"


def test_another_device_or_number_format_makes_every_segment_anew_and_says_so(studio, pack, monkeypatch):
    studio.film()
    monkeypatch.setattr(pack("conditions").args, "bf16_unet", True)
    assert studio.film().said == "rendering 1-3 (changed: the device or a number format of ComfyUI)"


def test_the_digest_of_the_code_knows_its_text_and_not_its_line_ends(pack, tmp_path):
    digests = []
    for text in (b"a = 1\n", b"a = 1\r\n", b"a = 2\n"):
        (tmp_path / "nodes").mkdir(exist_ok=True)
        (tmp_path / "nodes" / "one.py").write_bytes(text)
        digests.append(pack("conditions").code_digest(tmp_path))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "options, told",
    [
        ({"fp8_e4m3fn_unet": True, "fp16_vae": False, "port": 8188}, "cuda, fp8_e4m3fn_unet"),
        ({"use_sage_attention": True, "fast": {"fp16_matmul"}}, "cuda, fast fp16_matmul, use_sage_attention"),
        ({"lowvram": True, "fast": set()}, "cuda"),
    ],
)  # fmt: skip
def test_options_that_change_numbers_are_told_and_others_are_not(pack, options, told):
    assert pack("conditions").host_numbers("cuda", options) == told


class Disk:
    """A disk on which files of segments cannot be written while is_full; freeing lets it have room again."""

    def __init__(self, pack, monkeypatch):
        self.is_full, self.tries, self.error = False, 0, errno.ENOSPC
        store = pack("segment_store")
        real = store.write_segment

        def write(*arguments, **options):
            if self.is_full:
                self.tries += 1
                raise OSError(self.error, "No space left on device")
            return real(*arguments, **options)

        monkeypatch.setattr(store, "write_segment", write)


@pytest.fixture
def disk(pack, monkeypatch):
    return Disk(pack, monkeypatch)


def half_filmed(studio, disk, *, full):
    """A film during whose turns `full` (numbers from 0) the disk is full; what it says after each turn."""
    run = studio.run()
    run.begin()
    memory, said = run.memory, []
    for index in range(SEGMENTS):
        disk.is_full = index in full
        memory = run.keep(index, grown(memory, float(run.order.turns[index].seed)))
        said.append(run.report())
    run.finish()
    return said


def test_a_disk_that_has_room_again_gets_all_segments_as_if_nothing_had_been(studio, disk):
    undisturbed = studio.film()
    files = studio.files()
    for path in studio.root.glob("*/*"):
        path.unlink()
    said = half_filmed(studio, disk, full={0, 1})
    assert "cannot be kept in" in said[0] and "(No space left on device)" in said[0]
    assert "RAM only, lost when ComfyUI ends: 1-2." in said[1]
    assert "RAM only" not in said[2]
    assert studio.files() == files
    assert torch.equal(studio.film().memory.film, undisturbed.memory.film)


def test_on_a_full_disk_the_oldest_segments_of_others_go_first(studio, disk, pack, monkeypatch):
    loop_run, asked = pack("loop_run"), []

    def make_room(root, wanted, *, spared):
        asked.append(wanted)
        disk.is_full = False
        return 1

    monkeypatch.setattr(loop_run, "make_room", make_room)
    said = half_filmed(studio, disk, full={1})
    assert len(asked) == 1 and said[2] == "rendering 1-3"


def test_making_room_takes_only_what_is_wanted(films, pruning):
    films.add("one")
    films.add("two")
    wanted = films.bytes() // 4
    freed = pruning.make_room(films.root, wanted)
    assert wanted <= freed < 2 * wanted and len(films.names()) < 8


def test_a_disk_that_refuses_for_another_reason_costs_no_old_segments(studio, disk, pack, monkeypatch):
    disk.error = errno.EROFS
    monkeypatch.setattr(pack("loop_run"), "make_room", lambda *_, **__: pytest.fail("nothing is to be deleted"))
    assert "cannot be kept" in half_filmed(studio, disk, full={1})[1]


def test_segments_in_ram_have_a_bound_and_the_node_says_when_it_is_reached(studio, disk, pack, monkeypatch):
    monkeypatch.setattr(pack("loop_run"), "ram_limit", lambda: 10_000)
    said = half_filmed(studio, disk, full={1, 2})
    assert "take more than 0 GiB" in said[2] and "From segment 2 on nothing is kept" in said[2]
    assert pack("segments_in_ram").held_bytes() == 0
    assert studio.film().said.startswith("reused 1, rendering 2-3")


def test_what_segments_share_takes_ram_once(studio, pack):
    ram = pack("segments_in_ram")
    one = studio.start
    two = grown(one)
    assert ram.keep_in_ram("film", "a", one, limit_bytes=10**9)
    alone = ram.held_bytes()
    assert ram.keep_in_ram("film", "b", two, limit_bytes=10**9)
    assert 0 < ram.held_bytes() - alone < 4 * two.latents[1].nbytes
    for key in "ab":
        ram.forget_in_ram("film", key)
    assert ram.held_bytes() == 0


def test_a_film_is_marked_as_in_use_before_anything_is_written_or_deleted(studio, pack, monkeypatch):
    loop_run, marks = pack("loop_run"), []
    real = loop_run.prune
    monkeypatch.setattr(
        loop_run,
        "prune",
        lambda root, *a, **o: (marks.append(len(list(root.glob("*/.in_use*")))), real(root, *a, **o))[1],
    )
    run = studio.run()
    run.begin()
    run.finish()
    assert marks[0] == 1 and not list(studio.root.glob("*/.in_use*"))
