"""Folders of tiny random models, in the layout and of the classes of the large ones."""

import json
from pathlib import Path
from typing import Any

import pytest

transformers: Any = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "dog", "cat", "ball"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vision(layers: int = 1) -> dict[str, int]:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": layers}
    return {**sizes, "image_size": 32, "patch_size": 8}


def dino(folder: Path) -> Path:
    transformers.Dinov2Model(transformers.Dinov2Config(**vision())).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.BitImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    folder.mkdir()
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    text = {**vision(), "vocab_size": len(pieces), "max_position_embeddings": 32, **ends}
    for key in ("image_size", "patch_size"):
        text.pop(key)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision(), projection_dim=16)
    transformers.CLIPModel(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def grounding_dino(folder: Path) -> Path:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    text = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    backbone = transformers.SwinConfig(
        embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, image_size=64, out_features=["stage1", "stage2"]
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=5,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        num_feature_levels=2,
    )  # fmt: skip
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def sam2(folder: Path) -> Path:
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1], window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
        image_size=[128, 128], window_positional_embedding_background_size=[8, 8],
    )  # fmt: skip
    sees = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    asks = transformers.Sam2PromptEncoderConfig(hidden_size=32, image_size=128, patch_size=16, mask_input_channels=4)
    draws = transformers.Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32
    )
    config = transformers.Sam2Config(vision_config=sees, prompt_encoder_config=asks, mask_decoder_config=draws)
    transformers.Sam2Model(config).save_pretrained(folder)
    return folder


def vision_language(folder: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = [*WORDS, "<image>", "<s>", "</s>", "USER:", "ASSISTANT:"]
    level = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    raw = tokenizers.Tokenizer(level)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, extra_special_tokens={"image_token": "<image>"}, **special
    )
    text = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    sees = transformers.CLIPVisionConfig(**vision(layers=2))
    image = words.index("<image>")
    config = transformers.LlavaConfig(
        vision_config=sees, text_config=text, image_token_index=image, image_seq_length=16
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    chat = (
        "{% for m in messages %}USER: {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %} <image> {% else %} {{ c['text'] }} {% endif %}"
        "{% endfor %}{% endfor %} ASSISTANT:"
    )
    transformers.LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=chat,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def diffusion(folder: Path) -> Path:
    diffusers = pytest.importorskip("diffusers")
    clip(folder.with_name("words"))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder.with_name("words"), model_max_length=32)
    ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    text = {key: value for key, value in vision().items() if key not in ("image_size", "patch_size")}
    reads = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text, **ends, vocab_size=len(tokenizer)))
    sizes = {"block_out_channels": (32, 64), "layers_per_block": 1}
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    unet = diffusers.UNet2DConditionModel(
        **sizes, in_channels=9, down_block_types=down, up_block_types=up, cross_attention_dim=32, sample_size=8
    )
    codes = ("DownEncoderBlock2D", "DownEncoderBlock2D"), ("UpDecoderBlock2D", "UpDecoderBlock2D")
    vae = diffusers.AutoencoderKL(
        block_out_channels=[32, 64], down_block_types=codes[0], up_block_types=codes[1], latent_channels=4
    )
    diffusers.StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=reads, tokenizer=tokenizer, unet=unet, scheduler=diffusers.DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def fill(folder: Path) -> Path:
    """FLUX.1 Fill: a transformer of 384 channels in, one text encoder of CLIP and one of T5."""
    diffusers = pytest.importorskip("diffusers")
    clip(folder.with_name("words"))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder.with_name("words"), model_max_length=32)
    ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    text = {key: value for key, value in vision().items() if key not in ("image_size", "patch_size")}
    reads = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text, **ends, vocab_size=len(tokenizer)))
    long = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
    )
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=384, out_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    codes = (["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4)
    vae = diffusers.AutoencoderKL(
        block_out_channels=[32] * 4, down_block_types=codes[0], up_block_types=codes[1], latent_channels=16,
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0,
    )  # fmt: skip
    diffusers.FluxFillPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=reads, tokenizer=tokenizer,
        text_encoder_2=long, tokenizer_2=tokenizer, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip
    return folder
