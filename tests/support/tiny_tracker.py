"""SAM3 and Qwen3-VL in the format of transformers, small enough to make in a test.

Their classes are the real ones and their weights random: what SAM3 finds means nothing. The
language model has one answer.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    Sam2VideoVideoProcessor,
    Sam3ImageProcessor,
    Sam3VideoConfig,
    Sam3VideoModel,
    Sam3VideoProcessor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

SIDE = 112
"""Pixels along each side of the picture that SAM3's network sees."""

WIDTH, HEADS, REMEMBERED = 128, 2, 64
"""The tracker's memory has 64 channels, whatever its configuration says, and is narrower than all
else."""
ANSWER = "dog"
STD = 0.05

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _letters() -> dict[str, int]:
    words: dict[str, int] = {}
    for letter in string.ascii_lowercase + string.digits + ",.'-":
        words |= {letter: len(words)} | {f"{letter}</w>": len(words) + 1}
    for mark in ("<|startoftext|>", "<|endoftext|>"):
        words[mark] = len(words)
    return words


def _vision() -> dict[str, Any]:
    patches = SIDE // 14
    return {
        "backbone_config": {
            "model_type": "sam3_vit_model", "hidden_size": WIDTH, "intermediate_size": WIDTH,
            "num_hidden_layers": 2, "num_attention_heads": HEADS, "image_size": SIDE,
            "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 56,
        },
        "fpn_hidden_size": WIDTH,
        "backbone_feature_sizes": [[4 * patches] * 2, [2 * patches] * 2, [patches] * 2],
    }  # fmt: skip


def tracker_config(words: dict[str, int]) -> Sam3VideoConfig:
    """Sizes of the real network, cut down."""
    small = {"hidden_size": WIDTH, "num_attention_heads": HEADS}
    layers = {**small, "num_layers": 1, "intermediate_size": WIDTH}
    detector = {
        "model_type": "sam3",
        "vision_config": _vision(),
        "text_config": {
            "model_type": "clip_text_model", "vocab_size": 300, "hidden_size": WIDTH,
            "intermediate_size": WIDTH, "projection_dim": WIDTH, "num_hidden_layers": 1,
            "num_attention_heads": HEADS, "max_position_embeddings": 32,
            "bos_token_id": words["<|startoftext|>"], "eos_token_id": words["<|endoftext|>"],
            "pad_token_id": words["<|endoftext|>"],
        },
        "geometry_encoder_config": layers,
        "detr_encoder_config": layers,
        "detr_decoder_config": {**layers, "num_queries": 8},
        "mask_decoder_config": {**small, "num_upsampling_stages": 3},
    }  # fmt: skip
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": _vision(),
        "image_size": SIDE,
        "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": SIDE},
        "mask_decoder_config": {
            "hidden_size": WIDTH, "mlp_dim": WIDTH, "num_attention_heads": HEADS,
            "iou_head_hidden_dim": WIDTH,
        },
        "memory_attention_hidden_size": WIDTH,
        "memory_attention_num_layers": 1,
        "memory_attention_num_attention_heads": 1,
        "memory_attention_feed_forward_hidden_size": WIDTH,
        "memory_attention_rope_feat_sizes": [SIDE // 14] * 2,
        "memory_encoder_hidden_size": WIDTH,
        "memory_encoder_output_channels": REMEMBERED,
        "memory_fuser_embed_dim": WIDTH,
        "memory_fuser_intermediate_dim": WIDTH,
        "mask_downsampler_embed_dim": WIDTH,
    }  # fmt: skip
    return Sam3VideoConfig(
        detector_config=detector, tracker_config=tracker, low_res_mask_size=4 * SIDE // 14,
        # Random weights are sure of nothing.
        score_threshold_detection=0.0, new_det_thresh=0.0, hotstart_delay=0, max_num_objects=4,
    )  # fmt: skip


def write_tracker(folder: Path) -> Path:
    """SAM3 for videos, which finds the first thing that is asked for everywhere at random."""
    torch.manual_seed(0)
    words = _letters()
    size = {"height": SIDE, "width": SIDE}
    settings = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Sam3VideoProcessor(
        Sam3ImageProcessor(**settings), Sam2VideoVideoProcessor(**settings),
        CLIPTokenizer(vocab=words, merges=[]),
    )  # fmt: skip
    Sam3VideoModel(tracker_config(words)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_namer(folder: Path) -> Path:
    """Qwen3-VL, which answers `ANSWER`, whatever it is shown."""
    torch.manual_seed(0)
    tokenizer = Qwen2Tokenizer(
        vocab={letter: place for place, letter in enumerate(bytes_to_unicode().values())},
        merges=[],
    )
    marks = ["<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>",
             "<|vision_end|>"]  # fmt: skip
    tokenizer.add_tokens([AddedToken(ANSWER, normalized=False)])
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks], special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    number = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": WIDTH,
            "num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": 1,
            "head_dim": 16, "eos_token_id": number("<|im_end|>"), "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True,
                "rope_theta": 10000.0,
            },
        },
        vision_config={
            "depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": HEADS,
            "out_hidden_size": WIDTH, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=number("<|image_pad|>"), video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )  # fmt: skip
    network = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=STD)
        words, head = network.get_input_embeddings().weight, network.lm_head.weight
        # Every word asks for the answer, and the answer for the end.
        words[:, 0], words[number(ANSWER), 1] = 5, 5
        head.zero_()
        head[number(ANSWER), 0], head[number("<|im_end|>"), 1] = 1, 2
    network.generation_config.eos_token_id = number("<|im_end|>")
    network.save_pretrained(folder)
    pictures = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    Qwen3VLProcessor(
        Qwen2VLImageProcessor(**pictures), tokenizer, Qwen3VLVideoProcessor(**pictures),
        chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip
    return folder
