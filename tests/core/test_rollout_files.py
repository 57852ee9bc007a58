"""A film as files: nothing is lost, nothing is written twice, and a damaged or foreign file is one sentence."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from mirage_core.camera import pinhole_intrinsics
from mirage_core.latent_grid import WAN22
from mirage_core.latent_origin import LatentOrigin
from mirage_core.memory import LatentMemory, MemoryBlock, lift
from mirage_core.path_presets import preset
from mirage_core.rollout import Rollout, Shot
from mirage_core.rollout_files import (
    check_foreign,
    check_tensors,
    content_key,
    load_rollout,
    read_segment,
    write_once,
    write_segment,
)

SIZE, CELLS = (64, 96), (4, 6)


def started(frames=97, *, amount=0.4, seed=1):
    shot = Shot(preset("truck_right", amount=amount), frames, SIZE)
    cameras = shot.cameras(intrinsics=pinhole_intrinsics(60, SIZE), unit_length=4.0)
    latents = torch.randn(48, 1, *CELLS, generator=torch.Generator().manual_seed(seed))
    block = lift(latents, torch.full((1, *CELLS), 4.0), cameras[0], WAN22)
    return Rollout.started(LatentMemory.empty(WAN22).extended(block), latents, cameras, unit_length=4.0)


def filmed(rollout, seed=0):
    segment = rollout.next_segment
    latents = torch.randn(48, segment.latent_frames, *CELLS, generator=torch.Generator().manual_seed(seed))
    latents[:, :1] = rollout.overlap
    block = lift(latents[:, 1:], torch.full((segment.latent_frames - 1, *CELLS), 4.0),
                 rollout.cameras_of(segment)[list(range(1, segment.latent_frames))], WAN22)  # fmt: skip
    return rollout.extended(latents, rollout.view(segment), block, note=f"wrote {len(block)} points")


class Folder:
    """Segments in a folder, in the order they were written."""

    def __init__(self, path):
        self.path, self.files = path, {}

    def keep(self, rollout, before=None):
        key = f"{len(self.files):064x}"
        file = write_segment(
            self.path / f"segment_{len(self.files)}.json",
            rollout,
            key=key,
            previous=before.file.key if before else "",
            made_from={"seed": "1"},
            places=before.places if before else {},
            checksums={one: other.checksum for one, other in self.files.items()},
        )
        self.files[key] = file
        return load_rollout(file, file_of=self.files.__getitem__, before=before)

    def film(self, segments):
        """The film after so many segments, each made from the one before as it was loaded."""
        kept = [self.keep(started())]
        for index in range(segments):
            kept.append(self.keep(filmed(kept[-1].rollout, index), kept[-1]))
        return kept


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def assert_same(one, other, at="film"):
    assert type(one) is type(other), at
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other), at
    elif is_dataclass(one):
        for part in fields(one):
            assert_same(getattr(one, part.name), getattr(other, part.name), f"{at}.{part.name}")
    elif isinstance(one, tuple):
        assert len(one) == len(other), at
        for index, parts in enumerate(zip(one, other, strict=True)):
            assert_same(*parts, f"{at}.{index}")
    else:
        assert one == other, at


def test_every_field_comes_back_bit_for_bit(folder):
    rollout = filmed(filmed(started()))
    assert_same(folder.keep(rollout).rollout, rollout)


def test_a_film_written_segment_by_segment_is_the_film_written_at_once(folder):
    undisturbed = started()
    for index in range(3):
        undisturbed = filmed(undisturbed, index)
    assert_same(folder.film(3)[-1].rollout, undisturbed)


def test_a_film_is_read_back_without_what_was_in_memory(folder):
    kept = folder.film(3)
    files = {one.key: read_segment(one.path) for one in folder.files.values()}
    again = load_rollout(files[kept[-1].file.key], file_of=files.__getitem__)
    assert_same(again.rollout, kept[-1].rollout)


def test_a_segment_writes_only_what_is_new(folder):
    kept = folder.film(3)
    sizes = [one.file.tensors_path.stat().st_size for one in kept]
    assert sizes[1] == sizes[2] == sizes[3], "no segment carries the ones before it"
    new = kept[3].rollout
    delta = [new.latents[-1], *vars(new.last_view).values(), *vars(new.memory.blocks[-1]).values()]
    told = sum(one.numel() * one.element_size() for one in delta if isinstance(one, torch.Tensor))
    assert sizes[3] < told + 3000, "the tensors of the segment, and a header"


def test_what_two_segments_share_is_one_object_in_memory(folder):
    kept = folder.film(2)
    assert kept[2].rollout.memory.blocks[1] is kept[1].rollout.memory.blocks[1]
    assert kept[2].rollout.latents[1] is kept[1].rollout.latents[1]


def test_a_block_that_changes_one_field_writes_that_field_alone(folder):
    before = folder.film(1)[-1]
    memory = before.rollout.memory
    doubted = replace(memory.blocks[0], confidence=memory.blocks[0].confidence / 2)
    edited = replace(before.rollout, memory=LatentMemory(memory.grid, (doubted, *memory.blocks[1:])))
    after = folder.keep(edited, before)
    assert_same(after.rollout, edited)
    assert [name for key, name in after.tensors if key == after.file.key] == [".memory.blocks.0.confidence"]


def test_points_can_leave_the_memory(folder):
    before = folder.film(2)[-1]
    edited = replace(before.rollout, memory=LatentMemory(WAN22, before.rollout.memory.blocks[1:]))
    assert_same(folder.keep(edited, before).rollout, edited)


def test_the_content_key_does_not_know_where_the_path_goes_from_here():
    here = filmed(started(97))
    assert content_key(here) == content_key(filmed(started(97)))
    ahead = Shot(preset("pan_left", amount=20), 33, SIZE).cameras(
        intrinsics=here.cameras.intrinsics[0], unit_length=4.0
    )
    assert content_key(here.redirected(ahead)) == content_key(here)


def test_a_field_that_says_nothing_is_left_out(folder):
    told = folder.keep(started()).file.tree["fields"]
    assert "latents" in told and not {"last_view", "notes"} & told.keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda film: replace(film, unit_length=5.0),
        lambda film: replace(film, fps=24.0),
        lambda film: replace(film, notes=("another",)),
        lambda film: replace(film, latents=(*film.latents[:-1], film.latents[-1] * 2)),
        lambda film: replace(film, memory=LatentMemory.empty(WAN22)),
        lambda film: replace(film, cameras=started(97, amount=0.5).cameras),
    ],
)
def test_the_content_key_knows_everything_else(change):
    here = filmed(started())
    assert content_key(change(here)) != content_key(here)


def test_a_flipped_bit_is_found(folder):
    file = folder.film(1)[-1].file
    content = bytearray(file.tensors_path.read_bytes())
    content[-100] ^= 1
    file.tensors_path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its checksum"):
        check_tensors(file)


def test_a_missing_tensor_file_is_found(folder):
    file = folder.film(1)[-1].file
    file.tensors_path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        check_tensors(file)


def test_a_segment_on_top_of_another_version_of_the_one_before_is_refused(folder):
    kept = folder.film(2)
    other = replace(kept[1].file, checksum="0" * 64)
    with pytest.raises(ValueError, match="made on top of another"):
        load_rollout(kept[2].file, file_of=lambda key: other)


def test_the_first_to_write_a_file_wins(tmp_path):
    write_once(tmp_path / "one", b"first")
    write_once(tmp_path / "one", b"second")
    assert (tmp_path / "one").read_bytes() == b"first"
    assert [one.name for one in tmp_path.iterdir()] == ["one"]


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_once(tmp_path / "file" / "one", b"content")


def edited_json(change):
    def edit(path):
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))

    return edit


def deep(told):
    told["tree"] = []
    for _ in range(900):
        told["tree"] = [told["tree"]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(b"\x80\x04\x95pickle"),
        lambda path: path.write_bytes(b"[" * 100_000),
        lambda path: path.write_bytes(b"[1, 2]"),
        edited_json(lambda told: told.update(format="other")),
        edited_json(lambda told: told.update(version=99)),
        edited_json(lambda told: told.update(key="../../etc/passwd")),
        edited_json(lambda told: told.update(checksum="../../etc/passwd")),
        edited_json(lambda told: told.update(number=-1)),
        edited_json(lambda told: told.update(number="1")),
        edited_json(lambda told: told.update(needs={"a": 1})),
        edited_json(lambda told: told.update(made_from=7)),
        edited_json(lambda told: told.pop("tree")),
        edited_json(lambda told: told.update(tree={"tensor": "x"})),
        edited_json(lambda told: told.update(tree={"tensor": [1, 2]})),
        edited_json(deep),
        edited_json(lambda told: told.update(tree=None)),
        edited_json(lambda told: told["tree"].update(type="Popen")),
        edited_json(lambda told: told["tree"]["fields"].update(unheard_of=1)),
        edited_json(lambda told: told["tree"]["fields"].pop("memory")),
        edited_json(lambda told: told["tree"]["fields"].update(latents=[])),
        edited_json(lambda told: told["tree"]["fields"].update(memory="text")),
        edited_json(lambda told: told["tree"]["fields"].update(latents=7)),
        edited_json(lambda told: told["tree"]["fields"].update(plan=[{"range": [0, 5, 0]}])),
        edited_json(lambda told: told["tree"]["fields"]["latents"].pop()),
        edited_json(lambda told: told["tree"]["fields"]["latents"].append({"tensor": [told["key"], "not there"]})),
        edited_json(
            lambda told: told["tree"]["fields"]["latents"].append(
                told["tree"]["fields"]["last_view"]["fields"]["depth"]
            )
        ),
    ],
)
def test_a_damaged_or_hostile_description_is_one_sentence(folder, damage):
    file = folder.film(1)[-1].file
    damage(file.path)
    with pytest.raises(ValueError, match=r"^segment_1\.json (is no segment|cannot be used)") as told:
        load_rollout(read_segment(file.path), file_of=folder.files.__getitem__)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: (2**40).to_bytes(8, "little") + content[8:],
        lambda content: b"\x80\x04\x95pickle",
        lambda content: content.replace(b'"shape":[48,8,4,6]', b'"shape":[48,8,9,9]'),
    ],
)
def test_a_damaged_tensor_file_is_one_sentence(folder, damage):
    file = folder.film(1)[-1].file
    file.tensors_path.write_bytes(damage(file.tensors_path.read_bytes()))
    with pytest.raises(ValueError, match=r"^segment_1\.json cannot be used"):
        load_rollout(file, file_of=folder.files.__getitem__)


def field(name, change):
    """Change a field of the film in the description of a segment."""

    def edit(told):
        fields = told["tree"]["fields"]
        fields[name] = change(fields[name]) if callable(change) else change

    return edited_json(edit)


def planned(name, value):
    """Say something else of the film's first segment."""

    def edit(told):
        told["tree"]["fields"]["plan"][0]["fields"][name] = value

    return edited_json(edit)


def unscaled(told):
    """A memory on a grid that is not the film's."""
    told["tree"]["fields"]["grid"] = {"type": "LatentGrid", "fields": {"cell_rule": "corner"}}


def without_coverage(told):
    told["tree"]["fields"].pop("coverage")


def swapped(told):
    view = told["tree"]["fields"]["last_view"]["fields"]
    view["depth"], view["point_index"] = view["point_index"], view["depth"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (planned("target_frames", {"range": [0, 10**9, 1]}), "looks from other frames"),
        (planned("output", {"range": [0, 10**9, 1]}), "longer than its 97 cameras"),
        (planned("output", {"range": [0, 10**30, 1]}), "longer than its 97 cameras"),
        (planned("output", [0, 1]), "plan is not in order"),
        (planned("index", 5), "plan is not in order"),
        (planned("model_frames", 10**9), "plan makes 1000000000 frames"),
        (planned("model_frames", "33"), "plan makes '33' frames"),
        (field("plan", ["first", "second"]), "plan are no list of Segment"),
        (field("plan", lambda plan: plan[1:]), "plan is not in order"),
        (field("plan", lambda plan: plan[:0]), "1 finished segments of 0"),
        (field("fps", "x"), "fps and unit length are 'x'"),
        (field("fps", 0), "fps and unit length are 0"),
        (field("fps", 10**400), "fps and unit length are 1000"),
        (field("unit_length", -1), "fps and unit length"),
        (edited_json(without_coverage), "coverage is not that"),
        (field("coverage", []), "coverage is not that"),
        (field("coverage", ["x"]), "coverage are no list"),
        (field("coverage", [["x"] * 9]), "coverage lies outside"),
        (field("coverage", [[1.5] * 9]), "coverage lies outside"),
        (field("notes", [7]), "notes are no list of str"),
        (field("notes", ["one", "two", "three"]), "notes are more"),
        (field("notes", ["x" * 10**6]), "notes are more, or longer"),
        (field("last_view", "x"), "last view is none of"),
        (field("last_view", {"range": [0, 9, 1]}), "last view is none of"),
        (edited_json(swapped), "last view is not one picture per latent frame"),
        (field("depth_fit", ["x", 1]), "depth fit is not"),
        (field("depth_fit", [1.0]), "depth fit is not"),
        (field("movers", "x"), "movers are no MoverLayer"),
        (field("origin", "Wan22"), "origin are no LatentOrigin"),
        (field("origin", {"type": "LatentOrigin", "fields": {"vae": ["x"]}}), "origin of its latents"),
        (edited_json(unscaled), "another latent grid"),
    ],
)
def test_a_film_that_no_run_could_have_made_is_refused(folder, damage, reason):
    file = folder.film(1)[-1].file
    damage(file.path)
    with pytest.raises(ValueError, match=rf"^segment_1\.json cannot be used .*{reason}"):
        load_rollout(read_segment(file.path), file_of=folder.files.__getitem__)


def test_a_path_that_was_changed_on_the_way_is_still_read(folder):
    here = filmed(started(97))
    ahead = Shot(preset("pan_left", amount=20), 33, SIZE).cameras(
        intrinsics=here.cameras.intrinsics[0], unit_length=4.0
    )
    forked = filmed(here.redirected(ahead))
    assert_same(folder.keep(forked).rollout, forked)
    still = here.redirected(ahead[:1])
    assert_same(folder.keep(still).rollout, still)


def with_block(rollout, **values):
    block = replace(rollout.memory.blocks[0], **values)
    return replace(rollout, memory=LatentMemory(WAN22, (block, *rollout.memory.blocks[1:])))


COUNT = CELLS[0] * CELLS[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda film: replace(film, latents=(film.latents[0] * torch.nan,)), "latents of segment 0 contain NaN"),
        (lambda film: with_block(film, points=torch.full((COUNT, 3), 1e20)), "points are larger than any scene"),
        (lambda film: with_block(film, confidence=torch.full((COUNT,), 7.0)), "confidence lies outside of 0 to 1"),
        (lambda film: with_block(film, latent_index=torch.full((COUNT,), 2**31 - 1)), "numbers of no film"),
        (lambda film: with_block(film, latent_index=torch.full((COUNT,), 1)), "not filmed yet"),
    ],
)
def test_numbers_that_no_film_has_are_refused_from_elsewhere(folder, change, reason):
    rollout = started()
    check_foreign(folder.keep(rollout))
    with pytest.raises(ValueError, match=rf"^segment_1\.json cannot be used .*{reason}"):
        check_foreign(folder.keep(change(rollout)))


@pytest.mark.parametrize(
    "values",
    [
        {"latent_index": torch.zeros(COUNT, dtype=torch.bool)},
        {"latents": torch.zeros(COUNT, 48, dtype=torch.int8)},
        {"is_locked": torch.zeros(COUNT)},
    ],
)
def test_points_of_another_kind_of_number_are_refused(folder, values):
    with pytest.raises(ValueError, match="are stored as"):
        folder.keep(with_block(started(), **values))


def test_points_that_are_mostly_hole_are_not_looked_at(folder):
    kept = folder.keep(started())
    count = 10**11
    block = MemoryBlock(
        points=torch.zeros(1, 1).expand(count, 3),
        latents=torch.zeros(1, 1).expand(count, 48),
        latent_index=torch.zeros(1, dtype=torch.int32).expand(count),
        confidence=torch.zeros(1).expand(count),
        footprints=torch.zeros(1).expand(count),
        sides=torch.zeros(1, 1, 1).expand(count, 2, 3),
    )
    huge = replace(kept.rollout, memory=LatentMemory(WAN22, (block,)))
    with pytest.raises(ValueError, match="GiB of memory and this machine has"):
        check_foreign(replace(kept, rollout=huge))


def test_the_origin_of_latents_comes_back_and_older_films_keep_their_key(folder):
    rollout = started()
    told = replace(rollout, origin=LatentOrigin("Wan22", (0.25,)))
    assert folder.keep(told).rollout.origin == told.origin
    assert content_key(told) == content_key(rollout)
    assert "origin" not in folder.keep(rollout).file.tree["fields"]
