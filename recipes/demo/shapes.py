"""Sizes, tokenizer and processors of the demo model: everything about it that is not learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from trimkit.demo.questions import corpus_words
from trimkit.demo.typed_items import hard_words
from trimkit.demo.world import COLOURS, IMAGE_SIZE, NAMES, PATCH_SIZE, PLURALS, WORDS

ROOT = Path(__file__).parents[2]
MODEL_DIR = ROOT / "src/trimkit/demo/model"
CACHE = ROOT / ".cache/demo"

GRID = IMAGE_SIZE // PATCH_SIZE
VISION_WIDTH = 192
VISION_LAYERS = 6  # the last one is never used by LLaVA (vision_feature_layer -2), as in CLIP-L/14-336
TEXT_WIDTH = 128
TEXT_LAYERS = 3
PROJECTION = 192
LM_WIDTH = 256
LM_LAYERS = 6
LM_INNER = 640
LM_HEAD = 64
LM_ROPE = (
    1e7  # over 600 tokens, half of a head's dimensions turn too little to disturb the matching of names and patches
)

SPECIALS = ("<pad>", "<unk>", "<image>", "<s>", "</s>")
PAD, UNK, IMAGE, BOS, EOS = range(5)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

PROMPT = "USER: <image>\n{question} ASSISTANT:"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def vocabulary(hard: bool = True) -> dict[str, int]:
    """Special tokens, all bytes, then every word of the world whole, with and without a space before it.

    The words of the harder question types come last (`hard`), so that weights trained without them stay usable; the text tower
    has none of them and reads them as bytes.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    vocab = {token: i for i, token in enumerate(SPECIALS)}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[character] = len(vocab)
    nouns = [*NAMES, *PLURALS.values(), *COLOURS, *WORDS]
    phrases = [*corpus_words(), *nouns, "USER ASSISTANT", *"ABCD"]
    texts = [text for p in phrases for text in (p, f" {p}", p.lower())] + [
        "a photo of a picture with the image word sign reading"
    ]
    for text in texts:
        for piece, _ in splitter.pre_tokenize_str(text):
            vocab.setdefault(piece, len(vocab))
    for phrase in hard_words() if hard else ():
        for text in (phrase, f" {phrase}", phrase.lower()):
            for piece, _ in splitter.pre_tokenize_str(text):
                vocab.setdefault(piece, len(vocab))
    return vocab


def build_tokenizer(*, eos: bool, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level tokenizer, the text tower's with `eos`: known words are one token, any other text falls apart into bytes."""
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary(hard=not eos), merges=[], ignore_merges=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    single = "<s> $A </s>" if eos else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        model_max_length=max_length,
        padding_side="right" if eos else "left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def image_processor() -> CLIPImageProcessorPil:
    size = {"shortest_edge": IMAGE_SIZE}
    crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(size=size, crop_size=crop, image_mean=list(MEAN), image_std=list(STD))


def llava_processor() -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=image_processor(),
        tokenizer=build_tokenizer(eos=False, max_length=2048),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def clip_processor() -> CLIPProcessor:
    return CLIPProcessor(image_processor=image_processor(), tokenizer=build_tokenizer(eos=True, max_length=77))


def vision_settings() -> dict[str, Any]:
    return {
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 4 * VISION_WIDTH,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": VISION_WIDTH // 32,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "hidden_act": "gelu",
        "projection_dim": PROJECTION,
    }


def new_clip() -> CLIPModel:
    text = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": TEXT_WIDTH // 32,
        "vocab_size": len(vocabulary(hard=False)),
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
        "projection_dim": PROJECTION,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision_settings(), projection_dim=PROJECTION))


def new_llava() -> LlavaForConditionalGeneration:
    text = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=LM_WIDTH,
        intermediate_size=LM_INNER,
        num_hidden_layers=LM_LAYERS,
        num_attention_heads=LM_WIDTH // LM_HEAD,
        num_key_value_heads=LM_WIDTH // LM_HEAD,
        rope_parameters={"rope_type": "default", "rope_theta": LM_ROPE},
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=LM_WIDTH**-0.5,  # 0.02 sits on a plateau for a long time at this width
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **vision_settings()},
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=16)
    return model
