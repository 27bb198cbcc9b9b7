"""Which sampling parameters a weighted request may carry: anything else would change the target unseen, and is refused."""

from __future__ import annotations

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from decoding.order import Order
from grammars.errors import RequestError

# Parameter, its neutral value, and why another one is refused.
_CHANGES_P = "would change p behind the weights' back"
_NEUTRAL: tuple[tuple[str, object, str], ...] = (
    ("n", 1, "does not go with weighted draws: use `particles`"),
    ("top_p", 1.0, _CHANGES_P),
    ("top_k", 0, _CHANGES_P),
    ("min_p", 0.0, _CHANGES_P),
    ("presence_penalty", 0.0, _CHANGES_P),
    ("frequency_penalty", 0.0, _CHANGES_P),
    ("repetition_penalty", 1.0, _CHANGES_P),
    ("logit_bias", None, _CHANGES_P),
    ("bad_words", None, _CHANGES_P),
    ("allowed_token_ids", None, _CHANGES_P + "; use choice or regex"),
    ("structured_outputs", None, "is vLLM's own token masking: give the constraint to reweigh instead"),
    ("stop", None, "cuts texts after they are weighted: put the ending into the constraint"),
    ("stop_token_ids", None, "cuts texts after they are weighted: put the ending into the constraint"),
    ("seed", None, "is not the particles' seed: use reweigh's"),
    ("min_tokens", 0, _CHANGES_P),
)


def order_params(order: Order) -> SamplingParams:
    """Parameters of the request that carries a group's order. Greedy towards vLLM: the row sampler has drawn the token."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=order.max_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if order.stream else RequestOutputKind.FINAL_ONLY,
        extra_args=order.extra_args(),
    )


def check_params(params: SamplingParams) -> None:
    """Raise RequestError (a ValueError: HTTP 400) for a weighted request that vLLM would distort."""
    order = Order.of(params)
    if order is None:
        return
    order.check()
    if params.temperature != 0.0:
        raise RequestError(
            f"temperature={params.temperature} on a weighted request: 0 was wanted towards vLLM, "
            "the temperature of p stands in the order"
        )
    for name, neutral, reason in _NEUTRAL:
        value = getattr(params, name)
        if value != neutral and value not in ([], {}, ()):
            raise RequestError(f"{name}={value!r} {reason}")
