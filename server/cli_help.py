"""Help texts that every generating command shows."""

from __future__ import annotations

PROMPT = """\
prompt:
  as an argument, or `-` or nothing to read it from stdin. An argument and a pipe together: what is piped in
  comes first, then an empty line, then the argument (reweigh json --schema s.json 'Who wrote this?' < mail.txt).
  Where stdin is somebody else's, as inside `while read`, say </dev/null."""

ENVELOPE = """\
keys of --json (version 1):
  version          1; raised when a key changes its meaning
  text, parsed     the likeliest text; the value it stands for (null where it is cut or stands for none)
  weight           its probability under the posterior, 0 to 1
  posterior        every distinct text as {"text", "weight", "parsed"}, likeliest first; the weights sum to 1
  log_z            natural log of the estimated probability that the model satisfies the constraint
  ess              effective sample size, 0 to the number of particles
  seed, model      what to give again for the same particles
  usage            prompt_tokens, completion_tokens, sampled_tokens
  timings          seconds: load_s (starting the model), wall_s (from submission to the last token), queued_s of these
  checks_per_token, masks_per_token    candidates tested, bitmasks computed, for each token sampled
  texts, log_weights, weights, finish_reasons, values    a list entry a particle; a dead one has log_weight null
  stats, ancestry  steps, resamplings, ess_history, ...; who descends from whom, as [step, parents]"""

BATCH = """\
batch (--input in.jsonl --output out.jsonl):
  a line      {"id": ..., "prompt": "..."}, or "messages" in place of "prompt"; and, where wanted, "system", "seed",
              "constraint" (a spec, in place of the command's), "particles", "sampler", "ess_threshold", "resampling",
              "temperature", "top_p", "max_tokens", "detox", "debias", "adaptation", and "metadata", which is copied
  a result    {"id", "text", "parsed", "weight", "posterior", "log_z", "ess", "seed", "model", "usage", "timings",
              "checks_per_token", "masks_per_token"} as in --json, or {"id", "error": {"type", "message"}}; lines come in
              the order in which they are done. Without --output they go to stdout
  again       ids that the output holds are skipped, failed ones too unless --retry-failed; a torn last line is mended
  seeds       every id has its own, made from --seed and the id (in bfloat16 what else is in the batch moves the last digits of
              probabilities, and so now and then a draw; --engine-arg dtype=float32 does not)"""
