"""What a picture costs outside the GPU on its way through a server, and what 1,000 GPUs make of a billion pictures.

``python -m benchmarks.serving_parts`` measures CPU seconds of one thread, not wall-clock time: other work on the machine then
counts little. Parts: decoding a JPEG, preparing it, base64 and JSON of a request, packing embeddings of LLaVA-1.5-7B's width.
Writes ``benchmarks/results/serving_parts.json``. The plan's arithmetic is done from these figures, the formulas of
``trimkit.bench`` and the constants below, each with its source.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.cells import table
from benchmarks.records import RESULTS, Record, load, made_of, save
from benchmarks.run import provenance
from trimkit.bench.formula import LanguageSizes, LayerCall, Sizes, TowerSizes, Work, flops, kv_bytes
from trimkit.bench.shapes import SHAPES
from trimkit.bench.stats import spread
from trimkit.demo import load_demo
from trimkit.demo.items import sample_item
from trimkit.images import decode_image

SIZE = (640, 480)
WIDTH, KEPT, FULL = 4096, 121, 576
TEXT_TOKENS, NEW_TOKENS = 40, 32
PICTURES, GPUS = 10**9, 1000
# Sources of what is not measured here; docs/serving-at-scale.md names them in full.
JPEG_BYTES = 18e9 / 118_287  # COCO train2017: 118,287 pictures, 18 GB
PEAK_FLOPS, GPU_BYTES = 989e12, 80e9  # NVIDIA H100 SXM, dense bfloat16
UTILIZATION = 0.4  # an assumption; docs/serving-at-scale.md says what it stands for
REQUESTS = {FULL: 7.92, KEPT: 12.67}  # vLLM PR 45106, requests a second: all tokens, and 52% of them


def sizes() -> Sizes:
    """LLaVA-1.5-7B with CLIP's text tower, for the formulas."""
    shape = SHAPES["llava-1.5-7b"]
    layers, width, heads = shape.language
    language = LanguageSizes(layers, width, shape.inner, heads, heads, width // heads, shape.vocabulary)
    seen, read = shape.vision, shape.text
    return Sizes(
        vision=TowerSizes(seen[0], seen[1], 4 * seen[1]),
        language=language,
        patches=shape.image_tokens,
        patch=3 * shape.patch_size**2,
        text=TowerSizes(read[0], read[1], 4 * read[1]),
        text_vocabulary=shape.text_vocabulary,
        text_positions=77,
        projection=shape.projection,
    )


def work_of(tokens: int) -> Work:
    """One request with so many image tokens; 23 layers of the tower run, since the features are those of the last but one."""
    tower = [LayerCall(layer, 1, FULL + 1) for layer in range(23)]
    chosen = tokens < FULL
    length = tokens + TEXT_TOKENS
    return Work(
        batch=1,
        tower=tower,
        texts=[TEXT_TOKENS] if chosen else [],
        scored=FULL if chosen else 0,
        projected=tokens,
        prefill=[length] * SHAPES["llava-1.5-7b"].layers,
        new_tokens=NEW_TOKENS,
    )


def picture() -> bytes:
    """A JPEG of 640 x 480 with as many bytes as a photograph's: a rendered scene with noise."""
    scene = np.asarray(sample_item(0, 0)[0].resize(SIZE), dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 14, scene.shape[:2])[..., None]
    file = io.BytesIO()
    Image.fromarray((scene + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def parts() -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    processor = load_demo()[1]
    content = picture()
    image = decode_image(content)
    text = base64.b64encode(content).decode()
    request = json.dumps({"messages": [{"content": [{"image_url": {"url": f"data:image/jpeg;base64,{text}"}}]}]})
    found: dict[str, Callable[[], Any]] = {
        "decode_jpeg": lambda: decode_image(content),
        "prepare_336": lambda: processor.image_processor(image, return_tensors="pt"),
        "base64_encode": lambda: base64.b64encode(content).decode(),
        "read_request": lambda: base64.b64decode(
            json.loads(request)["messages"][0]["content"][0]["image_url"]["url"][23:]
        ),
    }
    for tokens in (KEPT, FULL):
        embeddings = torch.randn(tokens, WIDTH).half()
        packed = pack(embeddings)
        body = json.dumps({"data": packed})
        found[f"pack_{tokens}"] = lambda given=embeddings: json.dumps({"data": pack(given)})
        found[f"unpack_{tokens}"] = lambda given=body: unpack(given)
    return found


def pack(embeddings: torch.Tensor) -> str:
    """As the encoder in front of an engine sends it."""
    file = io.BytesIO()
    torch.save(embeddings, file)
    return base64.b64encode(file.getbuffer()).decode()


def unpack(body: str) -> torch.Tensor:
    """As the engine reads it."""
    content = base64.b64decode(json.loads(body)["data"])
    found: torch.Tensor = torch.load(io.BytesIO(content), weights_only=True)
    return found


def measure(repeats: int) -> dict[str, Any]:
    """CPU seconds of every part, in turn."""
    torch.set_num_threads(1)
    ways = parts()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(repeats + 1):
        for name, run in ways.items():
            start = time.process_time()
            run()
            if round_number:  # the first warms up
                times[name].append(time.process_time() - start)
    kept = torch.randn(KEPT, WIDTH).half()
    return {
        "jpeg_bytes": len(picture()),
        "embedding_bytes": {str(n): len(pack(kept[:1].expand(n, -1).contiguous())) for n in (KEPT, FULL)},
        "seconds": {name: spread(values) for name, values in times.items()},
    }


NAMES = {
    "base64_encode": "client: base64 of the file",
    "read_request": "server: JSON and base64 of the request",
    "decode_jpeg": "server: JPEG to RGB",
    "prepare_336": "server: resize and normalise to 336 x 336",
    f"pack_{KEPT}": f"encoder: pack {KEPT} embeddings",
    f"unpack_{KEPT}": f"engine: unpack {KEPT} embeddings",
    f"pack_{FULL}": f"encoder: pack {FULL} embeddings",
    f"unpack_{FULL}": f"engine: unpack {FULL} embeddings",
}


def shown(record: Record) -> str:
    """A row a part."""
    found = record["results"]
    rows = [[NAMES[name], f"{took['median'] * 1000:.2f} ms"] for name, took in found["seconds"].items()]
    note = (
        f"CPU time of one thread, medians of {record['config']['repeats']}; a JPEG of {SIZE[0]} x {SIZE[1]} with "
        f"{found['jpeg_bytes'] / 1000:.0f} KB, embeddings of width {WIDTH} in 16 bits "
        f"({found['embedding_bytes'][str(KEPT)] / 1e6:.2f} and {found['embedding_bytes'][str(FULL)] / 1e6:.2f} MB of base64)."
    )
    return f"{table(['part', 'a picture'], rows)}\n\n{note}"


def plan() -> str:
    """The arithmetic, full and reduced side by side."""
    both = (FULL, KEPT)
    shape = sizes()
    total = {n: sum(flops(shape, work_of(n)).values()) for n in both}
    bound = {n: PEAK_FLOPS * UTILIZATION / total[n] for n in both}  # pictures a second on one GPU
    cache = {n: kv_bytes(shape, work_of(n), 2) for n in both}
    room = 0.9 * GPU_BYTES - 14e9 - 4e9
    sent = JPEG_BYTES * 4 / 3
    packed = {n: n * WIDTH * 2 * 4 / 3 for n in both}
    rows = [
        ["image tokens in all", *[f"{n * PICTURES / 1e9:.0f} × 10⁹" for n in both]],
        ["text and reply tokens in all", *[f"{(TEXT_TOKENS + NEW_TOKENS) * PICTURES / 1e9:.0f} × 10⁹"] * 2],
        ["FLOPs of a request", *[f"{total[n] / 1e12:.2f} T" for n in both]],
        [f"requests a second and GPU, bound at {UTILIZATION:.0%} of the peak", *[f"{bound[n]:.0f}" for n in both]],
        [f"hours on {GPUS:,} GPUs at that bound", *[f"{PICTURES / bound[n] / GPUS / 3600:.1f}" for n in both]],
        ["requests a second, vLLM PR 45106 (on the right at 52% of the tokens)", *[f"{REQUESTS[n]:.2f}" for n in both]],
        [f"hours on {GPUS:,} GPUs at these rates", *[f"{PICTURES / REQUESTS[n] / GPUS / 3600:.1f}" for n in both]],
        ["KV cache of a request", *[f"{cache[n] / 2**20:.0f} MiB" for n in both]],
        ["requests that fit into one GPU", *[f"{room / cache[n]:.0f}" for n in both]],
        ["picture bytes in all, base64", *[f"{sent * PICTURES / 1e12:.0f} TB"] * 2],
        ["into one GPU's server at the bound", *[f"{sent * bound[n] / 1e6:.0f} MB/s" for n in both]],
        ["into one GPU's server at these rates", *[f"{sent * REQUESTS[n] / 1e6:.1f} MB/s" for n in both]],
        ["encoder to engine, a request", *[f"{packed[n] / 1e6:.2f} MB" for n in both]],
        ["encoder to engine at the bound", *[f"{packed[n] * bound[n] * 8 / 1e9:.1f} Gbit/s" for n in both]],
        ["encoder to engine at these rates", *[f"{packed[n] * REQUESTS[n] * 8 / 1e9:.2f} Gbit/s" for n in both]],
        ["replies in all, 200 bytes a line", *[f"{200 * PICTURES / 1e9:.0f} GB"] * 2],
    ]
    record = load("serving_parts")
    if record is not None:
        took = {name: each["median"] for name, each in record["results"]["seconds"].items()}
        cpu = sum(took[name] for name in ("read_request", "decode_jpeg", "prepare_336"))
        rows.append(["CPU of a picture in the server", *[f"{cpu * 1000:.1f} ms"] * 2])
        rows.append(["cores beside one GPU at the bound", *[f"{cpu * bound[n]:.1f}" for n in both]])
        rows.append(["cores beside one GPU at these rates", *[f"{cpu * REQUESTS[n]:.2f}" for n in both]])
    return table(["", f"all {FULL} tokens", f"{KEPT} tokens"], rows)


def planned() -> str:
    """The plan's table, with its source."""
    record = load("serving_parts")
    if record is None:
        return (
            "*Not measured yet: `python -m benchmarks.serving_parts` writes `benchmarks/results/serving_parts.json`.*"
        )
    where = "CPU time from `benchmarks/results/serving_parts.json`; the rest is arithmetic of `benchmarks/serving_parts.py`."
    return f"{plan()}\n\n{where}"


TABLES = {"serving-parts": made_of("serving_parts", shown, "serving_parts"), "serving-plan": planned}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS / "serving_parts.json")
    given = parser.parse_args()
    config = {"repeats": given.repeats, "size": SIZE, "width": WIDTH, "tokens": [KEPT, FULL]}
    results = measure(given.repeats)
    record = {"experiment": "serving_parts", "config": config, "provenance": provenance(), "results": results}
    save(record, given.out)


if __name__ == "__main__":
    main()
