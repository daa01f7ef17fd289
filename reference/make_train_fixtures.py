"""Writes tests/fixtures/train/: what PyTorch computes, forward and backward, for every operation of ocelli-train
(layers.safetensors, plain torch) and for tiny networks in training mode (timm's FastViT and vision transformers,
transformers' Qwen2, MobileCLIP-S0's first text tower by mct_encode of make_fixtures.py).

    python reference/make_train_fixtures.py [OUT]

Inputs and the gradients that come from above are not stored but computed on both sides: `made(shape, salt)`.
Versions that wrote the stored files: torch 2.15, timm 1.0.31, transformers 5.23.
"""

import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../tests/fixtures/train")
torch.set_num_threads(1)


def made(shape, salt):
    """Numbers from -1 to 1 that are the same everywhere: a multiplicative sequence modulo a prime."""
    n = 1
    for s in shape:
        n *= s
    i = torch.arange(n, dtype=torch.int64)
    v = (i * 7919 + salt * 104729 + (i * i) % 8191 * 31) % 2003
    return (v.double() / 1001.0 - 1.0).float().reshape(shape)


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous()


CASES = {}


def case(name, f, *inputs):
    """Inputs i are made(shape, i + 1); stores the output and the gradient of every input for an output gradient
    made(shape, 0)."""
    xs = [x.clone().requires_grad_() for x in inputs]
    y = f(*xs)
    y.backward(made(y.shape, 0))
    CASES[f"{name}/out"] = y.detach().contiguous()
    for i, x in enumerate(xs):
        CASES[f"{name}/grad{i}"] = x.grad.contiguous()


def inputs(*shapes):
    return [made(s, i + 1) for i, s in enumerate(shapes)]


def depthwise(stride):
    def f(x, w):
        pad = (w.shape[2] // 2, w.shape[3] // 2)
        return nhwc(F.conv2d(nchw(x), w, None, stride, pad, 1, x.shape[3]))
    return f


def attention(heads, kv, mask):
    def f(q, k, v):
        b, n, d = q.shape[0], q.shape[1], q.shape[2] // heads
        q = q.reshape(b, n, heads, d).transpose(1, 2)
        k, v = (t.reshape(b, n, kv, d).transpose(1, 2).repeat_interleave(heads // kv, 1) for t in (k, v))
        s = q @ k.transpose(2, 3) / d ** 0.5
        if mask is not None:
            s = s.masked_fill(~mask, float("-inf"))
        return (s.softmax(-1) @ v).transpose(1, 2).reshape(b, n, heads * d)
    return f


def packed(heads):
    return lambda qkv: attention(heads, heads, None)(*qkv.chunk(3, -1))


def rotary(head_dim, base):
    def f(x):
        b, n, c = x.shape
        inv = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim)
        a = torch.outer(torch.arange(n).float(), inv)
        cos, sin = torch.cat([a.cos()] * 2, -1), torch.cat([a.sin()] * 2, -1)
        y = x.reshape(b, n, c // head_dim, head_dim).transpose(1, 2)
        half = torch.cat([-y[..., head_dim // 2:], y[..., :head_dim // 2]], -1)
        return (y * cos + half * sin).transpose(1, 2).reshape(b, n, c)
    return f


def batch_norm(name):
    def f(x, g, b):
        mean, var = made([x.shape[-1]], 8), made([x.shape[-1]], 9) + 1.5
        y = F.batch_norm(x.reshape(-1, x.shape[-1]), mean, var, g, b, True, 0.1, 1e-5)
        CASES[f"{name}/mean"], CASES[f"{name}/var"] = mean, var
        return y.reshape(x.shape)
    return f


def squeeze_excite(x, w1, b1, w2, b2):
    h = F.relu(x.mean((1, 2)) @ w1.T + b1)
    return x * torch.sigmoid(h @ w2.T + b2)[:, None, None, :]


def layers():
    case("linear", lambda x, w, b: F.linear(x, w, b), *inputs([2, 5, 6], [7, 6], [7]))
    case("linear_plain", lambda x, w: F.linear(x, w), *inputs([9, 20], [17, 20]))
    case("dw3", depthwise(1), *inputs([2, 5, 11, 6], [6, 1, 3, 3]))
    case("dw7", depthwise(1), *inputs([1, 9, 10, 20], [20, 1, 7, 7]))
    case("dw3_stride", depthwise(2), *inputs([2, 7, 6, 5], [5, 1, 3, 3]))
    case("dw7_stride_wide", depthwise(2), *inputs([2, 8, 19, 9], [18, 1, 7, 7]))
    case("dw3_wide", depthwise(1), *inputs([1, 3, 3, 4], [8, 1, 3, 3]))
    case("dw1x11", depthwise(1), *inputs([2, 1, 17, 4], [4, 1, 1, 11]))
    case("dw1", depthwise(1), *inputs([2, 3, 4, 5], [5, 1, 1, 1]))
    case("dense3", lambda x, w: nhwc(F.conv2d(nchw(x), w, None, 2, 1)), *inputs([2, 7, 6, 3], [5, 3, 3, 3]))
    case("patch4", lambda x, w: nhwc(F.conv2d(nchw(x), w, None, 4, 0)), *inputs([1, 8, 12, 3], [5, 3, 4, 4]))
    case("gelu", lambda x: F.gelu(5 * x), *inputs([3, 50]))
    case("batch_norm", batch_norm("batch_norm"), *inputs([3, 4, 5, 6], [6], [6]))
    case("layer_norm", lambda x, g, b: F.layer_norm(x, [21], g, b, 1e-5), *inputs([2, 3, 21], [21], [21]))
    case("rms_norm", lambda x, g: x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6) * g, *inputs([2, 3, 21], [21]))
    case("scaled_residual", lambda x, y, s: x + y * s, *inputs([2, 3, 4, 5], [2, 3, 4, 5], [5]))
    case("swiglu", lambda a, b: F.silu(3 * a) * b, *inputs([2, 3, 19], [2, 3, 19]))
    case("rotary", rotary(8, 1e6), *inputs([2, 5, 24]))
    case("packed_attention", packed(2), *inputs([2, 5, 24]))
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    case("causal_groups", attention(6, 2, causal), *inputs([2, 6, 24], [2, 6, 8], [2, 6, 8]))
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(4, 4)).bool() & causal
    each = torch.stack([causal, blocks])[:, None]
    case("masked", attention(2, 1, each), *inputs([2, 6, 8], [2, 6, 4], [2, 6, 4]))
    labels = torch.tensor([3, -100, 0, 10, -100])
    case("cross_entropy", lambda x: F.cross_entropy(4 * x, labels, reduction="mean")[None], *inputs([5, 11]))
    case("squeeze_excite", squeeze_excite, *inputs([2, 3, 4, 8], [4, 8], [4], [8, 4], [8]))


def randomized(module, seed):
    """Weights that keep sizes ordinary, BatchNorm statistics that are not trivial."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in list(module.named_parameters()) + list(module.named_buffers()):
            if not t.is_floating_point() or "inv_freq" in name:
                continue
            if name.endswith("running_var"):
                t.copy_(torch.rand(t.shape, generator=g) + 0.5)
            elif name.endswith(("running_mean", "bias")):
                t.copy_(torch.randn(t.shape, generator=g) * 0.2)
            elif "gamma" in name or "layer_scale" in name:
                t.copy_(torch.rand(t.shape, generator=g) * 0.6 + 0.3)
            elif t.dim() <= 1:
                t.copy_(torch.rand(t.shape, generator=g) * 0.8 + 0.6)
            else:
                t.copy_(torch.randn(t.shape, generator=g) * (t[0].numel() ** -0.5))
    return module


def network(name, module, forward, prefix, extra=None):
    """The state before, the output and all gradients in training mode, running statistics after, and the output in
    evaluation mode with the state before."""
    state = {prefix + k: v.clone() for k, v in module.state_dict().items() if v.is_floating_point()}
    module.eval()
    with torch.no_grad():
        evaluated = forward(module)
    module.train()
    y = forward(module)
    y.backward(made(y.shape, 0))
    answers = {"train": y.detach().contiguous(), "eval": evaluated.contiguous(), **(extra or {})}
    for k, p in module.named_parameters():
        if p.grad is not None:
            answers["grad/" + prefix + k] = p.grad.contiguous()
    for k, b in module.named_buffers():
        if k.endswith(("running_mean", "running_var")):
            answers["after/" + prefix + k] = b.clone()
    return name, state, answers


def write(name, state, answers):
    os.makedirs(os.path.join(OUT, name), exist_ok=True)
    save_file({k: v.contiguous() for k, v in state.items()}, os.path.join(OUT, name, "model.safetensors"))
    save_file(answers, os.path.join(OUT, name, "answers.safetensors"))


def fastvits():
    import timm
    pixels = nchw(made([3, 64, 64, 3], 7))
    for name, arch, dims, blocks in (("mci0", "fastvit_mci0", (4, 8, 16, 32), (1, 1, 1, 1)),
                                     ("mci3", "fastvit_mci3", (2, 4, 8, 16 * 2, 32), (1, 1, 1, 1, 1))):
        m = timm.create_model(arch, layers=blocks, embed_dims=dims, num_classes=5, mlp_ratios=(2,) * len(dims))
        m = randomized(m, 5)
        write(*network(name, m, lambda m: m(pixels), "visual.trunk."))


def vits():
    import timm
    from timm.models.vision_transformer_hybrid import ConvStem, _create_vision_transformer_hybrid
    stem = ConvStem(channels=(4, 4, 16), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, in_chans=3, act_layer=torch.nn.GELU)
    b = _create_vision_transformer_hybrid("vit_base_mci_224", backbone=stem, embed_args=dict(proj=False), pretrained=False, embed_dim=16,
                                          depth=2, num_heads=1, no_embed_class=True, img_size=32, num_classes=5)
    px = nchw(made([3, 32, 32, 3], 7))
    write(*network("vit_convs", randomized(b, 6), lambda m: m(px), "visual.trunk."))
    p = timm.create_model("vit_large_patch14_clip_224", patch_size=7, embed_dim=16, depth=1, num_heads=1, img_size=21, num_classes=5)
    px2 = nchw(made([2, 21, 21, 3], 7))
    write(*network("vit_patches", randomized(p, 6), lambda m: m(px2), "visual.trunk."))


def qwen2():
    from transformers import Qwen2Config, Qwen2ForCausalLM
    cfg = Qwen2Config(vocab_size=40, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
                      rms_norm_eps=1e-6, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    m = randomized(Qwen2ForCausalLM(cfg).float(), 8)
    ids = (torch.arange(18).reshape(2, 9) * 7 + 3) % 40
    labels = torch.where(torch.arange(18).reshape(2, 9) % 3 == 0, torch.tensor(-100), ids)
    name, state, answers = network("qwen2", m, lambda m: m(input_ids=ids, labels=labels).loss[None], "")
    write(name, {k: v for k, v in state.items() if k != "lm_head.weight"}, answers)


def text_v1():
    sys.path.insert(0, os.path.dirname(__file__))
    from make_fixtures import gen, mct_encode, mct_weights
    W = mct_weights(gen(11), 30, 16, 6, n_layers=1)
    W = {k: (v[:, :, :20] if k.startswith("positional") else v) for k, v in W.items() if v.is_floating_point()}
    ids = (torch.arange(40).reshape(2, 20) * 11) % 29
    ids[:, 15:] = 0
    ids[:, 14] = 29
    with torch.no_grad():
        out = mct_encode(W, ids, 2)
    write("text_v1", {"text_encoder." + k: v for k, v in W.items()}, {"eval": out})


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    layers()
    save_file(CASES, os.path.join(OUT, "layers.safetensors"))
    fastvits(), vits(), qwen2(), text_v1()
