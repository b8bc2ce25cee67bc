"""How a step's gradients become an update and where the state lives: plain torch, or DeepSpeed with ZeRO.

Knows parameters, an optimizer, the workers, and DeepSpeed (nothing else imports it). Never knows pairs, a schedule or a
budget. Both engines give the same numbers to rounding, and read each other's state: it travels whole, in float32 or
wider, by parameter name, whatever the number of workers or the ZeRO stage.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW

from trainer.encoder import Chunk, Encoder
from trainer.memory import DEEPSPEED_BUCKET_ELEMENTS, DEEPSPEED_LIVE_ELEMENTS
from trainer.methods import decay_groups
from trainer.trial import Hyperparameters, Placement
from trainer.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")
WHOLE_PARAMETER_ELEMENTS = 4096
"""ZeRO-3 leaves smaller parameters (biases and norms) on every worker and partitions the matrices."""

State = dict[str, Tensor]
"""``parameter/<name>``, ``optimizer/<name>/<moment>`` and ``optimizer/step``, whole, on the host."""


class Engine(Protocol):
    """One worker's hold on a model in training. Every worker calls every method, in the same order."""

    encoder: Encoder
    keeps_last_chunk: bool
    """Whether a step may keep the activations of its last chunk and recompute those before it."""

    def __call__(self, chunk: Chunk) -> Tensor:
        """Embeddings of a chunk of B texts, (B, D) in float32 or wider."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss that every worker computes alike, of which each holds the graph of its own texts."""

    def step(self, learning_rate: float) -> float:
        """One update; returns the global gradient norm before clipping. A gradient that is not finite changes nothing
        in plain torch; DeepSpeed may have applied it, so the trial has to end."""

    def state(self) -> State:
        """Everything an engine needs to go on from here. ``restore`` of an engine of any kind takes it."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""

    def trained(self) -> dict[str, Tensor]:
        """The trained parameters by name, whole, in float32 or wider, on the host."""


def start(encoder: Encoder, hyperparameters: Hyperparameters, placement: Placement, world: World) -> Engine:
    """The engine that ``placement`` asks for, with AdamW over the parameters of ``encoder`` that require gradients."""
    torch.backends.cuda.matmul.fp32_precision = "tf32" if placement.tf32 else "ieee"
    if placement.zero_stage is None:
        return TorchEngine(encoder, hyperparameters, placement, world)
    return DeepSpeedEngine(encoder, hyperparameters, placement, world)


def _trained(encoder: Encoder) -> dict[str, Parameter]:
    return {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def _adamw(parameters: Mapping[str, Parameter], weight_decay: float) -> AdamW:
    groups = decay_groups(parameters.values(), weight_decay)
    return AdamW([group for group in groups if group["params"]], fused=True)


def _prime(optimizer: torch.optim.Optimizer, parameter: Tensor) -> None:
    """The optimizer's state of a parameter before its first step, which AdamW makes no sooner than it needs it."""
    optimizer.state[parameter] = {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
    }


def _clip(parameters: Mapping[str, Parameter], largest_norm: float) -> Tensor:
    """The global gradient norm; where it is larger than ``largest_norm`` (and that is not 0) gradients are scaled."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters.values() if p.grad is not None])
    if largest_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(list(parameters.values()), largest_norm, norm)
    return norm


class TorchEngine:
    """Every worker has all weights and moments; gradients are summed over the workers."""

    def __init__(self, encoder: Encoder, hyperparameters: Hyperparameters, placement: Placement, world: World) -> None:
        self.encoder = encoder
        self.keeps_last_chunk = True
        self._world = world
        self._clipping = hyperparameters.gradient_clipping
        # No cache: one rounded copy of a weight for all chunks would add up their gradients in bfloat16.
        self._autocast = torch.autocast(
            placement.device, torch.bfloat16, enabled=placement.dtype == "bfloat16", cache_enabled=False
        )
        self._parameters = _trained(encoder)
        self._optimizer = _adamw(self._parameters, hyperparameters.weight_decay)
        for parameter in self._parameters.values():
            _prime(self._optimizer, parameter)

    def __call__(self, chunk: Chunk) -> Tensor:
        with self._autocast:
            embeddings: Tensor = self.encoder(chunk)
        return embeddings

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._world.add_up([p.grad for p in self._parameters.values() if p.grad is not None])

    def step(self, learning_rate: float) -> float:
        norm = _clip(self._parameters, self._clipping).item()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if norm < float("inf"):
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def state(self) -> State:
        state = {f"parameter/{name}": tensor for name, tensor in self.trained().items()}
        for name, parameter in self._parameters.items():
            of_parameter = self._optimizer.state[parameter]
            state |= {f"optimizer/{name}/{moment}": of_parameter[moment].cpu() for moment in MOMENTS}
            state["optimizer/step"] = of_parameter["step"].cpu()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state[f"parameter/{name}"])
                of_parameter = self._optimizer.state[parameter]
                of_parameter["step"].copy_(state["optimizer/step"])
                for moment in MOMENTS:
                    of_parameter[moment].copy_(state[f"optimizer/{name}/{moment}"])

    def trained(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu() for name, parameter in self._parameters.items()}


class DeepSpeedEngine:
    """DeepSpeed holds weights, gradients and moments, partitioned over the workers as its ZeRO stage says."""

    def __init__(self, encoder: Encoder, hyperparameters: Hyperparameters, placement: Placement, world: World) -> None:
        deepspeed = _load_deepspeed(placement)
        assert placement.zero_stage is not None
        self.encoder = encoder
        self._world = world
        self._stage = placement.zero_stage
        # Stage 3 gathers weights for each pass of a block, and a plain backward pass before a recomputed one lets go of
        # weights that the latter still needs.
        self.keeps_last_chunk = self._stage < 3
        self._clipping = hyperparameters.gradient_clipping
        self._parameters = _trained(encoder)
        started_from = {name: p.detach().cpu().clone() for name, p in self._parameters.items()}
        optimizer = _adamw(self._parameters, hyperparameters.weight_decay)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=encoder,
            optimizer=optimizer,
            model_parameters=list(self._parameters.values()),
            config=_configuration(self._clipping, placement),
            dist_init_required=False,
        )
        self._engine.eval()
        self._base = optimizer
        self._fragments = deepspeed.utils
        for parameter in self._partitions():
            _prime(self._base, parameter)
        if self._stage in (1, 2):
            # The moments' fragments are looked up by name only once they are linked, which it does at its first step.
            self._optimizer._lazy_init_hp_params_optimizer_state()
        if placement.dtype == "bfloat16":
            # The float32 weights it trains are copies of weights it has rounded: put back what was rounded off.
            for name, parameter in self._parameters.items():
                self._set(parameter, started_from[name])

    def __call__(self, chunk: Chunk) -> Tensor:
        embeddings: Tensor = self._engine(chunk)
        return embeddings

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over the workers; the gradient is their sum.
        self._engine.backward(loss * self._world.size)

    def step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = _clip(self._parameters, self._clipping) if self._stage == 0 else None
        self._engine.step()
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def state(self) -> State:
        state = {f"parameter/{name}": tensor for name, tensor in self.trained().items()}
        for name, parameter in self._parameters.items():
            for moment in MOMENTS:
                state[f"optimizer/{name}/{moment}"] = self._moment(parameter, moment)
        state["optimizer/step"] = self._base.state[self._partitions()[0]]["step"].cpu()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for partition in self._partitions():
            self._base.state[partition]["step"].copy_(state["optimizer/step"])
        for name, parameter in self._parameters.items():
            weights = state[f"parameter/{name}"]
            self._set(parameter, weights)
            self._set_computing_copy(parameter, weights)
            for moment in MOMENTS:
                self._set(parameter, state[f"optimizer/{name}/{moment}"], moment)

    def trained(self) -> dict[str, Tensor]:
        return {name: self._weights(parameter) for name, parameter in self._parameters.items()}

    def _partitions(self) -> list[Tensor]:
        """What the optimizer updates: the parameters themselves, or the flat partitions that this worker owns."""
        if self._stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return [parameter for group in self._base.param_groups for parameter in group["params"]]

    def _weights(self, parameter: Parameter) -> Tensor:
        whole = parameter if self._stage == 0 else self._fragments.safe_get_full_fp32_param(parameter)
        return whole.detach().cpu().clone()

    def _moment(self, parameter: Parameter, moment: str) -> Tensor:
        whole: Tensor = (
            self._base.state[parameter][moment]
            if self._stage == 0
            else self._fragments.safe_get_full_optimizer_state(parameter, moment)
        )
        return whole.cpu().clone()

    def _set(self, parameter: Parameter, whole: Tensor, moment: str | None = None) -> None:
        """Put a whole tensor in place of the float32 weights that are trained, or of a moment."""
        value = whole.to(parameter.device)
        if self._stage == 0:
            (parameter.data if moment is None else self._base.state[parameter][moment]).copy_(value)
            return
        scope = "full"
        if self._stage == 3:
            # DeepSpeed would cut the worker's part by itself, but fails where the parts are not of one size.
            scope, size = "local", parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # DeepSpeed's
            own = value.flatten()[self._world.rank * size :][:size]
            value = torch.nn.functional.pad(own, (0, size - len(own)))
        if moment is None:
            getattr(self._fragments, f"safe_set_{scope}_fp32_param")(parameter, value)
        else:
            getattr(self._fragments, f"safe_set_{scope}_optimizer_state")(parameter, value, moment)

    def _set_computing_copy(self, parameter: Parameter, whole: Tensor) -> None:
        import deepspeed

        with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3):
            if self._stage < 3 or self._world.leads:
                parameter.copy_(whole.to(parameter.device))


def _load_deepspeed(placement: Placement) -> Any:
    os.environ["DS_ACCELERATOR"] = placement.device
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On a CPU it would compile an operator for shared memory at each first start, which needs a compiler and, when it
    # is killed, leaves a lock that every later start waits on for ever. Without it gloo is used.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _configuration(clipping: float, placement: Placement) -> dict[str, Any]:
    """DeepSpeed's own configuration: nothing in it is left to a default that changes numbers."""
    zero: dict[str, Any] = {
        "stage": placement.zero_stage,
        "reduce_bucket_size": DEEPSPEED_BUCKET_ELEMENTS,
        "stage3_max_live_parameters": DEEPSPEED_LIVE_ELEMENTS,
        "stage3_max_reuse_distance": DEEPSPEED_LIVE_ELEMENTS,
        "stage3_param_persistence_threshold": WHOLE_PARAMETER_ELEMENTS,
    }
    if placement.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if placement.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        # The step is one backward pass over the whole batch: what DeepSpeed counts as its batch is of no meaning.
        "train_batch_size": placement.num_workers,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Its default is 1.0, which scales gradients without a word. At stage 0 the engine clips by itself.
        "gradient_clipping": clipping if placement.zero_stage else 0.0,
        "bf16": {"enabled": placement.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
