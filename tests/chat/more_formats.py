"""More formats of public models; see ``tests/chat/formats.py``."""

from __future__ import annotations

from tests.chat.formats import COHERE, FORMATS, IM, Format, chatml, cohere, parts

__all__ = ["ALL"]

_TILE = "<|IMG_PATCH|>" * 4
_HEADER = "{{ '<|header_start|>' + m['role'] + '<|header_end|>\\n\\n' }}"
_CONTENT = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}ITEM{% endfor %}{% endif %}"
)
_DEEPSEEK_SYSTEM = (
    "You are a helpful language and vision assistant. You see what the user shows and assist in natural language."
)

_GLM_VIDEO = "<|begin_of_video|><|video|><|end_of_video|>"

_ROWS = ("<fake_token_around_image>", "<global-img>", "<row_1_col_1>", "<row_1_col_2>")
_SMALL = "<fake_token_around_image><global-img>" + "<image>" * 4 + "<fake_token_around_image>"
_TILED = "".join(f"<fake_token_around_image><row_1_col_{n}>" + "<image>" * 4 for n in (1, 2)) + "\n\n" + _SMALL

_MORE: dict[str, Format] = {
    "llama-4": Format(
        "<|begin_of_text|>{% for m in messages %}" + _HEADER + _CONTENT.replace("ITEM", parts("<|image|>"))
        + "<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %}",
        "<|patch|>", ("<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "<|image|>", "<|image_start|>",
                      "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
        "<|image|>", "<|image_start|><|image|>" + "<|patch|>" * 4 + "<|image_end|>",
        tiles="<|image_start|>" + "<|patch|>" * 4 + "<|tile_x_separator|>" + "<|patch|>" * 4 + "<|tile_y_separator|><|image|>"
        + "<|patch|>" * 4 + "<|image_end|>",
    ),
    "aya-vision": Format(
        cohere("<image>", "", ""), "<|IMG_PATCH|>", (*COHERE, "<image>"), "<image>",
        "<|START_OF_IMG|>TILE_GLOBAL" + _TILE + "<|END_OF_IMG|>",
        tiles=f"<|START_OF_IMG|>TILE_1{_TILE}TILE_2{_TILE}TILE_GLOBAL{_TILE}<|END_OF_IMG|>",
    ),
    "command-a-vision": Format(
        cohere("<|IMG_PATCH|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"), "<|IMG_PATCH|>", (*COHERE, "<|IMG_LINE_BREAK|>"),
        "<|IMG_PATCH|>", f"<|START_OF_IMG|>{_TILE}<|IMG_LINE_BREAK|><|END_OF_IMG|>",
        tiles=f"<|START_OF_IMG|>{_TILE}<|IMG_LINE_BREAK|>{_TILE}<|IMG_LINE_BREAK|><|END_OF_IMG|>",
    ),
    "glm-4.1v": Format(
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + ('observation' if m['role'] == 'tool' else m['role']) + '|>\n' }}"
        + _CONTENT.replace("ITEM", parts("<|begin_of_image|><|image|><|end_of_image|>", _GLM_VIDEO))
        + "{{ '/nothink' if m['role'] == 'user' and enable_thinking is defined and not enable_thinking else '' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "<|image|>", ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>", "<|video|>",
                      "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|endoftext|>"),
        "<|image|>", "<|image|>" * 6, video="<|video|>",
        film="".join(f"<|begin_of_image|>{'<|image|>' * 4}<|end_of_image|>{second}" for second in (0, 12)),
    ),
    "lfm2-vl": Format(
        chatml(parts("<image>"), head="<|startoftext|>"), "<image>",
        (*IM, "<|startoftext|>", "<|image_start|>", "<|image_end|>", "<|img_row_1_col_1|>", "<|img_row_1_col_2|>",
         "<|img_thumbnail|>"), "<image>", "<|image_start|>" + "<image>" * 6 + "<|image_end|>",
        tiles="<|image_start|><|img_row_1_col_1|>" + "<image>" * 4 + "<|img_row_1_col_2|>" + "<image>" * 4 + "<|img_thumbnail|>"
        + "<image>" * 4 + "<|image_end|>",
    ),
    "ovis2": Format(
        chatml(parts("<image>\\n"), system="You are a helpful assistant."), "<IMG_ATOM>",
        (*IM, "<image>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"), "<image>",
        "<IMG_START>" + "<IMG_ATOM>" * 4 + "<IMG_GRID><IMG_END>",
        tiles="<IMG_START>" + "<IMG_ATOM>" * 4 + "<IMG_GRID>" + "<IMG_ATOM>" * 4 + "<IMG_COL>"
        + "<IMG_ATOM>" * 4 + "<IMG_ROW><IMG_END>",
    ),
    "deepseek-vl": Format(
        "{% if messages[0]['role'] != 'system' %}{{ '" + _DEEPSEEK_SYSTEM + "\n\n' }}{% endif %}{% for m in messages %}"
        "{{ '' if m['role'] == 'system' else m['role']|capitalize + ': ' }}"
        "{% for c in m['content'] %}" + parts("<image_placeholder>") + "{% endfor %}"
        "{{ '<｜end▁of▁sentence｜>' if m['role'] == 'assistant' else '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        "<image_placeholder>", ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), "<image_placeholder>",
        "<image_placeholder>" * 9, bos="<｜begin▁of▁sentence｜>", leaves=("tool",),
    ),
    "phi-4-multimodal": Format(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
        + _CONTENT.replace("ITEM", parts("<|image|>"))
        + "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        "<|endoftext10|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|end|>", "<|endoftext|>", "<|image|>"),
        "<|image|>", "<|endoftext10|>" * 6,
    ),
    "minicpm-v": Format(
        chatml(parts("(<image>./</image>)\\n"), system="You are a helpful assistant."), "<unk>",
        (*IM, "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"), "(<image>./</image>)",
        "<image_id>0</image_id><image>" + "<unk>" * 6 + "</image>",
        tiles="<image_id>0</image_id><image>" + "<unk>" * 6 + "</image><slice>" + "<unk>" * 4 + "</slice><slice>" + "<unk>" * 4
        + "</slice>\n<slice>" + "<unk>" * 4 + "</slice>",
    ),
    "molmo": Format(
        "{% for m in messages %}{{ ('' if m['role'] == 'system' else ' ' + m['role']|capitalize + ':') }}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<|image|>' }}{% else %}{{ ' ' + c['text'] }}{% endif %}"
        "{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ ' Assistant:' }}{% endif %}",
        "<im_patch>", ("<|endoftext|>", "<|image|>", "<im_start>", "<im_end>", "<im_col>"), "<|image|>",
        "<im_start>" + "<im_patch><im_patch><im_col>" * 2 + "<im_end>",
        tiles="<im_start>" + "<im_patch><im_patch><im_col>" * 2 + "<im_end><im_start>" + "<im_patch><im_patch><im_col>" * 3
        + "<im_end>",
        bos="<|endoftext|>",
    ),
    "kimi-vl": Format(
        "{% for m in messages %}{% set who = {'user': 'user', 'assistant': 'assistant'}.get(m['role'], 'system') %}"
        "{{ '<|im_' + who + '|>' + m['role'] + '<|im_middle|>' }}"
        + _CONTENT.replace("ITEM", parts("<|media_start|>image<|media_content|><|media_pad|><|media_end|>"))
        + "{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}",
        "<|media_pad|>", ("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>", "<|media_start|>",
                          "<|media_content|>", "<|media_end|>"), "<|media_pad|>", "<|media_pad|>" * 6,
    ),
    "gemma-4": Format(
        "<bos>{% for m in messages %}{{ '<|turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
        "{% if m['content'] is string %}{{ m['content']|trim }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'text' %}{{ c['text']|trim }}{% else %}{{ '\n\n<|' + c['type'] + '|>\n\n' }}{% endif %}{% endfor %}"
        "{% endif %}{{ '<turn|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}",
        "<|image|>", ("<bos>", "<eos>", "<|turn>", "<turn|>", "<|video|>", "<|image>", "<image|>"), "<|image|>",
        "<|image>" + "<|image|>" * 6 + "<image|>", video="<|video|>",
        film=" ".join(f"00:0{second} <|image>{'<|video|>' * 4}<image|>" for second in (0, 1)),
    ),
    "granite-docling": Format(
        "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' }}"
        + _CONTENT.replace("ITEM", parts("<image>"))
        + "{{ '<|end_of_text|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
        "<image>", ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", *_ROWS), "<image>", _SMALL, tiles=_TILED,
    ),
    "granite-vision": Format(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
        "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
        "{{ '<|end_of_text|>' if m['role'] == 'assistant' else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "<image>", ("<|end_of_text|>",), "<image>", "<image>" * 9,
    ),
}  # fmt: skip

ALL: dict[str, Format] = FORMATS | _MORE
