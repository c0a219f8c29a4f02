"""The formats in which public models write a conversation, each as a template that renders the same text.

The templates are written anew from the formats; they cover what the layouts of ``tests/chat/layouts.py`` need. ``picture``,
``tiles`` and ``film`` are what the model's processor puts where the template wrote ``image`` or ``video``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FORMATS", "Format"]


@dataclass(frozen=True)
class Format:
    """One model's format.

    Attributes:
        template: Jinja source.
        token: the image token that the language model sees.
        specials: special tokens beside it.
        image, picture: what the template writes for a picture, and what the processor makes of it.
        tiles: the same for a picture in tiles or crops; empty where the processor makes none.
        video, film: likewise for a video; empty where there is none.
        bos: what the tokenizer puts first where the template does not.
        leaves: layouts that the format cannot say.
    """

    template: str
    token: str
    specials: tuple[str, ...]
    image: str
    picture: str
    tiles: str = ""
    video: str = ""
    film: str = ""
    bos: str = ""
    leaves: tuple[str, ...] = ()


def chatml(parts: str, *, head: str = "", after: str = "\\n", system: str = "") -> str:
    """ChatML: ``parts`` is what is done with one item ``c`` of a turn's content."""
    default = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}{% endif %}"
        if system
        else ""
    )
    return (
        head
        + default
        + "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '"
        + after
        + "' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        + parts
        + "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def parts(image: str, video: str = "") -> str:
    film = "{% elif c['type'] == 'video' %}{{ '" + video + "' }}" if video else ""
    return "{% if c['type'] == 'image' %}{{ '" + image + "' }}" + film + "{% else %}{{ c['text'] }}{% endif %}"


IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_QWEN = (
    "{% if c['type'] == 'image' or c['type'] == 'video' %}"
    "{% set ns.n = ns.n + 1 if c['type'] == 'image' else ns.n %}{% set ns.v = ns.v + 1 if c['type'] == 'video' else ns.v %}"
    "{% if add_vision_id %}{{ 'Picture ' + ns.n|string + ': ' if c['type'] == 'image' else 'Video ' + ns.v|string + ': ' }}"
    "{% endif %}<|vision_start|>{{ '<|image_pad|>' if c['type'] == 'image' else '<|video_pad|>' }}<|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}"
)
_COUNT = "{% set ns = namespace(n=0, v=0) %}"
_QWEN_TOKENS = (*IM, "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")

_QWEN3 = (
    _COUNT
    + "{% macro say(content) %}{% if content is string %}{{ content }}{% else %}{% for c in content %}"
    + _QWEN
    + "{% endfor %}{% endif %}{% endmacro %}"
    "{% if tools %}{{ '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ say(messages[0].content) + '\\n\\n' }}"
    "{% endif %}{{ '# Tools\\n\\n<tools>' }}{% for t in tools %}{{ '\\n' + t|tojson }}{% endfor %}"
    "{{ '\\n</tools><|im_end|>\\n' }}"
    "{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + say(messages[0].content) + '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\\n' + say(m.content) + '<|im_end|>\\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' + say(m.content) }}{% for t in m.tool_calls or [] %}"
    "{{ '\\n<tool_call>\\n' + t.function|tojson + '\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}"
    "{% elif m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\\n<tool_response>\\n' + say(m.content) + '\\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_SPLIT = "<fake_token_around_image>{}" + "<image>" * 4
_ROWS = (
    _SPLIT.format("<row_1_col_1>") + _SPLIT.format("<row_1_col_2>") + "\n"
    + _SPLIT.format("<row_2_col_1>") + _SPLIT.format("<row_2_col_2>") + "\n"
    + "\n" + _SPLIT.format("<global-img>") + "<fake_token_around_image>"
)  # fmt: skip
_SMOL = _SPLIT.format("<global-img>") + "<fake_token_around_image>"
_IDEFICS = (
    "{% for m in messages %}{{ m['role']|capitalize }}{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
    "{% for c in m['content'] %}" + parts("<image>", "<video>") + "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_ROW_TOKENS = (
    "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>",
)  # fmt: skip

_LLAMA3_HEAD = "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"

_ANSWERS = (
    "{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' + names[m['role']] }}{{ lead if m['role'] == 'assistant' else '' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}IMAGE{% endfor %}{% endif %}"
    "{{ trail if m['role'] == 'assistant' else '' }}{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + lead }}{% endif %}"
)


def cohere(image: str, lead: str, trail: str) -> str:
    names = (
        "{'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>', "
        "'tool': '<|SYSTEM_TOKEN|>'}"
    )
    head = "<BOS_TOKEN>{% set names = " + names + " %}{% set lead = '" + lead + "' %}{% set trail = '" + trail + "' %}"
    return head + _ANSWERS.replace("IMAGE", parts(image))


COHERE = ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
           "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>")  # fmt: skip

_MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set talk = messages[1:] %}"
    "{% else %}{% set talk = messages %}{% endif %}<s>BEFORE{% for m in talk %}{% if m['role'] == 'user' %}[INST]FOLD"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    + parts("[IMG]")
    + "{% endfor %}{% endif %}[/INST]{% elif m['role'] == 'tool' %}{{ '[TOOL_RESULTS]' }}"
    "{% for c in m['content'] %}" + parts("[IMG]") + "{% endfor %}{{ '[/TOOL_RESULTS]' }}"
    "{% else %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{{ m['content'][0]['text'] }}{% endif %}</s>"
    "{% endif %}{% endfor %}"
)
_SAID = "{{ system if system is string else system[0]['text'] }}"
_MISTRAL_TOKENS = ("<s>", "</s>", "[INST]", "[/INST]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
                   "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")  # fmt: skip
_PIXTRAL_PICTURE = "[IMG][IMG][IMG_BREAK][IMG][IMG][IMG_END]"

_GEMMA_PICTURE = "\n\n<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>\n\n"

FORMATS: dict[str, Format] = {
    "llava-1.5": Format(
        "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
        "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        "<image>", ("<s>", "</s>", "<pad>"), "<image>", "<image>" * 9, bos="<s>",
    ),
    "llava-next-mistral": Format(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ '<<SYS>>\n' + m['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
        "{% elif m['role'] == 'user' %}{{ '[INST] ' }}{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}"
        "{% endfor %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{{ ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'][0]['text'] + '</s>' }}{% endif %}{% endfor %}",
        "<image>", ("<s>", "</s>"), "<image>", "<image>" * 9, bos="<s>", leaves=("tool",),
    ),
    "llava-onevision": Format(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
        "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'video' %}{{ '<video>\n' }}{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}{{ '\n' + c['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<image>", (*IM, "<video>"), "<image>", "<image>" * 9, video="<video>", film="<video>" * 8,
    ),
    "vip-llava": Format(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'][0]['text'] }}"
        "{% else %}{{ '###Human: ' if m['role'] == 'user' else '###Assistant: ' }}"
        "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '###Assistant:' }}{% endif %}",
        "<image>", ("<s>", "</s>"), "<image>", "<image>" * 9, bos="<s>",
    ),
    "qwen2.5-vl": Format(
        chatml(_QWEN, head=_COUNT, system="You are a helpful assistant."), "<|image_pad|>", _QWEN_TOKENS,
        "<|image_pad|>", "<|image_pad|>" * 6, video="<|video_pad|>", film="<|video_pad|>" * 8,
    ),
    "qwen3-vl": Format(
        _QWEN3, "<|image_pad|>", _QWEN_TOKENS, "<|image_pad|>", "<|image_pad|>" * 6,
        video="<|vision_start|><|video_pad|><|vision_end|>",
        film="".join(f"<{t} seconds><|vision_start|>{'<|video_pad|>' * 4}<|vision_end|>" for t in ("0.3", "1.3")),
    ),
    "internvl3": Format(
        chatml(parts("<IMG_CONTEXT>\\n", "<video>\\n")), "<IMG_CONTEXT>", (*IM, "<img>", "</img>"),
        "<IMG_CONTEXT>", "<img>" + "<IMG_CONTEXT>" * 6 + "</img>", video="<video>",
        film="\n".join(f"Frame{n}: <img>" + "<IMG_CONTEXT>" * 4 + "</img>" for n in (1, 2)),
    ),
    "idefics2": Format(
        _IDEFICS, "<image>", ("<s>", "</s>", *_ROW_TOKENS), "<image>",
        "<fake_token_around_image>" + "<image>" * 6 + "<fake_token_around_image>", bos="<s>",
    ),
    "smolvlm": Format(
        "<|im_start|>" + _IDEFICS, "<image>", (*IM, *_ROW_TOKENS), "<image>", _SMOL, tiles=_ROWS, video="<video>",
        film="You are provided the following series of two frames from a 0:00:02 [H:MM:SS] video.\n\nFrame from 00:00:" + _SMOL
        + "\nFrame from 00:01:" + _SMOL + "\n\n",
    ),
    "gemma-3": Format(
        "<bos>{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}"
        "{% set before = (said if said is string else said[0]['text']) + '\n\n' %}"
        "{% set talk = messages[1:] %}{% else %}{% set before = '' %}"
        "{% set talk = messages %}{% endif %}{% for m in talk %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + (before if loop.first else '') }}"
        "{% if m['content'] is string %}{{ m['content']|trim }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}{{ '<start_of_image>' }}{% else %}{{ c['text']|trim }}{% endif %}{% endfor %}{% endif %}"
        "{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<image_soft_token>", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"),
        "<start_of_image>", _GEMMA_PICTURE,
        tiles=f"Here is the original image {_GEMMA_PICTURE} and here are some crops to help you see better "
        + " ".join([_GEMMA_PICTURE] * 2), leaves=("tool",),
    ),
    "pixtral": Format(
        _MISTRAL.replace("BEFORE", "").replace(
            "FOLD", "{% if loop.last and system is defined %}" + _SAID + "{{ '\n\n' }}{% endif %}"
        ),
        "[IMG]", _MISTRAL_TOKENS, "[IMG]", _PIXTRAL_PICTURE,
        tiles=_PIXTRAL_PICTURE.replace("[IMG_END]", "[IMG_BREAK][IMG][IMG_END]"),
    ),
    "mistral-3": Format(
        _MISTRAL.replace("BEFORE", "{% if system is defined %}[SYSTEM_PROMPT]" + _SAID + "[/SYSTEM_PROMPT]{% endif %}"
        "{% if tools %}[AVAILABLE_TOOLS]{{ tools|tojson }}[/AVAILABLE_TOOLS]{% endif %}").replace("FOLD", ""),
        "[IMG]", _MISTRAL_TOKENS, "[IMG]", _PIXTRAL_PICTURE,
    ),
    "llama-3.2-vision": Format(
        "<|begin_of_text|>{% set ns = namespace(first=true) %}{% for m in messages %}" + _LLAMA3_HEAD +
        "{% if tools and m['role'] == 'user' and ns.first %}{% set ns.first = false %}{{ 'Given the following functions, "
        "please respond with a JSON for a function call with its proper arguments that best answers the given prompt."
        "\n\nRespond in the format "
        '{"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.\n\n\' }}'
        "{% for t in tools %}{{ t|tojson(indent=4) + '\n\n' }}{% endfor %}{% endif %}"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}" + parts("<|image|>")
        + "{% endfor %}{% endif %}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|image|>", ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|image|>", "<|image|>",
    ),
}  # fmt: skip
