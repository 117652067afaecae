"""Weights that are stored in few bits: what they stand for, by the package's own arithmetic.

Nothing here is imported from those packages unless a model has such weights, in which case it is there.

Source: LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339); QLoRA (Dettmers et al. 2023, arXiv
2305.14314); the packages' documentation.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Quantised(ABC):
    """The quantised weight of one linear.

    Attributes:
        module: that has it, and multiplies by it.
        stored: the parameter as it is.
    """

    module: nn.Module
    stored: Tensor
    dtype: ClassVar[torch.dtype] = torch.float32

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it is quantised by, in words."""

    @property
    def beside(self) -> dict[str, Any]:
        """What decides a pass beside the kind and the numbers: tensors, and what its own text tells."""
        return {}

    @property
    def problem(self) -> str | None:
        """Why it cannot be read as numbers, or None."""
        if self.stored.is_meta:
            return "it is quantised and offloaded at once. Load the quantised model without offloading"
        return None

    @property
    def shape(self) -> torch.Size:
        """`[n_out, n_in]`."""
        return self.stored.shape

    @abstractmethod
    def weight(self) -> Tensor:
        """What passes multiply by, `[n_out, n_in]`, in float32."""

    def bias(self, stored: Tensor) -> Tensor:
        """What passes add, in float32; the first one may store it in another precision."""
        return stored.float()


class _EightBits(Quantised):
    """bitsandbytes' LLM.int8(): whole numbers, and a scale for each output."""

    @property
    def kind(self) -> str:
        return f"bitsandbytes int8 (threshold {self._state.threshold:g})"

    @property
    def problem(self) -> str | None:
        if self.stored.is_floating_point():
            return (
                "bitsandbytes keeps it in floating point and quantises it anew in each pass "
                "(has_fp16_weights), or has not quantised it yet. Load the model with "
                "has_fp16_weights=False and move it to its device"
            )
        if self._scales is None and not self.stored.is_meta:
            return "its scales are lost. Load the quantised model anew"
        return super().problem

    @property
    def _state(self) -> Any:
        return self.module.state

    @property
    def _scales(self) -> Any:
        fresh = getattr(self.stored, "SCB", None)
        return fresh if self._is_fresh or self._state.SCB is None else self._state.SCB

    @property
    def _is_fresh(self) -> bool:
        """Whether the next pass moves numbers and scales from the parameter to the module's state."""
        return getattr(self.stored, "CB", None) is not None

    def weight(self) -> Tensor:
        from bitsandbytes.functional import int8_vectorwise_dequant

        held: Any = self.stored
        moved = held.data if self._state.CB is None else self._state.CB
        found: Tensor = int8_vectorwise_dequant(held.CB if self._is_fresh else moved, self._scales)
        return found


class _FourBits(Quantised):
    """bitsandbytes' nf4 and fp4: numbers from a table of sixteen, and a scale for each block of them.

    On a CPU with AVX512-BF16 the first pass without a gradient packs them in another order, with the
    scales in bfloat16. What is read here is what passes multiply by, before and after.
    """

    @property
    def kind(self) -> str:
        state, wanted = self._quant_state, self._computes_in
        # Without a wish the first pass notes that of its input, which is that of the weight once.
        usual = wanted in (None, state.original_dtype if self._is_packed else state.dtype)
        return f"bitsandbytes {state.quant_type}{'' if usual else f' (computed in {wanted})'}"

    @property
    def problem(self) -> str | None:
        if self._quant_state is None:
            return "bitsandbytes has not quantised it yet. Move the model to its device first"
        if self._quant_state.shape != self.shape:
            return (
                f"bitsandbytes has quantised it as {tuple(self._quant_state.shape)}, and not as "
                f"{tuple(self.shape)}, [n_out, n_in]. Quantise the model anew"
            )
        return super().problem

    @property
    def shape(self) -> torch.Size:
        linear: Any = self.module
        return torch.Size((linear.out_features, linear.in_features))

    @property
    def _quant_state(self) -> Any:
        own = getattr(self.stored, "quant_state", None)
        return own if own is not None else getattr(self.module, "quant_state", None)

    def weight(self) -> Tensor:
        from bitsandbytes import functional

        state, numbers = copy.copy(self._quant_state), self.stored.data
        if self._is_packed:
            scales = state.absmax.T.reshape(-1)
            # Of its scales' second quantisation nothing is left, so that there is nothing to restore.
            state.original_nested = False
            numbers, state = functional._convert_weight_packed_for_cpu_inverse(numbers, state)
        else:
            scales = state.absmax
            if state.nested:
                scales = functional.dequantize_blockwise(scales, state.state2) + state.offset
            if self._will_be_packed:
                scales = scales.bfloat16()
        state.absmax, state.nested, state.dtype = scales.float().contiguous(), False, torch.float32
        found: Tensor = functional.dequantize_4bit(numbers.reshape(-1, 1), state)
        return found

    def bias(self, stored: Tensor) -> Tensor:
        return stored.to(self._computes_in or stored.dtype).float()

    @property
    def _computes_in(self) -> torch.dtype | None:
        found: torch.dtype | None = getattr(self.module, "compute_dtype", None)
        return found

    @property
    def _is_packed(self) -> bool:
        return bool(getattr(self._quant_state, "packing_format_for_cpu", False))

    @property
    def _will_be_packed(self) -> bool:
        able = bool(getattr(self.module, "support_avx512bf16_for_cpu", False))
        return able and self.stored.device.type == "cpu" and not self.module.training


# Those of torchao's tensors whose product was compared with that of what they are dequantised to. Others
# multiply by something else in training (BitNet's), or take other arguments (NF4).
_KNOWN_OF_TORCHAO = ("Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor")
_PARTS_OF_TORCHAO = (
    "tensor_attribute_names",
    "optional_tensor_attribute_names",
    "optional_tensor_data_names",
)


class _OfTorchao(Quantised):
    """torchao's tensors, which know what they stand for."""

    @property
    def kind(self) -> str:
        ways = (
            getattr(self.stored, name, None) for name in ("act_quant_kwargs", "activation_quantization")
        )
        inputs = "" if all(way is None for way in ways) else " (inputs quantised too)"
        return f"torchao {type(self.stored).__name__}{inputs}"

    @property
    def beside(self) -> dict[str, Any]:
        lists = (getattr(self.stored, part, ()) for part in _PARTS_OF_TORCHAO)
        return {name: getattr(self.stored, name, None) for names in lists for name in names}

    @property
    def problem(self) -> str | None:
        name = type(self.stored).__name__
        if name not in _KNOWN_OF_TORCHAO:
            known = ", ".join(_KNOWN_OF_TORCHAO)
            return (
                f"torchao's {name} is none of the kinds whose product is known to be that of the "
                f"dequantised weight ({known}). Quantise the model as one of these"
            )
        if getattr(self.stored, "act_pre_scale", None) is not None:
            return (
                f"torchao's {name} multiplies its inputs by an act_pre_scale first, which is no part of "
                "the weight. Quantise the model without smoothing (SmoothQuant, AWQ)"
            )
        return super().problem

    def weight(self) -> Tensor:
        found: Tensor = self.stored.dequantize()
        return found.float()


_OF_BITSANDBYTES = {"Int8Params": _EightBits, "Params4bit": _FourBits}


def quantised(module: nn.Module, name: str) -> Quantised | None:
    """The quantised weight of a module under a name; None where it is a plain one.

    Examples:
        >>> quantised(torch.nn.Linear(2, 3), "weight") is None
        True
    """
    stored = module._parameters.get(name)
    if stored is None or type(stored) is nn.Parameter:
        return None
    package = type(stored).__module__.split(".")[0]
    if package == "bitsandbytes" and type(stored).__name__ in _OF_BITSANDBYTES:
        return _OF_BITSANDBYTES[type(stored).__name__](module, stored)
    return _OfTorchao(module, stored) if package == "torchao" else None


def kinds_of(model: nn.Module) -> tuple[str, ...]:
    """What the weights of a model are quantised by; none where all are plain.

    Examples:
        >>> kinds_of(model)
        ()
    """
    found = (quantised(module, name) for module in model.modules() for name in module._parameters)
    return tuple(sorted({each.kind for each in found if each is not None}))
