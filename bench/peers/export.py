"""Writes the model of an engine that cannot open the checkpoint: `python export.py SPEC`, in a process of its own.

SPEC is a JSON object: what, folder, cache, out, and what `what` needs.
"""
import json
import os
import pathlib
import sys

import torch
from transformers import FastVlmForConditionalGeneration, Qwen2ForCausalLM

import checkpoints
import peer_torch

PIXELS = torch.zeros(1, 3, 256, 256)


def main():
    # Only what is timed runs at real-time priority.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    spec = json.loads(sys.argv[1])
    for key in ("folder", "cache", "out"):
        spec[key] = pathlib.Path(spec[key])
    spec["out"].parent.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    writers = {"encoder": encoder, "encoder-onnx": encoder_onnx, "encoder-int8": encoder_int8, "llm": llm, "gguf": gguf,
               "clip": clip}
    writers[spec["what"]](spec)


def torch_encoder(spec):
    folder = checkpoints.fastvlm(spec["folder"], spec["cache"])
    return checkpoints.Encoder(checkpoints.open_whole(FastVlmForConditionalGeneration, folder, torch.float32))


def encoder_onnx(spec):
    torch.onnx.export(torch_encoder(spec), (PIXELS,), spec["out"], input_names=["pixels"], output_names=["tokens"],
                      dynamic_axes={"pixels": {2: "height", 3: "width"}}, opset_version=17, dynamo=False)


def save(model, out):
    """The XML and its weights, the XML last, which says that all is there."""
    import openvino
    temporary = out.with_name("part-" + out.name)
    openvino.save_model(model, temporary, compress_to_fp16=False)
    temporary.with_suffix(".bin").rename(out.with_suffix(".bin"))
    temporary.rename(out)


def encoder(spec):
    import openvino
    save(openvino.convert_model(torch_encoder(spec), example_input=PIXELS, input=[1, 3, -1, -1]), spec["out"])


def encoder_int8(spec):
    """Quantized after training, activations too; the ranges come from random pixels."""
    import nncf
    import openvino
    model = openvino.convert_model(torch_encoder(spec), example_input=PIXELS, input=[1, 3, -1, -1])
    pixels = nncf.Dataset([torch.rand(1, 3, 256, 256).numpy() for _ in range(2)])
    save(nncf.quantize(model, pixels, subset_size=2), spec["out"])


def clip(spec):
    import openvino
    model = peer_torch.open_clip_model(spec)
    inner = Tower(model, spec["unit"]["tower"])
    given = peer_torch.clip_input(spec["unit"])
    save(openvino.convert_model(inner, example_input=given, input=[-1, *given.shape[1:]]), spec["out"])


class Tower(torch.nn.Module):
    def __init__(self, model, tower):
        super().__init__()
        self.model, self.tower = model, tower

    def forward(self, given):
        encode = self.model.encode_image if self.tower == "image" else self.model.encode_text
        return encode(given, normalize=True)


class Cached(torch.nn.Module):
    """The language model with its cache as inputs and outputs, and the logits of the last position."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, positions, *past):
        from transformers.cache_utils import DynamicCache, DynamicLayer
        cache = DynamicCache()
        for keys, values in zip(past[::2], past[1::2]):
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            cache.layers.append(layer)
        ends = torch.arange(past[0].shape[2] + ids.shape[1])
        unseen = (ends[None, None, None, :] > positions[:, None, :, None]).float() * torch.finfo(torch.float32).min
        logits = self.model(input_ids=ids, attention_mask=unseen, position_ids=positions, past_key_values=cache,
                            use_cache=True, logits_to_keep=1).logits
        return logits, *(part for layer in cache.layers for part in (layer.keys, layer.values))


def gguf(spec):
    if spec["weights"] in ("bf16", "q4_0-all"):
        return checkpoints.gguf(spec["folder"], spec["out"], spec["cache"], spec["weights"].removesuffix("-all"))
    import peer_llama_cpp
    full = checkpoints.gguf(spec["folder"], spec["cache"] / "qwen2-bf16.gguf", spec["cache"], "bf16")
    checkpoints.once(spec["out"], lambda part: peer_llama_cpp.quantize(spec["npm"], full, spec["weights"], part))


def llm(spec):
    """Traced, the cache turned into state with a beam index, as openvino's own text generation expects it."""
    import nncf
    import numpy as np
    import openvino
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation
    folder = checkpoints.qwen2(spec["folder"], spec["cache"])
    model = checkpoints.open_whole(Qwen2ForCausalLM, folder, torch.float32)
    config = model.config
    heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    past = [torch.zeros(1, heads, 3, size) for _ in range(2 * config.num_hidden_layers)]
    example = (torch.ones(1, 2, dtype=torch.long), torch.tensor([[3, 4]]), *past)
    cache = openvino.PartialShape([-1, heads, -1, size])
    shapes = [openvino.PartialShape([-1, -1])] * 2 + [cache] * len(past)
    graph = openvino.convert_model(Cached(model), example_input=example)
    for given, shape in zip(graph.inputs, shapes):
        given.get_node().set_partial_shape(shape)
    graph.validate_nodes_and_infer_types()
    pairs = {}
    for i, (given, result) in enumerate(zip(graph.inputs[2:], graph.outputs[1:])):
        given.get_tensor().set_names({f"past.{i}"})
        result.get_tensor().set_names({f"present.{i}"})
        pairs[f"past.{i}"] = f"present.{i}"
    graph.inputs[0].get_tensor().set_names({"ids"})
    graph.inputs[1].get_tensor().set_names({"positions"})
    beam = op.parameter([-1], np.int32, name="beam")
    beam.output(0).get_tensor().set_names({"beam"})
    graph.add_parameters([beam])
    for given in graph.inputs[2:-1]:
        readers = given.get_target_inputs()
        chosen = op.gather(given, beam, op.constant(0))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)
    start_empty(graph, heads, size)
    if spec["weights"] == "int8":
        graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
    if spec["weights"] == "int4":
        graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32, all_layers=True)
    save(graph, spec["out"])


def start_empty(graph, heads, size):
    """The first value of each state: as many rows as there are prompts, and no position."""
    import numpy as np
    from openvino import opset13 as op
    ids = next(given for given in graph.inputs if "ids" in given.get_names())
    rows = op.gather(op.shape_of(ids, "i64"), op.constant([0]), op.constant(0))
    shape = op.concat([rows, op.constant(np.array([heads, 0, size], np.int64))], 0)
    empty = op.broadcast(op.constant(0.0, np.float32), shape)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty.output(0)])
    graph.validate_nodes_and_infer_types()


if __name__ == "__main__":
    main()
