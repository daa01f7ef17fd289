"""The random checkpoint of `ocelli synth fastvlm-0.5b`, in the layouts that the peers open: the same weights for all.

Each function returns a folder or file, below `cache` unless told, and writes it when it is not there yet.
"""
import json
import re
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from timm.models.fastvit import checkpoint_filter_fn
from transformers import FastVlmConfig, Qwen2Config

TOWER = "model.vision_tower.vision_tower.model."
TEXT_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id", "tie_word_embeddings")


def once(path, write):
    """`path`, which `write(temporary)` makes unless it is there; half-written ones are never taken."""
    if path.exists():
        return path
    temporary = path.with_name(path.name + ".part")
    if temporary.is_dir():
        shutil.rmtree(temporary)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(temporary)
    temporary.rename(path)
    return path


def source(folder):
    """Apple's config and tensors."""
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(shard))
    return json.loads((folder / "config.json").read_text()), tensors


def text_config(apple):
    return {key: apple[key] for key in TEXT_KEYS} | {
        "model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": apple["rope_theta"]}}


def write_transformers(config, tensors, folder):
    folder.mkdir()
    config.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def fastvlm(folder, cache):
    """Folder that FastVlmForConditionalGeneration opens."""
    def write(temporary):
        apple, tensors = source(folder)
        config = FastVlmConfig(
            vision_config=dict(model_type="timm_wrapper", architecture="fastvit_mci3", do_pooling=True,
                               global_pool="avg", hidden_size=3072, model_args=dict(inference_mode=True)),
            text_config=text_config(apple), image_token_index=apple["vocab_size"] - 1, image_seq_length=256,
            tie_word_embeddings=True)
        state = {}
        for name, value in tower_state(tensors).items():
            state["model.vision_tower.timm_model." + name] = value
        for name, value in tensors.items():
            if name.startswith("model.mm_projector."):
                ours, part = name.split(".")[2:]
                state[f"model.multi_modal_projector.linear_{ {'0': 1, '2': 2}[ours] }.{part}"] = value
            elif not name.startswith("model.vision_tower."):
                state[name.replace("model.", "model.language_model.", 1)] = value
        write_transformers(config, state, temporary)
    return once(cache / "fastvlm", write)


def tower_state(tensors):
    """Apple's names to timm's, whose own filter knows no folded kernels. The head is not used here."""
    apple = {name.removeprefix(TOWER): value for name, value in tensors.items() if name.startswith(TOWER)}
    apple.pop("head.proj", None)
    named = checkpoint_filter_fn(apple, None)

    def folded(name):
        name = name.replace("lkb_reparam", "reparam_conv")
        return re.sub(r"^(stages\.\d+)\.blocks\.reparam_conv", r"\1.pos_emb.reparam_conv", name)
    return {folded(name): value for name, value in named.items()}


def qwen2(folder, cache):
    """Folder that Qwen2ForCausalLM opens: the language model alone."""
    def write(temporary):
        apple, tensors = source(folder)
        others = ("model.vision_tower.", "model.mm_projector.")
        state = {name: value for name, value in tensors.items() if not name.startswith(others)}
        write_transformers(Qwen2Config(**text_config(apple)), state, temporary)
    return once(cache / "qwen2", write)


def open_whole(kind, folder, dtype):
    """A transformers model; refuses a checkpoint that lacks a tensor or has one too many."""
    model, report = kind.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True)
    wrong = {key: sorted(report[key])[:5] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
    wrong = {key: names for key, names in wrong.items() if not all("num_batches_tracked" in str(n) for n in names)}
    if wrong:
        raise ValueError(f"{folder}: {wrong}")
    return model.eval()


def gguf(folder, path, cache, quant):
    """The language model for llama.cpp; all matrices, the embedding (which is the head too) among them, of one type."""
    import gguf as gg
    kind = getattr(gg.GGMLQuantizationType, quant.upper())

    def write(temporary):
        config = json.loads((qwen2(folder, cache) / "config.json").read_text())
        out = gg.GGUFWriter(str(temporary), "qwen2")
        out.add_context_length(config["max_position_embeddings"])
        out.add_embedding_length(config["hidden_size"])
        out.add_block_count(config["num_hidden_layers"])
        out.add_feed_forward_length(config["intermediate_size"])
        out.add_head_count(config["num_attention_heads"])
        out.add_head_count_kv(config["num_key_value_heads"])
        out.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        out.add_layer_norm_rms_eps(config["rms_norm_eps"])
        out.add_vocab_size(config["vocab_size"])
        out.add_tokenizer_model("none")
        out.add_file_type(getattr(gg.LlamaFileType, {"bf16": "MOSTLY_BF16", "q4_0": "MOSTLY_Q4_0"}[quant]))
        for name, value in load_file(qwen2(folder, cache) / "model.safetensors").items():
            value = value.float().numpy()
            if value.ndim == 2:
                out.add_tensor(gguf_name(name), gg.quants.quantize(value, kind), raw_dtype=kind)
            else:
                out.add_tensor(gguf_name(name), value.astype(np.float32))
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()
    return once(path, write)


def gguf_name(name):
    """transformers' name of a tensor to llama.cpp's."""
    name = name.removeprefix("model.").replace("layers.", "blk.")
    for theirs, llama in (
            ("embed_tokens", "token_embd"), ("self_attn.o_proj", "attn_output"), ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"), ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v")):
        name = name.replace(theirs, llama)
    return "output_norm.weight" if name == "norm.weight" else name


class Encoder(torch.nn.Module):
    """Vision tower and projector: pixels `[1, 3, side, side]` in 0..1 to visual tokens `[1, tokens, hidden]`."""

    def __init__(self, model):
        super().__init__()
        self.tower = model.model.vision_tower.timm_model
        self.projector = model.model.multi_modal_projector

    def forward(self, pixels):
        return self.projector(self.tower.forward_features(pixels).flatten(2).transpose(1, 2))
