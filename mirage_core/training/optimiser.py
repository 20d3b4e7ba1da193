"""The optimizer, and the average of weights."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..checkpoints.branch_file import shapes_of
from ..errors import ValueRangeError
from ..tensor_files import expect_tensors
from .distributed import gathered, local_shard, sharded_like
from .new_planes import is_plane
from .packages import expect_packages
from .settings import TrainingSettings

MOMENTS: Final = ("exp_avg", "exp_avg_sq")
"""Tensors that AdamW keeps for each parameter."""

MOMENTUM: Final = "momentum_buffer"
"""Tensor that Muon keeps for each matrix."""

_MATRIX: Final = 2
_Part = tuple[list[str], torch.optim.Optimizer, tuple[str, ...]]
"""Names of parameters, what moves them, and the moments that it keeps."""

MUON_MOMENTUM: Final = 0.95


class Optimiser:
    """AdamW on float32 weights, with the run's learning rates; Muon for matrices where asked.

    ``adamw8bit`` is torchao's: moments take a quarter of the memory, in blocks of 256 numbers with
    a factor each. States hold them widened, so they fit any number of processes; taking them up
    rounds them once more.

    Matrices are decayed. Vectors are not: norms, biases, and the tables of the modulation.

    Args:
        parameters: Trained parameters by name, as they are sharded.
        settings: Of the run.

    Raises:
        ValueRangeError: Muon is asked for, and the weights are sharded over processes.
        PackageError: Moments in 8 bits are asked for, and torchao is not installed.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings) -> None:
        self._settings = settings
        self._parameters = dict(parameters)
        turned = [name for name, p in parameters.items() if _is_turned(name, p, settings)]
        rest = [name for name in parameters if name not in set(turned)]
        groups = _by_decay(rest, parameters, settings)
        self._adam = _adam_of(settings)(
            self._groups(groups),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
        )
        self._parts: list[_Part] = [
            ([name for names, _ in groups for name in names], self._adam, MOMENTS)
        ]
        if turned:
            self._expect_whole(turned)
            muon = torch.optim.Muon(
                self._groups([(turned, settings.weight_decay)]),
                lr=settings.learning_rate,
                momentum=MUON_MOMENTUM,
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append((turned, muon, (MOMENTUM,)))

    def step(self, number: int) -> Tensor:
        """Clip the gradients, take step ``number`` (from 0), and forget the gradients.

        Returns:
            Norm of the whole gradient before it was clipped.
        """
        norm = gathered(
            nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.clip_norm)
        )
        for _, optimiser, _ in self._parts:
            if bool(torch.isfinite(norm)):
                for group in optimiser.param_groups:
                    share = 1.0 if group["new"] else self._settings.rest_share(number)
                    _set_rate(group, self._settings.rate(number) * share)
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return norm

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Moments as ``exp_avg.<parameter>``, sharded as they are, those in 8 bits widened."""
        for names, optimiser, moments in self._parts:
            for moment in moments:
                for name in names:
                    state = optimiser.state.get(self._parameters[name])
                    if state:
                        yield f"{moment}.{name}", _widened(state[moment])

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Take up whole moments after so many steps.

        Raises:
            ModelMismatchError: A moment is missing that others are there for, or has another
                shape than its parameter.
        """
        expect_tensors("The saved moments", shapes_of(tensors), self._expected(tensors))
        if self._settings.optimiser == "adamw8bit":
            self._load_narrowed(tensors, steps)
            return
        for names, optimiser, moments in self._parts:
            state: dict[int, dict[str, Any]] = {}
            for number, name in enumerate(names):
                if f"{moments[0]}.{name}" not in tensors:
                    continue
                parameter = self._parameters[name]
                state[number] = {
                    moment: sharded_like(tensors[f"{moment}.{name}"], parameter.data)
                    for moment in moments
                }
                if optimiser is self._adam:
                    state[number]["step"] = torch.tensor(float(steps))
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": state, "param_groups": groups})

    def _load_narrowed(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Take up moments in 8 bits; a step with no gradients at rate 0 makes room for them."""
        names = [name for name in self._parameters if f"{MOMENTS[0]}.{name}" in tensors]
        for name in names:
            self._parameters[name].grad = torch.zeros_like(self._parameters[name])
        for group in self._adam.param_groups:
            _set_rate(group, 0.0)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        for name in names:
            parameter = self._parameters[name]
            state = self._adam.state[parameter]
            state["step"].fill_(float(steps))
            for moment in MOMENTS:
                saved = sharded_like(tensors[f"{moment}.{name}"], parameter.data)
                local_shard(state[moment]).copy_(local_shard(saved))

    def _expected(self, found: Container[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of all moments of the parameters that ``found`` has any of."""
        return {
            f"{moment}.{name}": tuple(self._parameters[name].shape)
            for names, _, moments in self._parts
            for name in names
            if any(f"{other}.{name}" in found for other in moments)
            for moment in moments
        }

    def _groups(self, groups: list[tuple[list[str], float]]) -> list[dict[str, Any]]:
        return [
            {
                "params": [self._parameters[name] for name in names],
                "weight_decay": decay,
                "new": is_plane(names[0]),
            }
            for names, decay in groups
            if names
        ]

    def _expect_whole(self, names: list[str]) -> None:
        shared = [n for n in names if local_shard(self._parameters[n]) is not self._parameters[n]]
        if shared:
            raise ValueRangeError(
                "Muon needs whole matrices, and the weights are sharded over processes",
                got=f"{len(shared)} matrices in parts",
                fix="Train in one process, or choose the optimiser adamw",
            )


class Ema:
    """A running average of weights: ``e = d e + (1 - d) w`` after every step.

    In the first steps d is ``(1 + step) / (10 + step)``, so that the average does not hang on
    to the beginning.

    Args:
        parameters: Trained parameters by name, as they are sharded.
        decay: d.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._decay = decay
        self._parameters = dict(parameters)
        self._average = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step``, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            [local_shard(self._average[name]) for name in self._parameters],
            [local_shard(parameter.detach()) for parameter in self._parameters.values()],
            1 - decay,
        )

    @torch.no_grad()
    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own ones, bit for bit, outside."""
        own = {name: local_shard(p.detach()).clone() for name, p in self._parameters.items()}
        self._write({name: local_shard(average) for name, average in self._average.items()})
        try:
            yield
        finally:
            self._write(own)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The averages by parameter, sharded as they are."""
        yield from self._average.items()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up whole averages.

        Raises:
            ModelMismatchError: They are not those of the parameters.
        """
        expect_tensors("The saved average", shapes_of(tensors), shapes_of(self._parameters))
        self._average = {
            name: sharded_like(tensors[name], parameter.data)
            for name, parameter in self._parameters.items()
        }

    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            local_shard(parameter.detach()).copy_(values[name])


def _by_decay(
    names: list[str], parameters: Mapping[str, Tensor], settings: TrainingSettings
) -> list[tuple[list[str], float]]:
    """Names with their weight decay; those of input planes stand apart from all others."""
    groups: list[tuple[list[str], float]] = []
    for plane in (False, True):
        part = [name for name in names if is_plane(name) == plane]
        for matrix, decay in ((True, settings.weight_decay), (False, 0.0)):
            chosen = [name for name in part if _is_matrix(name, parameters[name]) == matrix]
            groups.append((chosen, decay))
    return groups


def _adam_of(settings: TrainingSettings) -> Any:
    """The class that moves what Muon does not."""
    if settings.optimiser != "adamw8bit":
        return torch.optim.AdamW
    expect_packages(settings)
    from torchao.optim import AdamW8bit

    return AdamW8bit


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the rate of a group of parameters; torchao keeps it as a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _widened(moment: Tensor) -> Tensor:
    """A moment in float32, sharded as it is; torchao's tensors of 8 bits widen themselves."""
    local = local_shard(moment)
    widen = getattr(local, "dequantize", None)
    if not isinstance(local, Tensor) or type(local) is Tensor or widen is None:
        return moment
    plain: Tensor = widen()
    if not isinstance(moment, DTensor):
        return plain
    return DTensor.from_local(
        plain, moment.device_mesh, moment.placements,
        run_check=False, shape=moment.shape, stride=moment.stride(),
    )  # fmt: skip


def _is_turned(name: str, parameter: Tensor, settings: TrainingSettings) -> bool:
    """Whether Muon takes it: matrices between hidden states, and none that touch data or time."""
    return settings.optimiser == "muon" and parameter.ndim == _MATRIX and "blocks." in name


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and not name.endswith("scale_shift_table")
