"""Images per second of training the network of crates/ocelli-train/examples/train_speed.rs in PyTorch: forward, backward
and AdamW step, f32, channels last, on random data.

    python reference/train_speed.py [STEPS] [THREADS]
"""

import statistics
import sys
import time
from functools import partial

import torch
import torch.nn.functional as F
from timm.models.fastvit import FastVit, LayerNorm2d, RepConditionalPosEnc
from transformers import Qwen2Config, Qwen2ForCausalLM

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 8
torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
BATCH, SIDE, VISUAL, TEXT, VOCAB = 32, 96, 36, 24, 512


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.vision = FastVit(layers=(2, 3, 2), token_mixers=("repmixer", "repmixer", "attention"), embed_dims=(48, 96, 192), mlp_ratios=(3, 3, 3),
                              downsamples=(False, True, True), se_downsamples=(False,) * 3, num_classes=0, global_pool="",
                              pos_embs=(None, None, partial(RepConditionalPosEnc, spatial_shape=(7, 7))), lkc_use_act=True,
                              stem_use_scale_branch=False, norm_layer=partial(LayerNorm2d, eps=1e-5))
        self.projector = torch.nn.Sequential(torch.nn.Linear(384, 192), torch.nn.GELU(), torch.nn.Linear(192, 192))
        self.language = Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCAB, hidden_size=192, intermediate_size=512, num_hidden_layers=3, num_attention_heads=6,
                                                     num_key_value_heads=2, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
                                                     use_cache=False))

    def forward(self, pixels, ids, labels):
        f = self.vision.forward_features(pixels)
        f = self.projector(f.flatten(2).transpose(1, 2))
        e = torch.cat([f, self.language.model.embed_tokens(ids)], 1)
        h = self.language.model(inputs_embeds=e, use_cache=False).last_hidden_state
        return F.cross_entropy(self.language.lm_head(h[:, VISUAL - 1:-1]).reshape(-1, VOCAB), labels.reshape(-1))


def main():
    torch.manual_seed(1)
    m = Model().train().to(memory_format=torch.channels_last)
    print(sum(p.numel() for p in m.parameters()), "parameters")
    opt = torch.optim.AdamW(m.parameters(), lr=1e-3)
    pixels = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    ids = torch.randint(VOCAB, (BATCH, TEXT))
    times = []
    for step in range(STEPS):
        start = time.perf_counter()
        loss = m(pixels, ids, ids)
        forward = time.perf_counter()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        backward = time.perf_counter()
        opt.step()
        end = time.perf_counter()
        times.append(end - start)
        print(f"step {step}: {end - start:.3f} s (forward {forward - start:.3f}, backward {backward - forward:.3f}, AdamW {end - backward:.3f}), loss {loss.item():.4f}")
    median = statistics.median(times[1:] or times)
    print(f"median {median:.3f} s a step, {BATCH / median:.1f} images/s, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
