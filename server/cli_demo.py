"""`reweigh demo`: the same schema with token masking alone, and with weights."""

from __future__ import annotations

import argparse
import json

from server.cli_errors import OK
from server.cli_generate import started
from server.cli_output import emit, summary

DEMO_SCHEMA = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["cat", "dog", "horse", "parrot", "goldfish"]},
        "legs": {"enum": [0, 2, 4]},
        "indoors": {"type": "boolean"},
    },
    "required": ["animal", "legs", "indoors"],
    "additionalProperties": False,
}
DEMO_PROMPT = (
    'A popular pet, described in JSON, for example {"animal": "cat", "legs": 4, "indoors": true}. Another one: '
)


def run(options: argparse.Namespace) -> int:
    emit(f"prompt  {DEMO_PROMPT}\nschema  {json.dumps(DEMO_SCHEMA)}\n")
    with started(options) as model:
        for sampler, what in (("lcd", "token masking alone, as others do it"), ("auto", "weighted: SMC inside vLLM")):
            result = model.engine.generate(
                DEMO_PROMPT,
                json_schema=DEMO_SCHEMA,
                particles=options.particles,
                sampler=sampler,
                ess_threshold=0.0 if sampler == "lcd" else 0.5,
                seed=options.seed,
                max_tokens=48,
            )
            emit(f"{what} ({options.particles} particles)")
            for text, probability in result.posterior().items():
                emit(f"  {probability:6.1%}  {text}")
            if sampler != "lcd":
                emit("\n  particle  log weight  text")
                for k, (weight, text) in enumerate(zip(result.log_weights, result.texts, strict=True)):
                    emit(f"  {k:8d}  {weight:10.3f}  {text}")
                emit(f"\n  best as a Python value: {result.parsed}")
            emit(f"  {summary(result)}\n")
    return OK
