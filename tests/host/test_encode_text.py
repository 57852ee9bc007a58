"""The text of a real base comes from a text encoder of the host. Here a tiny one: Wan's own has 11 GB."""

from __future__ import annotations

import importlib
import types

import pytest
import torch

from training.contexts import read_contexts
from training.encode_text import text_encoder, write_contexts

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


@pytest.fixture
def clip(host):
    sd1_clip = importlib.import_module("comfy.sd1_clip")
    target = types.SimpleNamespace(params={}, clip=sd1_clip.SD1ClipModel, tokenizer=sd1_clip.SD1Tokenizer)
    made = host.comfy.sd.CLIP(target, model_options={"clip_l_model_config": TINY})
    torch.manual_seed(0)
    for one in made.cond_stage_model.parameters():
        torch.nn.init.normal_(one, std=0.5)
    return made


def test_the_written_text_is_what_the_host_encodes(clip, tmp_path):
    write_contexts(tmp_path / "text.safetensors", clip, "a house")
    texts = read_contexts(tmp_path / "text.safetensors", 16)
    told, left_out = texts([(), None])
    for rows, said in ((told, "a house"), (left_out, "")):
        cond = clip.encode_from_tokens_scheduled(clip.tokenize(said))[0][0]
        assert torch.equal(rows, cond[0].float())
    assert not torch.equal(told, left_out)


def test_without_a_comfyui_or_an_encoder_it_says_what_to_give(host, tmp_path):
    with pytest.raises(FileNotFoundError, match="Give its folder as --comfyui"):
        text_encoder(tmp_path, "umt5.safetensors")
    root = importlib.import_module("folder_paths").base_path
    with pytest.raises(FileNotFoundError, match=r"no text encoder none\.safetensors"):
        text_encoder(type(tmp_path)(root), "none.safetensors")
