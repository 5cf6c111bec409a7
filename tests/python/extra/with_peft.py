#!/usr/bin/env python3
"""With peft 0.17.1 and transformers 4.51.3 installed beside awq-cpp: both take any module named awq for AutoAWQ.

    python with_peft.py AWQ_CHECKPOINT

One training step of a LoRA on a plain model, then our checkpoint opened by transformers, run, and trained through peft.
"""
import sys

import peft
import torch
import transformers

print("peft", peft.__version__, "transformers", transformers.__version__)


def train_one_step(model, ids):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(2):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0], losses
    return losses


lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
config = transformers.LlamaConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=2, vocab_size=128)
plain = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
ids = torch.tensor([[5, 9, 11, 30, 31, 40]])
print("LoRA on a plain model, loss before and after one step:", train_one_step(plain, ids))

path = sys.argv[1]
try:
    transformers.AutoModelForCausalLM.from_pretrained(path, device_map="cpu")
except Exception as error:  # what a user who did nothing sees
    print("opened without awq.transformers.enable():", type(error).__name__, error)

import awq
import awq.transformers

awq.transformers.enable()
model = transformers.AutoModelForCausalLM.from_pretrained(path, device_map="cpu", torch_dtype=torch.float32)
with torch.no_grad():
    logits = model(ids).logits[0].numpy()
    dense = awq.transformers.load_dequantized(path)(ids).logits[0].numpy()
ours = awq.load(path)(ids.tolist()).logits[0]
print("layers:", type(model.model.layers[0].self_attn.q_proj).__name__, "largest difference of logits to awq:", abs(logits - ours).max(),
      "dequantized:", abs(dense - ours).max())
assert abs(logits - ours).max() < 1e-2 * abs(ours).max() and abs(dense - ours).max() < 1e-2 * abs(ours).max()
print("LoRA on the quantized model:", train_one_step(peft.get_peft_model(model, lora), ids))
