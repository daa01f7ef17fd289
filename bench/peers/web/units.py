"""What is measured in the browser: units of work, and who takes part in each. Standard library only."""
from dataclasses import dataclass, field

SIDE = 256
LAYERS = 6
STEPS = 8
# A prompt of some forty positions, which is computed once and kept.
QUESTION = "a" + " a" * 20


@dataclass(frozen=True)
class Engine:
    """One engine with one model. `model` is what it loads (`Session.model` makes it); ours also has a build."""
    name: str
    model: str
    dtype: str
    build: str = ""
    # What it is told other than the unit says.
    ask: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)

    @property
    def is_ours(self):
        return bool(self.build)


@dataclass(frozen=True)
class Unit:
    """One kind of work, which all of its engines do. `ask` is what Workers are told."""
    name: str
    work: str
    ask: dict
    engines: tuple
    # Runs at the beginning of a turn that do not count, as others used the caches.
    warmup: int = 1

    @property
    def ours(self):
        return [engine for engine in self.engines if engine.is_ours]

    @property
    def peers(self):
        return [engine for engine in self.engines if not engine.is_ours]


def ours(label, model, **options):
    """Both builds."""
    dtype = options.get("dtype", "auto")
    return (Engine(f"ocelli {label}", model, dtype, "pkg", options=options),
            Engine(f"ocelli {label}, relaxed", model, dtype, "pkg-relaxed", options=options))


def peer(label, model, **ask):
    return Engine(f"ONNX Runtime {label}", model, label, ask=ask)


def units():
    """By section. The engines of a unit are loaded together, and ended before the next unit."""
    encode, decode = {"side": SIDE}, {"question": QUESTION, "steps": STEPS}
    f32 = {"dtype": "f32"}
    return {
        "clip": Unit(f"MobileCLIP2-S0 image, {SIDE} px", "image", encode, (
            *ours("f32", "clip", **f32), *ours("bf16", "clip"), peer("f32", "clip-onnx"))),
        "fastvithd": Unit(f"FastViTHD, {SIDE} px", "encode", encode, (
            *ours("f32", "cut", **f32), *ours("int8", "q4"), peer("f32", "encoder-onnx"))),
        "decode-f32": Unit(f"Qwen2-0.5B's first {LAYERS} layers and head, a token", "decode", decode, (
            *ours("f32", "cut", **f32), peer("f32", "decoder-f32-onnx")), warmup=0),
        "decode": Unit("Qwen2-0.5B, a token", "decode", decode, (
            *ours("q8", "q8"), *ours("q4", "q4"), peer("int8", "decoder-int8-onnx"),
            # Seconds a token.
            peer("q4", "decoder-q4-onnx", steps=1)), warmup=0),
    }
