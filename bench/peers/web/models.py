"""Writes what the page loads for ONNX Runtime, and checkpoints cut to fewer layers: `python models.py SPEC`.

SPEC is a JSON object: what, folder (the checkpoint), cache (converted ones), out (what is written), and what `what` needs.
All have the checkpoint's own weights. The language model is written op by op with the fused operators that ONNX
Runtime's own builders use, so that it is as quick as it can be, and compared with transformers' answer.
"""
import json
import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

import checkpoints
import export
import peer_torch

BLOCK = 32
DOMAIN = "com.microsoft"
TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}
# Root mean square of how logits differ from those of transformers, by their standard deviation. Random weights suffer
# more from coarse types than trained ones; logits of a wrong graph differ by 1.4.
TOLERANCE = {"f32": 1e-4, "int8": 0.3, "q4": 0.7}


def main():
    spec = json.loads(sys.argv[1])
    for key in ("folder", "cache", "out"):
        spec[key] = pathlib.Path(spec[key])
    torch.set_grad_enabled(False)
    writers = {"clip": clip, "encoder": encoder, "decoder": decoder, "cut": cut}
    checkpoints.once(spec["out"], lambda part: (part.mkdir(parents=True), writers[spec["what"]](spec, part)))


def clip(spec, out):
    """The image tower, its embedding of length 1."""
    model = export.Tower(peer_torch.open_clip_model(spec), "image")
    pixels = torch.zeros(1, 3, spec["side"], spec["side"])
    torch.onnx.export(model, (pixels,), out / "model.onnx", input_names=["pixels"], output_names=["embedding"],
                      opset_version=17, dynamo=False)
    describe(out, 1)


def encoder(spec, out):
    """FastViTHD and projector."""
    pixels = torch.zeros(1, 3, spec["side"], spec["side"])
    torch.onnx.export(export.torch_encoder(spec), (pixels,), out / "model.onnx", input_names=["pixels"],
                      output_names=["tokens"], opset_version=17, dynamo=False)
    describe(out, 1)


def cut(spec, out):
    """The checkpoint with its first layers alone."""
    layers = spec["layers"]
    config, tensors = checkpoints.source(spec["folder"])
    kept = {name: value for name, value in tensors.items()
            if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers}
    for path in spec["folder"].iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, out)
    config.update(num_hidden_layers=layers, max_window_layers=layers)
    (out / "config.json").write_text(json.dumps(config))
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})


def describe(out, inputs, **more):
    """What the page reads first."""
    names = sorted(path.name for path in out.iterdir())
    (out / "index.json").write_text(json.dumps({"files": names, "inputs": inputs, **more}))


class Graph:
    """A model that grows op by op. Weights go into one file beside it, which the page can load piece by piece."""

    def __init__(self, kind):
        self.kind, self.nodes, self.weights, self.data, self.bytes = kind, [], [], [], 0

    def op(self, op_type, inputs, outputs=1, domain=DOMAIN, **attributes):
        names = [f"{op_type}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, name, array):
        array = np.ascontiguousarray(array)
        tensor = TensorProto(name=name, data_type=TYPES[array.dtype.name], dims=array.shape)
        if array.nbytes < 1024:
            tensor.raw_data = array.tobytes()
        else:
            place = {"location": "weights.bin", "offset": self.bytes, "length": array.nbytes}
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in place.items())
            self.data.append(array)
            self.bytes += array.nbytes
        self.weights.append(tensor)
        return name

    def linear(self, name, x, weight, bias=None):
        """`x W^T + bias` with `W` in the type of the model: f32, 8 bits a column, or 4 bits a block of 32."""
        columns, depth = weight.shape
        named = [self.constant(name + ".bias", bias)] if bias is not None else []
        if self.kind == "int8":
            codes, scale = quantized(weight, 127)
            zero = self.constant(name + ".zero", np.zeros(columns, np.int8))
            given = [self.constant(name + ".codes", codes.T), self.constant(name + ".scale", scale[:, 0]), zero]
            return self.op("DynamicQuantizeMatMul", [x, *given, *named])
        if self.kind == "q4":
            codes, scale = quantized(weight.reshape(columns, depth // BLOCK, BLOCK), 7)
            codes = (codes + 8).astype(np.uint8)
            given = [self.constant(name + ".codes", codes[..., ::2] | codes[..., 1::2] << 4),
                     self.constant(name + ".scale", scale[..., 0])]
            y = self.op("MatMulNBits", [x, *given], K=depth, N=columns, bits=4, block_size=BLOCK, accuracy_level=4)
        else:
            y = self.op("MatMul", [x, self.constant(name, weight.T)], domain="")
        return self.op("Add", [y, *named], domain="") if named else y

    def embedding(self, ids, table):
        if self.kind == "f32":
            return self.op("Gather", [self.constant("table", table), ids], domain="")
        codes, scale = quantized(table, 127)
        rows = self.op("Gather", [self.constant("table", codes), ids], domain="")
        scales = self.op("Gather", [self.constant("table.scale", scale), ids], domain="")
        return self.op("Mul", [self.op("Cast", [rows], domain="", to=TensorProto.FLOAT), scales], domain="")

    def save(self, out, inputs, outputs):
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.weights)
        imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
        (out / "model.onnx").write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
        with (out / "weights.bin").open("wb") as file:
            for array in self.data:
                file.write(array.tobytes())


def quantized(values, most):
    """Whole numbers and their scales along the last axis."""
    scale = np.abs(values).max(-1, keepdims=True) / most
    return np.rint(values / np.maximum(scale, 1e-30)).astype(np.int8), scale.astype(np.float32)


def decoder(spec, out):
    """Qwen2 with its cache as inputs and outputs, and the logits of the last position."""
    folder = checkpoints.qwen2(spec["folder"], spec["cache"])
    config = json.loads((folder / "config.json").read_text())
    tensors = {name.removeprefix("model."): value.float().numpy()
               for name, value in load_file(folder / "model.safetensors").items()}
    graph, sizes = Graph(spec["weights"]), sizes_of(config)
    inputs, outputs = decoder_ports(sizes)
    hidden = graph.embedding("ids", tensors["embed_tokens.weight"])
    total, skip = None, graph.op("SimplifiedLayerNormalization", [
        hidden, graph.constant("first_norm", tensors["layers.0.input_layernorm.weight"])], domain="",
        axis=-1, epsilon=config["rms_norm_eps"])
    total = hidden
    cos, sin = angles(graph, sizes, config["rope_parameters"]["rope_theta"])
    for layer in range(sizes["layers"]):
        at = f"layers.{layer}."
        parts = [tensors[f"{at}self_attn.{part}_proj.{kind}"] for kind in ("weight", "bias") for part in "qkv"]
        qkv = graph.linear(at + "qkv", skip, np.concatenate(parts[:3]), np.concatenate(parts[3:]))
        attended, *present = attention(graph, layer, qkv, cos, sin, sizes)
        for name, value in zip(("key", "value"), present):
            graph.nodes.append(helper.make_node("Identity", [value], [f"present.{layer}.{name}"]))
        out_proj = graph.linear(at + "o", attended, tensors[at + "self_attn.o_proj.weight"])
        normed, total = add_norm(graph, at + "norm", out_proj, total, tensors[at + "post_attention_layernorm.weight"], config)
        both = graph.linear(at + "up", normed, np.concatenate(
            [tensors[at + "mlp.gate_proj.weight"], tensors[at + "mlp.up_proj.weight"]]))
        gate, up = graph.op("Split", [both], 2, domain="", axis=-1)
        active = graph.op("Mul", [graph.op("QuickGelu", [gate], alpha=1.0), up], domain="")
        down = graph.linear(at + "down", active, tensors[at + "mlp.down_proj.weight"])
        last = layer + 1 == sizes["layers"]
        weight = tensors["norm.weight" if last else f"layers.{layer + 1}.input_layernorm.weight"]
        skip, total = add_norm(graph, at + "next", down, total, weight, config)
    ends = graph.constant("last", np.array([-1], np.int64))
    final = graph.op("Gather", [skip, ends], domain="", axis=1)
    head = graph.linear("head", final, tensors["embed_tokens.weight"])
    graph.nodes.append(helper.make_node("Identity", [head], ["logits"]))
    graph.save(out, inputs, outputs)
    ids = tokens(spec)
    describe(out, 1, ids=ids, **sizes, error=compare(out, folder, ids, sizes, TOLERANCE[spec["weights"]]))


def sizes_of(config):
    heads = config["num_attention_heads"]
    return {"layers": config["num_hidden_layers"], "heads": heads, "kv_heads": config["num_key_value_heads"],
            "head_size": config["hidden_size"] // heads, "vocabulary": config["vocab_size"]}


def decoder_ports(sizes):
    kv, size = sizes["kv_heads"], sizes["head_size"]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "positions"]),
              helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
              helper.make_tensor_value_info("total", TensorProto.INT32, [])]
    inputs[1].name = "last_position"
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, sizes["vocabulary"]])]
    for layer in range(sizes["layers"]):
        for part in ("key", "value"):
            for ports, name, length in ((inputs, "past", "past"), (outputs, "present", "all")):
                ports.append(helper.make_tensor_value_info(f"{name}.{layer}.{part}", TensorProto.FLOAT, [1, kv, length, size]))
    return inputs, outputs


def angles(graph, sizes, theta, positions=1024):
    """Cosines and sines of rotary positions, `[positions, head_size / 2]`."""
    half = sizes["head_size"] // 2
    turns = np.arange(positions)[:, None] * theta ** (-np.arange(half) / half)
    return (graph.constant("cos", np.cos(turns).astype(np.float32)), graph.constant("sin", np.sin(turns).astype(np.float32)))


def attention(graph, layer, qkv, cos, sin, sizes):
    past = [f"past.{layer}.key", f"past.{layer}.value"]
    return graph.op("GroupQueryAttention", [qkv, "", "", *past, "last_position", "total", cos, sin], 3,
                    num_heads=sizes["heads"], kv_num_heads=sizes["kv_heads"], do_rotary=1, rotary_interleaved=0)


def add_norm(graph, name, x, total, weight, config):
    """The sum normalized, and the sum."""
    names = [f"{name}.normed", "", "", f"{name}.sum"]
    given = [x, total, graph.constant(name + ".weight", weight)]
    graph.nodes.append(helper.make_node("SkipSimplifiedLayerNormalization", given, names, domain=DOMAIN,
                                        epsilon=config["rms_norm_eps"]))
    return names[0], names[3]


def tokens(spec):
    """Ids of the prompt that Ocelli makes of the question."""
    from tokenizers import Tokenizer
    text = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{spec['question']}<|im_end|>\n<|im_start|>assistant\n")
    return Tokenizer.from_file(str(spec["folder"] / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def compare(out, folder, ids, sizes, tolerance):
    """Two steps beside transformers: the prompt but its last token, then that one. Refuses what differs by too much."""
    import onnxruntime
    from transformers import Qwen2ForCausalLM
    want = checkpoints.open_whole(Qwen2ForCausalLM, folder, torch.float32)(torch.tensor([ids])).logits[0, -2:].numpy()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    empty = np.zeros((1, sizes["kv_heads"], 0, sizes["head_size"]), np.float32)
    past = {f"past.{layer}.{part}": empty for layer in range(sizes["layers"]) for part in ("key", "value")}
    worst = 0.0
    for step, given in enumerate((ids[:-1], ids[-1:])):
        total = len(ids) - 1 + step
        answer = session.run(None, {"ids": np.array([given]), "last_position": np.array([total - 1], np.int32),
                                    "total": np.array(total, np.int32), **past})
        past = dict(zip(past, answer[1:]))
        worst = max(worst, float(np.sqrt(np.square(answer[0][0, 0] - want[step]).mean()) / want[step].std()))
    print(f"models: logits differ from transformers' by {worst:.2g} of their standard deviation", file=sys.stderr)
    if not worst <= tolerance:
        raise ValueError(f"logits differ by {worst:.2g} standard deviations, more than {tolerance}")
    return worst


if __name__ == "__main__":
    main()
