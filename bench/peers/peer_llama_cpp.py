"""llama.cpp, by the C interface of the shared libraries in the npm package @node-llama-cpp/linux-x64.

Of its structures only the first fields are named here; their defaults are checked, so that a release with another
layout is refused. The rest is memory that llama.cpp fills and reads itself.
"""
import ctypes
import os
import time
from pathlib import Path

import numpy as np

from exported import exported

C = ctypes
TOKEN = C.c_int32


class ModelParams(C.Structure):
    _fields_ = [("rest", C.c_uint8 * 512)]


class ContextParams(C.Structure):
    """The layout since 2024; its defaults are DEFAULTS."""
    _fields_ = [("n_ctx", C.c_uint32), ("n_batch", C.c_uint32), ("n_ubatch", C.c_uint32), ("n_seq_max", C.c_uint32)]
    _fields_ += [("rest", C.c_uint8 * 1024)]


class QuantizeParams(C.Structure):
    _fields_ = [("nthread", TOKEN), ("ftype", C.c_int32), ("rest", C.c_uint8 * 512)]


class Batch(C.Structure):
    _fields_ = [("n_tokens", TOKEN), ("pointers", C.c_void_p * 6)]


DEFAULTS = (512, 2048, 512, 1)
# LLAMA_FTYPE_MOSTLY_* of llama.h.
FILE_TYPES = {"q4_0": 2, "q8_0": 7}


def library(folder):
    """libllama with the backend for this processor loaded."""
    bins = Path(folder) / "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"
    ggml, llama = (next(iter(bins.glob(f"lib{name}.v*.so")), bins / f"lib{name}.so") for name in ("ggml", "llama"))
    ggml, llama = C.CDLL(str(ggml), C.RTLD_GLOBAL), C.CDLL(str(llama))
    ggml.ggml_backend_load_all_from_path(os.fsencode(bins))
    for name, result, arguments in (
            ("llama_model_default_params", ModelParams, []),
            ("llama_context_default_params", ContextParams, []),
            ("llama_model_load_from_file", C.c_void_p, [C.c_char_p, ModelParams]),
            ("llama_init_from_model", C.c_void_p, [C.c_void_p, ContextParams]),
            ("llama_model_quantize_default_params", QuantizeParams, []),
            ("llama_model_quantize", C.c_uint32, [C.c_char_p, C.c_char_p, C.POINTER(QuantizeParams)]),
            ("llama_set_n_threads", None, [C.c_void_p, TOKEN, TOKEN]),
            ("llama_get_memory", C.c_void_p, [C.c_void_p]),
            ("llama_memory_clear", None, [C.c_void_p, C.c_bool]),
            ("llama_batch_get_one", Batch, [C.POINTER(TOKEN), TOKEN]),
            ("llama_decode", TOKEN, [C.c_void_p, Batch]),
            ("llama_get_logits_ith", C.POINTER(C.c_float), [C.c_void_p, TOKEN])):
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    llama.llama_backend_init()
    return llama


def quantize(npm, source, kind, out):
    """A file as llama.cpp's own quantizer makes it, which keeps an embedding that is the head too in more bits."""
    llama = library(npm)
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[kind]
    if llama.llama_model_quantize(os.fsencode(source), os.fsencode(out), C.byref(params)) != 0:
        raise RuntimeError(f"llama.cpp could not quantize {source}")


def llm(spec):
    llama = library(spec["npm"])
    path = exported(spec, f"qwen2-{spec['dtype']}.gguf", what="gguf", weights=spec["dtype"], npm=spec["npm"])
    model = llama.llama_model_load_from_file(os.fsencode(path), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    found = (params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max)
    if not model or found != DEFAULTS:
        raise RuntimeError(f"llama.cpp did not open {path}" if not model else f"another llama.cpp: defaults {found}")
    params.n_ctx = 1024
    context = llama.llama_init_from_model(model, params)
    llama.llama_set_n_threads(context, spec["threads"], spec["threads"])
    vocabulary = 151936

    def step(ids):
        array = (TOKEN * len(ids))(*ids)
        if llama.llama_decode(context, llama.llama_batch_get_one(array, len(ids))) != 0:
            raise RuntimeError("llama_decode failed")
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (vocabulary,))
        return [int(logits.argmax())]

    def prepare(unit):
        prompt = [int(i) for i in np.random.randint(0, 150000, unit["tokens"])]

        def prefill():
            llama.llama_memory_clear(llama.llama_get_memory(context), True)
            return step(prompt)

        def decode():
            token, times = prefill(), []
            for _ in range(unit["steps"]):
                begin = time.perf_counter()
                token = step(token)
                times.append((time.perf_counter() - begin) * 1e3)
            return times
        return {"prefill": lambda: prefill() and None, "decode": decode}[unit["kind"]]
    return prepare
