"""Sequential Monte Carlo in vLLM's scheduler: particles wait for each other, and resampling forks requests in place.

Engine argument: scheduler_cls="decoding.vllm_scheduler.ReweighScheduler". Every private touch point of the project with
vLLM's scheduler is in this file. What it overrides and why:
    add_request                   a request that carries a `Member` joins its group
    schedule                      particles that have their token are hidden until their group has committed
    _update_request_with_output   a particle's token goes to its group; nothing is sent while it may still be replaced
    update_from_output            groups commit, rows are retired and forked, finished groups are sent
    _get_local_prefix_cache_hit   a fork starts from its parent's own KV blocks, the last one copied on write; so do a
                                  group's particles at first, from the one that computes their prompt
    finish_requests               a group is aborted as a whole
A fork is a new request under the child's id whose prompt is the parent's text so far. Where the parent's blocks cannot be
shared (it was preempted, prefix caching is off, the cache is not one group of full attention) vLLM's ordinary prefix
look-up finds what it can and the rest is computed again: slower, never wrong.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from decoding.groups import Group, Status
from decoding.member import KEY, Member
from decoding.vllm_worker import ATTRIBUTE
from grammars.errors import EngineError

# A group's other particles wait for the first one's prompt where that saves at least so many tokens of prefill: what is
# computed again for each particle is the prompt's last block. On a GPU a step's latency outweighs far more tokens.
SHARED_PREFILL_TOKENS = 64 if current_platform.is_cpu() else 2048


@dataclass
class Run:
    """A group under way. ids and origins: each particle's request id and its request as it came."""

    group: Group
    ids: dict[int, str] = field(default_factory=dict)
    origins: dict[int, Request] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.ids) == self.group.first.num_particles


class ReweighScheduler(Scheduler):
    """vLLM's scheduler that also runs groups of particles."""

    running: list[Request]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refuse_unsound_settings()
        self.runs: dict[str, Run] = {}
        self._members: dict[str, tuple[Run, Member]] = {}
        self._fork_parents: dict[str, str] = {}
        self._posts: dict[tuple[str, int], Any] = {}
        self._touched: dict[str, Run] = {}
        self._unsent: list[tuple[int, EngineCoreOutput]] = []
        groups = self.kv_cache_config.kv_cache_groups
        self.shares_blocks = (
            bool(self.cache_config.enable_prefix_caching)
            and len(groups) == 1
            and isinstance(groups[0].kv_cache_spec, FullAttentionSpec)
        )
        self.forks_shared = 0
        self.forks_recomputed = 0
        self.preemptions = 0

    def _refuse_unsound_settings(self) -> None:
        config = self.vllm_config
        for wrong, what, remedy in (
            (config.scheduler_config.async_scheduling, "async_scheduling", "pass async_scheduling=False"),
            (
                config.speculative_config is not None,
                "speculative decoding",
                "it samples the locally masked law; turn it off",
            ),
            (config.parallel_config.pipeline_parallel_size > 1, "pipeline parallelism", "use tensor parallelism"),
            (config.parallel_config.data_parallel_size > 1, "data parallelism", "run one engine a replica"),
            (config.kv_transfer_config is not None, "a KV connector", "turn it off"),
        ):
            if wrong:
                raise EngineError(f"{what} and weighted sampling do not go together: {remedy}.")

    # Requests come and go

    def add_request(self, request: Request) -> None:
        member = Member.of(request.sampling_params)
        super().add_request(request)
        if member is None:
            return
        run = self.runs.get(member.group)
        if run is None:
            run = self.runs[member.group] = Run(Group(member))
        run.ids[member.particle] = request.request_id
        run.origins[member.particle] = request
        self._members[request.request_id] = run, member
        last_block = (request.num_prompt_tokens - 1) % self.block_size
        saved = last_block * (member.num_particles - 1)
        if self.shares_blocks and saved >= SHARED_PREFILL_TOKENS and member.particle > 0 and 0 in run.ids:
            self._fork_parents[request.request_id] = run.ids[0]
        if member.num_particles > self.max_num_running_reqs:
            run.group.error = (
                "RequestError",
                f"particles={member.num_particles} is more than the engine's max_num_seqs={self.max_num_running_reqs}",
            )
            self._touched[member.group] = run

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        """An abort of one particle is an abort of its group: the others' weights mean nothing without it."""
        if request_ids is None:
            self._forget(list(self.runs.values()))
            return super().finish_requests(None, finished_status)
        ids = {request_ids} if isinstance(request_ids, str) else set(request_ids)
        runs = {id(where[0]): where[0] for where in map(self._members.get, ids) if where is not None}
        for run in runs.values():
            for particle, request_id in run.ids.items():
                if request_id not in ids:
                    ids.add(request_id)
                    client = run.origins[particle].client_index
                    self._unsent.append((client, _output(request_id, [], FinishReason.ABORT, None)))
        self._forget(runs.values())
        return super().finish_requests(ids, finished_status)

    def _forget(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self.runs.pop(run.group.first.group, None)
            self._touched.pop(run.group.first.group, None)
            for request_id in run.ids.values():
                self._members.pop(request_id, None)
                self._fork_parents.pop(request_id, None)

    # The barrier

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        held_running = [request for request in self.running if self._is_held(request)]
        held_waiting = (
            [request for request in self.waiting if self._is_held(request)] if held_running or self.runs else []
        )
        if held_running:
            self.running = [request for request in self.running if not self._is_held(request)]
            self.max_num_active_reqs -= len(held_running)
        if held_waiting:
            self.waiting.remove_requests(held_waiting)
        output = super().schedule(throttle_prefills)
        if held_running:
            self.running = held_running + self.running
            self.max_num_active_reqs += len(held_running)
        for request in reversed(held_waiting):
            self.waiting.prepend_request(request)
        if held_running and not output.total_num_scheduled_tokens:
            # The others cannot get blocks while these keep theirs: give some back, to be computed again later.
            victim = self.running.pop(self.running.index(held_running[-1]))
            self._preempt_request(victim, time.monotonic())
        return output

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.preemptions += 1
        super()._preempt_request(request, *args, **kwargs)

    def _is_held(self, request: Request) -> bool:
        """Whether a particle has to wait: for the others' tokens, or for the first one to have computed their prompt."""
        where = self._members.get(request.request_id)
        if where is None:
            return False
        if where[0].group.holds(where[1].particle):
            return True
        parent_id = self._fork_parents.get(request.request_id)
        if parent_id is None or request.status is not RequestStatus.WAITING:
            return False
        parent, behind = self.requests.get(parent_id), self._members[parent_id]
        if parent is None or behind[0].group.holds(behind[1].particle):
            return False  # it is gone, or waits itself: to wait for it would be to wait for ever
        return parent.num_computed_tokens < request.num_tokens - 1

    # Tokens come in, groups commit

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        where = self._members.get(request.request_id)
        if where is None:
            return super()._update_request_with_output(request, new_token_ids, is_stale)
        run, member = where
        post = self._posts.get((member.group, member.particle))
        if post is None or len(new_token_ids) != 1:
            run.group.error = (
                "EngineError",
                "a token arrived without its weight: call collective_rpc('reweigh_install')",
            )
        else:
            run.group.post(member.particle, post)
            request.append_output_token_ids(new_token_ids)
        self._touched[member.group] = run
        return [], False

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        self._posts = getattr(model_runner_output, ATTRIBUTE, {})
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        touched, self._touched = self._touched, {}
        for run in touched.values():
            if run.group.error is None and run.group.ready and (run.complete or not run.group.lockstep):
                self._commit(run)
            if run.group.finished and run.complete:
                self._finish(run)
        for client, output in self._unsent:
            outputs.setdefault(client, EngineCoreOutputs()).outputs.append(output)
        self._unsent = []
        return outputs

    def _commit(self, run: Run) -> None:
        step = run.group.commit()
        if run.group.first.stream and run.group.live:
            request = run.origins[0]
            self._unsent.append((request.client_index, _output(run.ids[0], run.group.tokens[0][-1:], None, None)))
        self._retire(run.ids[particle] for particle in step.retired)
        for child, parent in step.forks:
            self._fork(run, child, parent)

    def _retire(self, request_ids: Iterable[str]) -> None:
        ids = [request_id for request_id in request_ids if request_id in self.requests]
        if ids:
            super().finish_requests(ids, RequestStatus.FINISHED_STOPPED)

    def _finish(self, run: Run) -> None:
        """Send every particle's text and, with the first one, what there is to know of the group."""
        group = run.group
        for particle, request_id in run.ids.items():
            tokens = group.tokens[particle]
            if group.first.stream:
                # All but a last one that was kept at max_tokens is out already.
                tokens = tokens[-1:] if group.status[particle] is Status.LENGTH else []
            reason = FinishReason.LENGTH if group.status[particle] is Status.LENGTH else FinishReason.STOP
            summary = {KEY: group.summary()} if particle == 0 else None
            self._unsent.append((run.origins[particle].client_index, _output(request_id, tokens, reason, summary)))
        self._retire(list(run.ids.values()))
        self._forget([run])

    # Forks

    def _fork(self, run: Run, child: int, parent: int) -> None:
        """Put a new request in the child's place that goes on from the parent's text."""
        self._retire([run.ids[child]])
        origin, source = run.origins[child], self.requests[run.ids[parent]]
        params = copy.copy(origin.sampling_params)
        member = self._members[run.ids[child]][1].forked(history=len(run.group.tokens[child]), parent=parent)
        params.extra_args = member.extra_args()
        request = Request(
            request_id=run.ids[child],
            prompt_token_ids=list(source.all_token_ids),
            sampling_params=params,
            pooling_params=None,
            client_index=origin.client_index,
            arrival_time=origin.arrival_time,
            lora_request=origin.lora_request,
            cache_salt=origin.cache_salt,
            priority=origin.priority,
            trace_headers=origin.trace_headers,
        )
        # The parent's hashes are the child's: hashing the text again would cost its length.
        request.block_hashes = list(source.block_hashes)
        request._block_hasher = source._block_hasher
        request.prefill_stats = None
        self.requests[request.request_id] = request
        self.waiting.prepend_request(request)
        self._fork_parents[request.request_id] = source.request_id

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        parent_id = self._fork_parents.get(request.request_id)
        if parent_id is None or request.status is not RequestStatus.WAITING:
            return super()._get_local_prefix_cache_hit(request)
        parent, computed = self.requests.get(parent_id), request.num_tokens - 1
        if (
            self.shares_blocks
            and parent is not None
            and parent.num_computed_tokens >= computed
            and parent.all_token_ids[:computed] == request.all_token_ids[:computed]
        ):
            self.forks_shared += 1
            blocks = self.kv_cache_manager.get_blocks(parent_id).blocks[0][: -(-computed // self.block_size)]
            return KVCacheBlocks((blocks,)), computed, 0, False
        self.forks_recomputed += 1
        return super()._get_local_prefix_cache_hit(request)


def _output(
    request_id: str, tokens: list[int], reason: FinishReason | None, summary: dict[str, Any] | None
) -> EngineCoreOutput:
    return EngineCoreOutput(
        request_id=request_id, new_token_ids=list(tokens), finish_reason=reason, kv_transfer_params=summary
    )
