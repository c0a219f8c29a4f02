"""A graph that `trimkit export MODEL --onnx -o GRAPH` wrote, in front of a language model that takes embeddings.

    python examples/onnx_embeddings.py GRAPH MODEL picture.png "What color is the car?"

Neither trimkit nor a vision tower in torch runs here. `embeddings` [1, k, H] are what stands at the picture's place in the
prompt: give them to whatever runs the language model (here plain transformers, by `inputs_embeds`).
"""

import sys
from pathlib import Path

import onnxruntime
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

graph, name, picture, question = Path(sys.argv[1]), *sys.argv[2:5]

# The vision half: ONNX Runtime, or any engine that reads ONNX.
pixels = AutoProcessor.from_pretrained(graph / "processor").image_processor(
    images=Image.open(picture).convert("RGB"), return_tensors="np"
)["pixel_values"]
ids = AutoTokenizer.from_pretrained(graph / "question_tokenizer")(question, return_tensors="np")["input_ids"]
session = onnxruntime.InferenceSession(graph / "model.onnx")
embeddings, indices = session.run(["embeddings", "indices"], {"pixel_values": pixels, "question_ids": ids})
print(f"{embeddings.shape[1]} image tokens of width {embeddings.shape[2]}; patches {indices[0][:8].tolist()} ...")

# The language half: the embeddings of the words, with those of the picture between them.
model, tokenizer = AutoModelForImageTextToText.from_pretrained(name), AutoTokenizer.from_pretrained(name)
before, after = "USER: ", f"\n{question} ASSISTANT:"
words = [
    tokenizer(text, return_tensors="pt", add_special_tokens=text == before)["input_ids"] for text in (before, after)
]
head, tail = (model.get_input_embeddings()(part) for part in words)
prompt = torch.cat([head, torch.from_numpy(embeddings).to(head), tail], dim=1)
out = model.generate(inputs_embeds=prompt, max_new_tokens=16, do_sample=False)
print(tokenizer.decode(out[0], skip_special_tokens=True).strip())
