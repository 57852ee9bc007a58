"""Checkpoints: what each file is taken for, and what is refused with which sentence."""

from __future__ import annotations

import json
import pickle
import struct
from math import prod

import pytest
import torch

from mirage_core.branch_files import branch_file, branch_shapes
from mirage_core.lora_files import lora_file
from mirage_core.weights import Stated, stated_in

WIDTH, FFN = 256, 384


def branch_tensors(*, blocks=2, channels=96, width=WIDTH, ffn=FFN, prefix=""):
    return {prefix + name: shape for name, shape in branch_shapes(blocks, channels, width, ffn).items()}


def lora_tensors(*, prefix="", infix="", rank=4, blocks=2, down="lora_A", up="lora_B", has_alpha=False):
    tensors = {}
    for block in range(blocks):
        for part in "qkvo":
            module = f"{prefix}blocks.{block}.self_attn.{part}"
            tensors[f"{module}.{down}{infix}.weight"] = (rank, WIDTH)
            tensors[f"{module}.{up}{infix}.weight"] = (WIDTH, rank)
            if has_alpha:
                tensors[f"{module}.alpha"] = ()
    return tensors


def write_file(path, shapes, metadata=None):
    """A safetensors file with these tensors, one byte per number, all zero and none of them on disk (a sparse file)."""
    header, size = {"__metadata__": metadata or {}}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F8_E4M3", "shape": shape, "data_offsets": [size, size + prod(shape)]}
        size += prod(shape)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    return path


@pytest.fixture
def written(tmp_path):
    return lambda shapes, name="branch.safetensors", metadata=None: write_file(tmp_path / name, shapes, metadata)


@pytest.mark.parametrize("prefix", ["", "vace.", "pipe.vace.", "module.", "model.", "module.model.pipe.vace."])
def test_a_branch_of_every_naming_is_found(written, prefix):
    found = branch_file(written(branch_tensors(prefix=prefix)), layout="white_latent")
    assert set(found.names.values()) == set(branch_tensors())
    assert (found.blocks, found.channels, found.width, found.ffn_width, found.heads) == (2, 96, WIDTH, FFN, 2)


@pytest.mark.parametrize(("channels", "layout"), [(48, "view"), (49, "hole_mask")])
def test_layout_follows_from_the_channels_where_it_is_certain(written, channels, layout):
    assert branch_file(written(branch_tensors(channels=channels))).layout == layout


def test_spatia_is_known_by_its_file_name_and_reads_a_hole_map(written):
    found = branch_file(written(branch_tensors(), "control_weight_8500.safetensors"))
    assert found.layout == "hole_map"
    assert "96 channels (48 view + 48 hole map)" in found.words() and "Spatia naming" in found.words()


def test_spatias_lora_is_known_by_its_file_name_and_only_continues(written):
    found = lora_file(written(lora_tensors(prefix="pipe.dit."), "lora_weights_10000.safetensors"))
    assert found.only_continues and "acts from the second segment on" in found.words()
    assert not lora_file(written(lora_tensors(prefix="pipe.dit."), "step_100_lora.safetensors")).only_continues


def test_96_channels_without_a_hint_ask_for_the_layout(written):
    with pytest.raises(ValueError, match=r"does not say what the second half is. Choose the channel layout"):
        branch_file(written(branch_tensors()))


def test_the_chosen_layout_must_have_the_files_channels(written):
    with pytest.raises(ValueError, match="takes 96 channels; the layout '48 view' has 48"):
        branch_file(written(branch_tensors()), layout="view")


def test_other_channel_counts_are_refused(written):
    with pytest.raises(ValueError, match="takes 32 channels; side branches for 48-channel latents take 48, 49, 96"):
        branch_file(written(branch_tensors(channels=32)))


def test_metadata_comes_back_as_it_was_written():
    stated = Stated("hole_map", "center", "target_preceding_ref", (704, 1280), (0, 4, 8), 24, 32.0, 1.5, 0.05)
    assert stated_in(stated.to_metadata(), "file") == stated


def test_metadata_decides_layout_order_cells_layers_and_heads(written):
    stated = Stated("white_latent", "center", "target_preceding_ref", (704, 1280), (0, 3), 4)
    found = branch_file(written(branch_tensors(), metadata=stated.to_metadata()))
    assert (found.layout, found.cell_rule, found.token_order) == ("white_latent", "center", "target_preceding_ref")
    assert found.heads == 4 and found.layers(WIDTH, 4) == (0, 3)
    assert "trained at 704x1280" in found.words()


@pytest.mark.parametrize(("entry", "value"), [("layout", "sideways"), ("layers", "0,four"), ("token_order", "ref")])
def test_metadata_of_another_version_is_refused(written, entry, value):
    with pytest.raises(ValueError, match=f"states mirage.{entry} = '{value}', which this version cannot read"):
        branch_file(written(branch_tensors(), metadata={f"mirage.{entry}": value}))


@pytest.mark.parametrize(
    ("blocks", "layers", "expected"),
    [
        (8, 30, tuple(range(0, 30, 4))),
        (15, 30, tuple(range(0, 30, 2))),
        (8, 40, tuple(range(0, 40, 5))),
        (2, 4, (0, 2)),
    ],
)
def test_blocks_spread_over_the_layers_as_trained(written, blocks, layers, expected):
    found = branch_file(written(branch_tensors(blocks=blocks)), layout="white_latent")
    assert found.layers(WIDTH, layers) == expected


@pytest.mark.parametrize("blocks", [7, 9, 14, 16])
def test_a_block_too_few_or_too_many_is_refused(written, blocks):
    found = branch_file(written(branch_tensors(blocks=blocks)), layout="white_latent")
    with pytest.raises(ValueError, match=f"has {blocks} blocks, which do not spread evenly over the model's 30 layers"):
        found.layers(WIDTH, 30)


def test_a_branch_for_a_14b_model_names_both_models(written):
    found = branch_file(written(branch_tensors(blocks=8, width=5120, ffn=8)), layout="white_latent")
    with pytest.raises(
        ValueError, match=r"5120 wide and belongs to Wan 14B; the connected model is 3072 wide \(Wan2.2 TI2V"
    ):
        found.layers(3072, 30)


def test_a_width_that_does_not_tell_the_heads_needs_metadata(written):
    with pytest.raises(ValueError, match=r"96 wide, no multiple of 128; its metadata must state mirage.heads"):
        branch_file(written(branch_tensors(width=96)), layout="white_latent")


def without(tensors, *words):
    return {name: tensor for name, tensor in tensors.items() if not any(word in name for word in words)}


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        (without(branch_tensors(blocks=3), "vace_blocks.1."), "lacks block 1 of the blocks 0 to 2"),
        (without(branch_tensors(), "1.norm3.bias"), "1 of 62 tensors are missing .first: vace_blocks.1.norm3.bias"),
        (without(branch_tensors(), "embedding"), "has no vace_patch_embedding.weight"),
        (without(branch_tensors(), "vace_blocks"), r"has no vace_blocks.\* tensors"),
        ({**branch_tensors(), "vace_blocks.0.gate": (1,)}, "1 tensors a side branch does not have"),
        ({**branch_tensors(), "optimizer.step": (1,)}, "1 tensors of 63 that are no part of a side branch"),
        ({**branch_tensors(), "vace_blocks.1.ffn.0.bias": (7,)}, r"1 of 62 tensors have another shape"),
        ({**branch_tensors(), **branch_tensors(prefix="vace.")}, "some tensors twice"),
        (lora_tensors(), "this is a LoRA: use the LoRA input"),
        ({"blocks.0.ffn.0.bias": (4,), "head.modulation": (4,)}, "this is a whole Wan model"),
        ({"conv.weight": (4,)}, "it is no side branch that Mirage knows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_or_foreign_branch_is_refused_with_its_own_sentence(written, damaged, sentence):
    with pytest.raises(ValueError, match=sentence):
        branch_file(written(damaged), layout="white_latent")


@pytest.mark.parametrize("read", [branch_file, lora_file])
def test_files_that_are_no_safetensors_are_refused(tmp_path, read):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights.safetensors is empty"):
        read(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"is a PyTorch pickle under a .safetensors name"):
        read(path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"is a PyTorch pickle under a .safetensors name"):
        read(path)
    write_file(path, branch_tensors())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        read(path)
    write_file(path, {})
    with pytest.raises(ValueError, match="contains no tensors"):
        read(path)


@pytest.mark.parametrize(
    "naming",
    [
        {"prefix": "pipe.dit."},
        {"prefix": "dit."},
        {"prefix": "base_model.model.", "infix": ".default"},
        {"prefix": "module.model."},
        {"prefix": "diffusion_model."},
        {"down": "lora_down", "up": "lora_up"},
        {},
    ],
    ids=str,
)
def test_a_lora_of_every_naming_is_found(written, naming):
    found = lora_file(written(lora_tensors(**naming)))
    assert set(found.names.values()) == set(lora_tensors())
    assert found.ranks == (4,) and found.width == WIDTH and len(found.modules) == 8


def test_a_kohya_lora_is_found(written):
    tensors = {}
    for name, tensor in lora_tensors(down="lora_down", up="lora_up").items():
        module, rest = name.split(".lora_")
        tensors[f"lora_unet_{module.replace('.', '_')}.lora_{rest}"] = tensor
    assert set(lora_file(written(tensors)).names.values()) == set(lora_tensors())


def test_alpha_tensors_are_kept_and_metadata_alpha_scales(written):
    assert lora_file(written(lora_tensors(has_alpha=True))).has_alpha
    assert lora_file(written(lora_tensors(has_alpha=True))).strength == 1  # the host divides by the rank itself
    assert lora_file(written(lora_tensors(rank=64), metadata=Stated(lora_alpha=32).to_metadata())).strength == 0.5
    assert lora_file(written(lora_tensors(rank=64))).strength == 1


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        (
            without(lora_tensors(), "1.self_attn.v.lora_B"),
            "half a LoRA: 1 of 8 modules lack lora_A or lora_B .first: blocks.1.self_attn.v",
        ),
        (without(lora_tensors(), "lora_B"), "half a LoRA: 8 of 8"),
        (without(lora_tensors(has_alpha=True), "0.self_attn.q.lora"), "half a LoRA"),
        ({**lora_tensors(), "blocks.0.self_attn.q.lora_B.weight": (WIDTH, 5)}, "do not fit together"),
        ({**lora_tensors(), "blocks.0.norm.weight": (1,)}, "1 tensors of 17 that are no LoRA of the model"),
        ({**lora_tensors(), **lora_tensors(prefix="pipe.dit.")}, "16 LoRA tensors twice"),
        ({f"vace_{name}": tensor for name, tensor in lora_tensors().items()}, "that are no LoRA of the model"),
        (branch_tensors(), "this looks like a side branch: use the side branch input"),
        ({"conv.weight": (4,)}, "this is no LoRA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_or_foreign_lora_is_refused_with_its_own_sentence(written, damaged, sentence):
    with pytest.raises(ValueError, match=sentence):
        lora_file(written(damaged))


def test_the_words_say_what_was_found(written):
    stated = Stated(layers=tuple(range(0, 30, 4)))
    words = branch_file(written(branch_tensors(blocks=8, channels=49), metadata=stated.to_metadata())).words()
    assert words.startswith("side branch: 8 blocks on layers 0,4,..,28; 49 channels (48 view + 1 hole mask)")
    assert "rank 4 on k, o, q, v of 2 blocks; 8 modules; no alpha" in lora_file(written(lora_tensors())).words()


@pytest.mark.parametrize(("length", "blocks"), [(0x480, 1), (0x4B50, 20)])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path, length, blocks):
    path = write_file(tmp_path / "lora.safetensors", lora_tensors(blocks=blocks))
    raw = path.read_bytes()
    own = struct.unpack("<Q", raw[:8])[0]
    path.write_bytes(struct.pack("<Q", length) + raw[8 : 8 + own].ljust(length) + raw[8 + own :])
    assert path.read_bytes()[:2] in (b"\x80\x04", b"PK")
    assert lora_file(path).ranks == (4,)


@pytest.mark.parametrize("alpha", ["nan", "-1", "0", "inf", "9" * 5000])
def test_a_lora_that_states_a_senseless_alpha_is_refused_in_few_words(written, alpha):
    with pytest.raises(ValueError, match=r"states mirage\.lora_alpha") as refused:
        lora_file(written(lora_tensors(), metadata={"mirage.lora_alpha": alpha}))
    assert len(str(refused.value)) < 300
