"""What is measured: units of work, and who takes part in each. Standard library only."""
from dataclasses import dataclass, field

from report import Row

# torch is quickest when glibc neither gives memory back nor maps it anew, and takes it in large pages.
MALLOC = {"GLIBC_TUNABLES":
          "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4000000000:glibc.malloc.trim_threshold=8000000000"}
MEMORY_LIMITS = {"ocelli bf16": 1700, "ocelli q4": 900}
SIDES = (1024, 512, 448, 256)
TOKENS, STEPS = 280, 32
CLIPS = ("s0", "s2", "b", "s3", "s4")


@dataclass(frozen=True)
class Ours:
    """Ocelli in one of its settings."""
    engine: str
    options: tuple
    env: dict = field(default_factory=dict)
    # Options of `ocelli quantize`, when it runs on a checkpoint made by it.
    quantize: tuple = ()


@dataclass(frozen=True)
class Peer:
    """Another engine; `module` is peer_{module}.py."""
    engine: str
    module: str
    dtype: str
    env: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """One kind of work. `command` is Ocelli's, whose records named `measure` count; `ask` is what workers are told."""
    name: str
    command: tuple
    measure: str
    ask: dict
    ours: tuple
    peers: tuple
    # Parts of `bench ops` whose limits together are the machine's limit of this work, and its options.
    limit: tuple = ()
    limit_options: tuple = ()


@dataclass(frozen=True)
class Group:
    """Units of one model; each peer loads it once, by the function of its module that is called `work`."""
    section: str
    work: str
    model: str
    units: tuple


BF16 = Ours("ocelli bf16", ("--dtype", "bf16"))
Q8 = Ours("ocelli q8", ("--dtype", "bf16", "--quant", "q8"))
Q4 = Ours("ocelli q4", ("--dtype", "bf16", "--quant", "q4"))
INT8_Q8 = Ours("ocelli int8+q8", (), quantize=("--weights", "q8", "--vision", "q8"))
INT8_Q4 = Ours("ocelli int8+q4", (), quantize=("--weights", "q4", "--vision", "q8"))
AVX512 = Ours("ocelli f32 AVX-512", ("--dtype", "f32"), {"OCELLI_ISA": "avx512"})
AVX2 = Ours("ocelli f32 AVX2", ("--dtype", "f32"), {"OCELLI_ISA": "avx2"})
AVX512_INT8 = Ours("ocelli int8 AVX-512", (), {"OCELLI_ISA": "avx512"}, INT8_Q8.quantize)
AVX2_INT8 = Ours("ocelli int8 AVX2", (), {"OCELLI_ISA": "avx2"}, INT8_Q8.quantize)

TORCH = Peer("torch bf16", "torch", "bf16", MALLOC)
TORCH_F32 = Peer("torch f32", "torch", "f32", MALLOC)
OPENVINO = {dtype: Peer(f"OpenVINO {dtype}", "openvino", dtype) for dtype in ("bf16", "int8", "int4")}
ONNX = Peer("ONNX Runtime f32", "onnxruntime", "f32")
LLAMA = {quant: Peer(f"llama.cpp {quant}", "llama_cpp", quant) for quant in ("q4_0", "q4_0-all", "q8_0", "bf16")}


def prompt(positions):
    """A question that makes the prompt longer by so many tokens than "a" does."""
    return "a" + " a" * positions


def encode(sides):
    units = []
    for side in sides:
        ours, peers = (BF16, INT8_Q8), (TORCH, OPENVINO["bf16"], OPENVINO["int8"], ONNX)
        if side == 1024:
            ours, peers = (*ours, AVX512, AVX2, AVX512_INT8, AVX2_INT8), (*peers, TORCH_F32)
        command = ("bench", "encode", "--resolution", str(side))
        units.append(Unit(f"encode {side}", command, "encode", {"side": side}, ours, peers, ("encoder",),
                          ("--resolution", str(side))))
    return [Group("encode", "encode", "fastvlm-0.5b", tuple(units))]


def llm(base):
    """`base` is the length of the prompt of `prompt(0)` about a picture of 512 px."""
    question = ("--resolution", "512", "--prompt", prompt(TOKENS - base))
    peers = (TORCH, *OPENVINO.values(), *LLAMA.values())
    ours, tokens = (BF16, Q8, Q4), ("--tokens", str(TOKENS))
    prefill = Unit("prefill", ("bench", "ttft", "--max-tokens", "1", *question), "prefill",
                   {"kind": "prefill", "tokens": TOKENS}, ours, peers, ("prefill",), tokens)
    decode = Unit("decode", ("bench", "decode", "--max-tokens", str(STEPS + 1), *question), "token",
                  {"kind": "decode", "tokens": TOKENS, "steps": STEPS}, ours, peers, ("decode",), tokens)
    return [Group("llm", "llm", "fastvlm-0.5b", (prefill, decode))]


def ttft(tokens, image_tokens):
    """Both sides with the positions of Ocelli's prompt."""
    ask = {"side": 1024, "tokens": tokens, "image_tokens": image_tokens}
    unit = Unit("ttft 1024", ("bench", "ttft", "--max-tokens", "1"), "ttft", ask,
                (BF16, Q8, Q4, INT8_Q8, INT8_Q4), (TORCH,), ("encoder", "prefill"))
    return [Group("ttft", "ttft", "fastvlm-0.5b", (unit,))]


def clip(variants, side):
    """`side` tells the pixels of a variant's pictures."""
    groups = []
    peers = (TORCH, OPENVINO["bf16"])
    for variant in variants:
        pixels, name = side(variant), variant.upper()
        image = {"tower": "image", "batch": 1, "side": pixels}
        command = ("bench", "embed", "--batch", "1")
        groups.append(Group("clip", "clip", f"mobileclip2-{variant}", (
            Unit(f"{name} image", command, "image", image, (BF16,), (*peers, TORCH_F32), ("image",)),
            Unit(f"{name} text", command, "text", {"tower": "text", "batch": 1}, (BF16,), (*peers, TORCH_F32), ("text",)),
            Unit(f"{name} image x32", ("bench", "embed", "--batch", "32"), "image", image | {"batch": 32}, (BF16,), peers),
        )))
    return groups


def rows():
    """The table, with the limits that the project set itself."""
    bf16, half = ("ocelli bf16",), ("torch bf16", "OpenVINO bf16", "ONNX Runtime f32")
    out = [Row(f"FastViTHD encode, bf16, {side} px", f"encode {side}", 0.45, bf16, half) for side in SIDES]
    out += [Row(f"FastViTHD encode, int8, {side} px", f"encode {side}", None, ("ocelli int8+q8",)) for side in SIDES]
    out += [Row("FastViTHD encode, 1024 px, AVX-512 without AMX, f32", "encode 1024", 0.8, (AVX512.engine,), ("torch f32",)),
            Row("FastViTHD encode, 1024 px, AVX2, f32", "encode 1024", 0.8, (AVX2.engine,), ("torch f32",)),
            Row("FastViTHD encode, 1024 px, AVX-512 without AMX, int8", "encode 1024", 0.8, (AVX512_INT8.engine,), ("torch f32",)),
            Row("FastViTHD encode, 1024 px, AVX2 with VNNI, int8", "encode 1024", 0.8, (AVX2_INT8.engine,), ("torch f32",)),
            Row(f"Qwen2-0.5B prefill, {TOKENS} tokens, any weights", "prefill", 0.55),
            Row("Qwen2-0.5B decode a token, 4 bit", "decode", 0.92, ("ocelli q4",), ("llama.cpp q4_0", "OpenVINO int4")),
            Row("Qwen2-0.5B decode a token, 4 bit, llama.cpp's head too", "decode", None, ("ocelli q4",), ("llama.cpp q4_0-all",)),
            Row("Qwen2-0.5B decode a token, 8 bit", "decode", 0.92, ("ocelli q8",), ("llama.cpp q8_0", "OpenVINO int8")),
            Row("Qwen2-0.5B decode a token, bf16", "decode", 0.72, bf16, ("llama.cpp bf16", "torch bf16", "OpenVINO bf16")),
            Row("FastVLM-0.5B first token, 1024 px, bf16", "ttft 1024", 0.45, bf16),
            Row("FastVLM-0.5B first token, 1024 px, quantized", "ttft 1024", 0.35,
                tuple(o.engine for o in (INT8_Q8, INT8_Q4, Q8, Q4)))]
    for tower in ("image", "text"):
        out += [Row(f"MobileCLIP2-{v.upper()} {tower}, batch 1", f"{v.upper()} {tower}", 0.5) for v in CLIPS]
    out += [Row(f"MobileCLIP2-{v.upper()} images a second, batch 32", f"{v.upper()} image x32", 0.5, batch=32) for v in CLIPS]
    return out


def turns(ours, peers, round_):
    """One round: the peers one after another, another first in each round, and one of ours before each of them.

    All of ours have a turn, also where there are more of them.
    """
    first = round_ % len(peers) if peers else 0
    peers = [*peers[first:], *peers[:first]]
    order = []
    for i in range(max(len(ours), len(peers))):
        order += [ours[(i + round_) % len(ours)]] if ours else []
        order += peers[i:i + 1]
    return order
