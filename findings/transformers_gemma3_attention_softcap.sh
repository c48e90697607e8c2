#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0, 29 November 2026
#
# Expected: `attn_logit_softcapping` of Gemma3TextConfig caps the scores of attention by tanh, as its docstring says
# and as the field of the same name does in Gemma 2.
# Seen: Gemma 3's attention keeps the number, and never passes it on: the logits are the same to the last bit with a
# cap and without. In Gemma 2 they differ.
#
# Why it matters: a checkpoint that was trained with the cap, or an experiment that turns it on, is another model than
# its config says, and nothing tells. Who converts from the config alone gets logits that no parity test accepts; here
# the field is refused by name for Gemma 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet torch==2.13.0 transformers==5.24.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

SIZES = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, attn_implementation="eager", initializer_range=0.5,
)
tokens = torch.arange(1, 13)[None]


def logits(model_class, config_class, cap):
    torch.manual_seed(0)
    model = model_class(config_class(**SIZES, attn_logit_softcapping=cap)).eval()
    with torch.no_grad():
        return model(tokens).logits


changed = {}
for name, classes in {"Gemma 2": (Gemma2ForCausalLM, Gemma2Config), "Gemma 3": (Gemma3ForCausalLM, Gemma3TextConfig)}.items():
    with_cap, without = logits(*classes, 0.1), logits(*classes, None)
    changed[name] = (with_cap - without).abs().max().item()
    print(f"{name}: with a cap of 0.1 the logits change by at most {changed[name]:.3g}, of {without.abs().max():.3g}")

assert changed["Gemma 2"] > 1e-3
assert changed["Gemma 3"] == 0
PYTHON
