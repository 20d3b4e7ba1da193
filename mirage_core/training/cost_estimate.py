"""What a run would cost, from the sums that its model makes: an estimate, never a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from ..constants import MAX_CHUNK_FRAMES, PATCH_SIZE, TEMPORAL_STRIDE
from ..geometry.camera import latent_size
from .settings import TrainingSettings

SECONDS: Final = 3600.0
"""In an hour."""

LINEAR_PASSES: Final = {"frozen": 2, "trained": 3}
"""Passes through a matrix, each as long as the one forward: there, back to its input, and back to
its weights where it is trained."""

ATTENTION_PASSES: Final = 3
"""The same for attention, whose way back is twice as long as the one forward."""


@dataclass(frozen=True)
class CardAssumptions:
    """What a card is taken to do.

    Attributes:
        flops: Floating-point operations that training makes in a second, per card.
        shared: Share of that which is left where several cards share the weights.
        dollars: Price of one card for an hour.
    """

    flops: float
    shared: float
    dollars: float


H100: Final = CardAssumptions(flops=400e12, shared=0.9, dollars=3.0)
"""A card of 80 GiB: 40 % of its dense 989 TFLOP/s in bfloat16, at a common price of rent."""


def flops_of_step(
    model: Any, settings: TrainingSettings, size: tuple[int, int] = (1280, 704)
) -> float:
    """Floating-point operations of one optimiser step, over all processes.

    Multiplications and additions count one each. Matrices and attention are counted; norms,
    embeddings, the optimiser and the LoRA, which are below a hundredth, are not. Numbers of
    references and preceding frames are averaged over those that are shown.

    Args:
        model: A `mirage_core.models.transformer.MirageTransformer3DModel` with the run's branch,
            which may be on ``meta``.
        settings: Of the run.
        size: Width and height of the pictures.

    Raises:
        ShapeError: The size does not fit the video model's grid.
    """
    config = model.config
    height, width = latent_size(*size)
    frame = height * width // PATCH_SIZE**2
    target = (MAX_CHUNK_FRAMES - 1) // TEMPORAL_STRIDE + 1
    shown = [
        (target + references + preceding, target + preceding)
        for references, preceding in product(
            _counts(settings.references, settings), _counts(settings.preceding, settings)
        )
    ]
    layers = (config.num_layers, len(config.side_layers))
    trained = (settings.trains_full_model, settings.with_branch)
    total = 0.0
    for frames in shown:
        for count, learns, number in zip(layers, trained, frames, strict=True):
            total += count * _block(config, settings, number * frame, learns)
    return settings.batch * total / len(shown)


def hours_and_dollars(
    flops: float, steps: int, cards: int, card: CardAssumptions = H100
) -> tuple[float, float]:
    """Hours of a run and their price.

    Args:
        flops: Of one step, from `flops_of_step`.
        steps: Of the run.
        cards: How many share it.
        card: What each does.
    """
    rate = cards * card.flops * (card.shared if cards > 1 else 1.0)
    hours = steps * flops / rate / SECONDS
    return hours, hours * cards * card.dollars


def describe_cost(flops: float, steps: int, cards: int, card: CardAssumptions = H100) -> str:
    """The estimate as a sentence, with what it assumes."""
    hours, dollars = hours_and_dollars(flops, steps, cards, card)
    return (
        f"{flops / 1e15:.1f} PFLOP a step; {steps:,} steps take some {hours:,.0f} hours and "
        f"{dollars:,.0f} dollars (estimate: {card.flops / 1e12:.0f} TFLOP/s and "
        f"{card.dollars:g} dollars an hour for each card)"
    )


def _counts(most: int, settings: TrainingSettings) -> range:
    return range(most + 1) if settings.random_subsets else range(most, most + 1)


def _block(config: Any, settings: TrainingSettings, tokens: int, trained: bool) -> float:
    """Operations of one block for one clip, there and back."""
    width = config.num_attention_heads * config.attention_head_dim
    text = settings.text_tokens
    # Queries, keys, values and output of self-attention; query and output to the text.
    matrices = 2 * tokens * width * (6 * width + 2 * config.ffn_dim) + 4 * text * width * width
    attention = 4 * tokens * width * (tokens + text)
    again = 1 if settings.gradient_checkpointing else 0
    linear = LINEAR_PASSES["trained" if trained else "frozen"] + again
    return matrices * linear + attention * (ATTENTION_PASSES + again)
