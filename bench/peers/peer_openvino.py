"""OpenVINO: compute type bf16, or int8 activations and weights; language model with bf16, int8 or int4 weights."""
import time

import numpy as np
import openvino

from exported import exported


def compiled(spec, model):
    settings = {"INFERENCE_PRECISION_HINT": "f32" if spec["dtype"] == "f32" else "bf16", "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": spec["threads"], "CPU_DENORMALS_OPTIMIZATION": True}
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


def calls(request, given):
    return lambda: request.infer([given], share_inputs=True, share_outputs=True)


def encode(spec):
    what = "encoder-int8" if spec["dtype"] == "int8" else "encoder"
    path = exported(spec, f"{what}.xml", what=what)

    def prepare(unit):
        model = openvino.Core().read_model(path)
        model.reshape([1, 3, unit["side"], unit["side"]])
        return calls(compiled(spec, model), np.random.rand(1, 3, unit["side"], unit["side"]).astype(np.float32))
    return prepare


def clip(spec):
    def prepare(unit):
        path = exported(spec, f"{unit['tower']}.xml", what="clip", unit=unit | {"batch": 1})
        if unit["tower"] == "text":
            given = np.random.randint(1, 49000, (unit["batch"], 77))
        else:
            given = np.random.rand(unit["batch"], 3, unit["side"], unit["side"]).astype(np.float32)
        model = openvino.Core().read_model(path)
        model.reshape(list(given.shape))
        return calls(compiled(spec, model), given)
    return prepare


def llm(spec):
    request = compiled(spec, openvino.Core().read_model(
        exported(spec, f"qwen2-{spec['dtype']}.xml", what="llm", weights=spec["dtype"])))
    beam = np.zeros(1, np.int32)

    def step(ids, past):
        positions = np.arange(past, past + ids.shape[1])[None]
        given = {"ids": ids, "positions": positions, "beam": beam}
        logits = request.infer(given, share_inputs=True, share_outputs=True)[0]
        return logits[:, -1:].argmax(-1)

    def prepare(unit):
        tokens, prompt = unit["tokens"], np.random.randint(0, 150000, (1, unit["tokens"]))

        def prefill():
            request.reset_state()
            step(prompt, 0)

        def decode():
            request.reset_state()
            token, times = step(prompt, 0), []
            for i in range(unit["steps"]):
                begin = time.perf_counter()
                token = step(token, tokens + i)
                times.append((time.perf_counter() - begin) * 1e3)
            return times
        return {"prefill": prefill, "decode": decode}[unit["kind"]]
    return prepare
