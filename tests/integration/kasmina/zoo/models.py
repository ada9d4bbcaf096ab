"""Other people's models, as small as they go, with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 5


@dataclass(frozen=True)
class Member:
    """A model that gives class logits, its inputs, and what is known of its layers.

    `without` are layers of a host's class that have no seeds, with a word of the reason.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator, int], Tensor]
    without: dict[str, str] = field(default_factory=dict)

    def model(self) -> nn.Module:
        torch.manual_seed(7)
        return self.make()


def images(size: int = 32, channels: int = 3) -> Callable[[torch.Generator, int], Tensor]:
    return lambda generator, batch: torch.randn(batch, channels, size, size, generator=generator)


def tokens(length: int = 9, words: int = 23) -> Callable[[torch.Generator, int], Tensor]:
    return lambda generator, batch: torch.randint(2, words, (batch, length), generator=generator)


def sequences(length: int = 9, width: int = 8) -> Callable[[torch.Generator, int], Tensor]:
    return lambda generator, batch: torch.randn(batch, length, width, generator=generator)


class Logits(nn.Module):
    """The logits of a model of transformers; of a language model, those of the first position."""

    def __init__(self, model: nn.Module, **given: Any) -> None:
        super().__init__()
        self.model, self.given = model, given

    def forward(self, x: Tensor) -> Tensor:
        more = {"decoder_input_ids": x[:, :4]} if self.given.get("decodes") else {}
        logits: Tensor = self.model(input_ids=x, **more).logits
        return logits if logits.dim() == 2 else logits[:, -1]


def torchvision_model(name: str, **settings: Any) -> nn.Module:
    from torchvision import models  # noqa: PLC0415  # a second, for those who ask for it

    model: nn.Module = models.get_model(name, weights=None, num_classes=CLASSES, **settings)
    return model


def small_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer  # noqa: PLC0415  # as above

    model: nn.Module = VisionTransformer(
        image_size=16,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=24,
        num_classes=CLASSES,
        dropout=0.1,
    )
    return model


def timm_model(name: str, **settings: Any) -> nn.Module:
    import timm  # noqa: PLC0415  # as above

    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **settings)
    return model


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415  # as above

    return Logits(
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=23, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False
            )
        )
    )


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415  # as above

    return Logits(
        BertForSequenceClassification(
            BertConfig(
                vocab_size=23,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
                max_position_embeddings=16,
                num_labels=CLASSES,
            )
        )
    )


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  # as above

    return Logits(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=23,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=16,
                use_cache=False,
            )
        )
    )


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration  # noqa: PLC0415  # as above

    return Logits(
        T5ForConditionalGeneration(
            T5Config(
                vocab_size=23,
                d_model=16,
                d_kv=8,
                d_ff=24,
                num_layers=2,
                num_heads=2,
                use_cache=False,
                decoder_start_token_id=0,
            )
        ),
        decodes=True,
    )


class Recurrent(nn.Module):
    """An LSTM between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Linear(8, 12), nn.LSTM(12, 10, batch_first=True, num_layers=2)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embed(x))[0][:, -1])
        return logits


class Encoder(nn.Module):
    """torch's own encoder layers, batch first: their evaluation has a fast path."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        logits: Tensor = self.head((x + self.attention(x, x, x)[0]).mean(1))
        return logits


class UNet(nn.Module):
    """One step down, one up by a transposed convolution, and the way across."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.leave = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        maps: Tensor = self.leave(torch.cat([x, self.up(self.down(x))], 1))
        return maps.mean((2, 3))


class Autoencoder(nn.Module):
    """A narrow middle; the class logits are read off what it gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 4))
        self.decode = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 192))

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.decode(self.encode(x))
        return given[:, :CLASSES]


NEVER_CALLED = "never calls it"
ZOO = {
    "torchvision resnet18": Member(lambda: torchvision_model("resnet18"), images()),
    "torchvision efficientnet_b0": Member(lambda: torchvision_model("efficientnet_b0"), images()),
    "torchvision vit": Member(
        small_vit,
        images(16),
        {
            f"encoder.layers.encoder_layer_{index}.self_attention.out_proj": NEVER_CALLED
            for index in range(2)
        },
    ),
    "timm convnext": Member(
        lambda: timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 12, 16, 20)), images()
    ),
    "timm vit": Member(
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2),
        images(),
    ),
    "transformers gpt2": Member(gpt2, tokens()),
    "transformers bert": Member(bert, tokens()),
    "transformers llama": Member(llama, tokens()),
    "transformers t5": Member(t5, tokens()),
    "lstm": Member(Recurrent, sequences()),
    "encoder": Member(
        Encoder,
        sequences(),
        {
            "attention.out_proj": NEVER_CALLED,
            "encoder.layers.0.self_attn.out_proj": NEVER_CALLED,
            "encoder.layers.1.self_attn.out_proj": NEVER_CALLED,
        },
    ),
    "unet": Member(UNet, images(8)),
    "autoencoder": Member(Autoencoder, images(8)),
}
