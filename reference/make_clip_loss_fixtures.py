"""Writes tests/fixtures/train/clip_losses.safetensors: the losses of MobileCLIP's training and their gradients as PyTorch
computes them: CLIP's (arXiv 2103.00020), SigLIP's (arXiv 2303.15343) and that of reinforced data (arXiv 2311.17049,
section 3).

    python reference/make_clip_loss_fixtures.py [OUT]

Embeddings are not stored but computed on both sides: rows of `made(shape, salt)` of make_train_fixtures.py, of length 1.
The version that wrote the stored file: torch 2.15.
"""

import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, os.path.dirname(__file__))
from make_train_fixtures import made  # noqa: E402

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../tests/fixtures/train")
torch.set_num_threads(1)
N, DIM, TEACHERS = 7, 12, (5, 8)
CASES = {}


def unit(shape, salt):
    return F.normalize(made(shape, salt), dim=1)


def case(name, f, **inputs):
    leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    loss = f(**leaves)
    loss.backward()
    CASES[f"{name}/loss"] = loss.detach().reshape(1)
    for k, v in leaves.items():
        if v.grad is not None:
            CASES[f"{name}/grad_{k}"] = v.grad.contiguous()


def clip(images, texts, log_scale):
    logits = log_scale.exp() * images @ texts.T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def siglip(images, texts, log_scale, bias):
    logits = log_scale.exp() * images @ texts.T + bias
    signs = 2 * torch.eye(len(logits)) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def targets(a, b, scales):
    rows, at = [], 0
    for dim, scale in zip(TEACHERS, scales):
        rows.append((scale * a[:, at:at + dim] @ b[:, at:at + dim].T).softmax(1))
        at += dim
    return torch.stack(rows).mean(0)


def distillation(images, texts, log_scale, a, b, scales):
    logits = log_scale.exp() * images @ texts.T
    one = lambda t, s: -(t * s.log_softmax(1)).sum(1).mean()
    return (one(targets(a, b, scales), logits) + one(targets(b, a, scales), logits.T)) / 2


def reinforced(weight, scales):
    a, b, c = (torch.cat([unit([N, dim], salt + i) for i, dim in enumerate(TEACHERS)], 1) for salt in (20, 30, 40))

    def f(images, texts, synthetic, log_scale):
        return sum((1 - weight) * clip(images, t, log_scale) + weight * distillation(images, t, log_scale, a, e, scales)
                   for t, e in ((texts, b), (synthetic, c)))
    return f


if __name__ == "__main__":
    images, texts, synthetic = (unit([N, DIM], salt) for salt in (1, 2, 3))
    scale = torch.tensor([2.3])
    case("clip", clip, images=images, texts=texts, log_scale=scale)
    case("siglip", siglip, images=images, texts=texts, log_scale=scale, bias=torch.tensor([-4.0]))
    both = dict(images=images, texts=texts, synthetic=synthetic, log_scale=scale)
    case("reinforced", reinforced(0.75, (70.0, 6.0)), **both)
    case("distilled", reinforced(1.0, (70.0, 60.0)), **both)
    save_file(CASES, os.path.join(OUT, "clip_losses.safetensors"))
