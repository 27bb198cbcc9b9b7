"""Which sampling parameters a particle's request may carry: anything else would change the target unseen, and is refused."""

from __future__ import annotations

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from decoding.member import Member
from grammars.errors import RequestError

# Parameter, its neutral value, and why another one is refused.
_CHANGES_P = "would change p behind the weights' back"
_NEUTRAL: tuple[tuple[str, object, str], ...] = (
    ("n", 1, "is the group's own number of particles: use `particles`"),
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


def particle_params(member: Member) -> SamplingParams:
    """The parameters of one particle's request. Greedy towards vLLM: the row sampler has already drawn the token."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=member.max_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if member.stream else RequestOutputKind.FINAL_ONLY,
        extra_args=member.extra_args(),
    )


def check_params(params: SamplingParams) -> None:
    """Raise RequestError (a ValueError: HTTP 400) for a particle's request that vLLM would distort."""
    member = Member.of(params)
    if member is None:
        return
    member.check()
    if params.temperature != 0.0:
        raise RequestError(
            f"temperature={params.temperature} on a particle's request: 0 was wanted towards vLLM, "
            "the temperature of p stands in the particle's own order"
        )
    for name, neutral, reason in _NEUTRAL:
        value = getattr(params, name)
        if value != neutral and value not in ([], {}, ()):
            raise RequestError(f"{name}={value!r} {reason}")
