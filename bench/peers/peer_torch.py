"""torch with transformers and open_clip, channels last where the network is convolutional; FastVLM also on a GPU."""
import time

import torch
from transformers import FastVlmForConditionalGeneration, Qwen2ForCausalLM
from transformers.cache_utils import DynamicCache

import checkpoints

TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def start(spec):
    torch.set_num_threads(spec["threads"])
    torch.set_num_interop_threads(1)
    # Before any worker thread exists: threads inherit it.
    torch.set_flush_denormal(True)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    return TYPES[spec["dtype"]]


def device_of(spec):
    return torch.device(spec.get("device", "cpu"))


def waiting(spec):
    """Returns when the device has done what it was given: at once on the CPU."""
    kind = device_of(spec).type
    return getattr(torch, kind).synchronize if kind != "cpu" else lambda: None


def open_fastvlm(spec, dtype):
    folder = checkpoints.fastvlm(spec["folder"], spec["cache"])
    model = checkpoints.open_whole(FastVlmForConditionalGeneration, folder, dtype)
    model.model.vision_tower.to(memory_format=torch.channels_last)
    return model.to(device_of(spec))


def channels_last(pixels):
    return pixels.contiguous(memory_format=torch.channels_last)


def encode(spec):
    dtype = start(spec)
    encoder = checkpoints.Encoder(open_fastvlm(spec, dtype))
    wait = waiting(spec)

    def prepare(unit):
        pixels = channels_last(torch.rand(1, 3, unit["side"], unit["side"], dtype=dtype).to(device_of(spec)))

        def run():
            encoder(pixels)
            wait()
        return run
    return prepare


def llm(spec):
    dtype = start(spec)
    model = checkpoints.open_whole(Qwen2ForCausalLM, checkpoints.qwen2(spec["folder"], spec["cache"]), dtype)
    device, wait = device_of(spec), waiting(spec)
    model.to(device)

    def step(ids, cache):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1].argmax(-1, keepdim=True)
        # Whoever streams text looks at each token before the next one.
        wait()
        return token

    def prepare(unit):
        prompt = torch.randint(0, 150000, (1, unit["tokens"])).to(device)

        def prefill():
            step(prompt, DynamicCache())

        def decode():
            cache, times = DynamicCache(), []
            token = step(prompt, cache)
            for _ in range(unit["steps"]):
                begin = time.perf_counter()
                token = step(token, cache)
                times.append((time.perf_counter() - begin) * 1e3)
            return times
        return {"prefill": prefill, "decode": decode}[unit["kind"]]
    return prepare


def ttft(spec):
    """From decoded pixels, as bytes, to the id of the first token."""
    dtype, device = start(spec), device_of(spec)
    model = open_fastvlm(spec, dtype)

    def prepare(unit):
        side, image = unit["side"], torch.full((1, unit["image_tokens"]), model.config.image_token_id)
        ids = torch.cat([image, torch.randint(0, 150000, (1, unit["tokens"] - unit["image_tokens"]))], 1)
        ids, rgb = ids.to(device), torch.randint(0, 256, (side, side, 3), dtype=torch.uint8)
        mask = torch.ones_like(ids)

        def answer():
            # Height, width, channels in memory is what channels last means.
            pixels = rgb.to(device).permute(2, 0, 1)[None].to(dtype) / 255
            model(input_ids=ids, attention_mask=mask, pixel_values=channels_last(pixels), use_cache=True,
                  logits_to_keep=1).logits[:, -1].argmax(-1).item()
        return answer
    return prepare


def open_clip_model(spec):
    """open_clip's model with the folder's weights, folded; strict about its tensors."""
    import open_clip
    from timm.utils import reparameterize_model
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{spec['folder']}", precision="fp32")
    return reparameterize_model(model.eval())


def clip_input(unit):
    if unit["tower"] == "image":
        return torch.rand(unit["batch"], 3, unit["side"], unit["side"])
    return torch.randint(1, 49000, (unit["batch"], 77))


def clip(spec):
    dtype = start(spec)
    model = open_clip_model(spec).to(dtype)
    # A transformer gains nothing from channels last.
    convolutional = hasattr(getattr(model.visual, "trunk", None), "stages")
    if convolutional:
        model.visual.to(memory_format=torch.channels_last)

    def prepare(unit):
        given = clip_input(unit)
        if unit["tower"] == "text":
            return lambda: model.encode_text(given, normalize=True)
        given = given.to(dtype)
        given = channels_last(given) if convolutional else given
        return lambda: model.encode_image(given, normalize=True)
    return prepare
