"""Measures the exported model through stock `generate` on held-out items: all tokens, TRIM, and as many random tokens."""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, CLIPModel, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from recipes.demo.lm_batches import iqr_keep
from recipes.demo.shapes import IMAGE, MODEL_DIR, PAD, PROMPT, ROOT
from trimkit.demo.questions import Question, grade
from trimkit.demo.typed_items import ALL_TYPES, sample_typed_item

METHODS = ("none", "trim", "random")
RESULT = ROOT / "benchmarks/results/demo_model.json"


class Evaluator:
    """The exported artefacts, loaded as any user would load them."""

    def __init__(self, folder: Path) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.profile = json.loads((folder / "trimkit.json").read_text(encoding="utf-8"))
        self.clip = CLIPModel.from_pretrained(folder / self.profile["clip"], dtype=torch.float32).eval()
        self.clip_tokenizer = AutoTokenizer.from_pretrained(folder / self.profile["clip"])

    def scores(self, features: Tensor, texts: list[str]) -> Tensor:
        batch = self.clip_tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        u = self.clip.get_text_features(**batch).pooler_output
        z = self.clip.visual_projection(self.clip.vision_model.post_layernorm(features))
        product = torch.einsum("npd,nd->np", z, u)
        return (self.profile["sign"] * product / self.profile["temperature"]).softmax(-1)

    @torch.no_grad()
    def replies(
        self, items: list[tuple[Any, Question]], generator: torch.Generator
    ) -> dict[str, tuple[list[str], list[int]]]:
        """Each method's replies and the image tokens its language model saw."""
        texts = [PROMPT.format(question=q.text) for _, q in items]
        pixels = self.processor.image_processor([i for i, _ in items], return_tensors="pt")["pixel_values"]
        ids = [self.processor.tokenizer(t)["input_ids"] for t in texts]
        hidden = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        features = hidden[:, 1:]
        keep = iqr_keep(self.scores(features, [q.text for _, q in items]))
        rank = torch.rand(keep.shape, generator=generator).argsort(-1).argsort(-1)
        out = {}
        for method, mask in (("none", None), ("trim", keep), ("random", rank < keep.sum(-1, keepdim=True))):
            rows = list(features)
            if mask is not None:
                rows = [torch.cat([f[m], f[~m].mean(0, keepdim=True)]) for f, m in zip(features, mask, strict=True)]
            out[method] = (self._generate(ids, rows), [len(r) for r in rows])
        return out

    def _generate(self, ids: list[list[int]], rows: list[Tensor]) -> list[str]:
        projected = [self.model.model.multi_modal_projector(r[None])[0] for r in rows]
        spread = [
            [t for i in one for t in ([IMAGE] * len(row) if i == IMAGE else [i])]
            for one, row in zip(ids, rows, strict=True)
        ]
        width = max(map(len, spread))
        input_ids = torch.tensor([[PAD] * (width - len(s)) + s for s in spread])
        mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in spread])
        encoded = BaseModelOutputWithPooling(pooler_output=projected)  # type: ignore[arg-type]
        made = self.model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            mm_encoder_outputs={"image": encoded},
            max_new_tokens=4,
            do_sample=False,
        )
        return list(self.processor.batch_decode(made[:, width:], skip_special_tokens=True))


def wilson(hits: int, total: int, z: float = 1.96) -> list[float]:
    p = hits / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return [round(centre - half, 4), round(centre + half, 4)]


def summarise(rows: list[tuple[str, bool, int]]) -> dict[str, Any]:
    def one(chosen: list[tuple[str, bool, int]]) -> dict[str, Any]:
        hits = sum(h for _, h, _ in chosen)
        kept = sum(k for _, _, k in chosen) / len(chosen)
        return {
            "n": len(chosen),
            "accuracy": round(hits / len(chosen), 4),
            "ci95": wilson(hits, len(chosen)),
            "image_tokens_mean": round(kept, 1),
        }

    return {
        "overall": one(rows),
        **{t: one([r for r in rows if r[0] == t]) for t in ALL_TYPES if any(r[0] == t for r in rows)},
    }


def evaluate(folder: Path, seed: int, count: int, batch: int) -> dict[str, Any]:
    evaluator = Evaluator(folder)
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, list[tuple[str, bool, int]]] = {m: [] for m in METHODS}
    began = time.time()
    for start in range(0, count, batch):
        items = [sample_typed_item(seed, i) for i in range(start, min(start + batch, count))]
        for method, (replies, kept) in evaluator.replies(items, generator).items():
            for (_, question), reply, tokens in zip(items, replies, kept, strict=True):
                rows[method].append((question.type, grade(reply, question), tokens))
        if start // batch % 10 == 0:
            print(f"{start + len(items)}/{count}, {time.time() - began:.0f} s", flush=True)
    results = {m: summarise(r) for m, r in rows.items()}
    kept_share = {
        t: round(results["trim"][t]["accuracy"] / max(results["none"][t]["accuracy"], 1e-9), 4) for t in results["none"]
    }
    return {
        "what": "embedded demo model, held-out scenes, greedy stock generate, float32",
        "config": {"seed": seed, "n": count, "batch": batch, "profile": evaluator.profile, "methods": list(METHODS)},
        "results": results,
        "trim_over_none": kept_share,
        "seconds": round(time.time() - began, 1),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
    }


def table(report: dict[str, Any]) -> str:
    lines = [
        "| questions | n | all 576 tokens | TRIM | tokens kept | random, same count |",
        "|---|---|---|---|---|---|",
    ]

    def cell(method: str, kind: str) -> str:
        r = report["results"][method][kind]
        return f"{100 * r['accuracy']:.1f} % [{100 * r['ci95'][0]:.1f}, {100 * r['ci95'][1]:.1f}]"

    for kind in report["results"]["none"]:
        n = report["results"]["none"][kind]["n"]
        kept = report["results"]["trim"][kind]["image_tokens_mean"]
        cells = (
            kind.replace("_", " "),
            str(n),
            cell("none", kind),
            cell("trim", kind),
            f"{kept:.0f}",
            cell("random", kind),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def worse(report: dict[str, Any], before: dict[str, Any], points: float = 1.0) -> list[str]:
    """Types that `before` has as well and that have lost more than so many points with all tokens."""
    now, then = report["results"]["none"], before["results"]["none"]
    kinds = then if now.keys() == then.keys() else then.keys() - {"overall"}  # of other types
    return [kind for kind in then if kind in kinds and 100 * (then[kind]["accuracy"] - now[kind]["accuracy"]) > points]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--n", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument(
        "--against", type=Path, help="an earlier report: exit 1 where a type has lost more than a point"
    )
    args = parser.parse_args()
    before = json.loads(args.against.read_text(encoding="utf-8")) if args.against else None
    torch.set_num_threads(2)
    report = evaluate(args.model, args.seed, args.n, args.batch)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    lost = worse(report, before) if before else []
    if lost:
        raise SystemExit(f"more than a point lost: {', '.join(lost)}")


if __name__ == "__main__":
    main()
