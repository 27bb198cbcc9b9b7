"""Sequential Monte Carlo in vLLM's scheduler: particles wait for each other, and part ways by forking requests in place.

Engine argument: scheduler_cls="decoding.vllm_scheduler.ReweighScheduler". Every private touch point of the project with
vLLM's scheduler is in this file. What it overrides and why:
    add_request                   a request that carries an `Order` starts a group, as its row 0
    schedule                      rows that have their tokens are hidden until their group has committed, and groups whose
                                  constraint is being compiled until it is; the workers are told which particles ride on which row
    _update_request_with_output   a row's tokens go to its group; nothing is sent while it may still be replaced
    update_from_output            groups commit, rows are forked and retired, finished groups are sent
    _get_local_prefix_cache_hit   a fork starts from its parent's own KV blocks, the last one copied on write
    finish_requests               a group is aborted as a whole
A group is one request to the outside. Its particles share one row while their texts are equal (at first all of them, so that
the prompt is computed once; after resampling, the copies), and a fork is a request of the scheduler's own whose prompt is the
parent's text with another last token. Where the parent's blocks cannot be shared (it was preempted, prefix caching is off, the
cache is not one group of full attention) vLLM's ordinary prefix look-up finds what it can and the rest is computed again:
slower, never wrong.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from decoding.groups import Fork, Group, Status
from decoding.order import KEY, Order
from decoding.parent_watch import end_with_parent
from decoding.row_sampler import Post
from decoding.vllm_names import register_partial_rewards
from decoding.vllm_worker import POSTS, PREPARE, PREPARED, RIDERS, SPENT
from grammars.errors import EngineError
from grammars.registry import CACHED_CONSTRAINTS

# Specs the scheduler takes to be compiled where the model runs: fewer than are kept there.
PREPARED_KNOWN = CACHED_CONSTRAINTS // 2


@dataclass
class Run:
    """A group under way.

    origin    the request as it came
    ids       the request id of each row in the batch
    leaving   rows nobody rides on any more, whose blocks their forks still wait for
    began     when its first tokens came, seconds since the epoch, as vLLM's arrival_time is
    preparing whether its constraint is still being compiled
    """

    group: Group
    origin: Request
    ids: dict[int, str] = field(default_factory=dict)
    leaving: set[int] = field(default_factory=set)
    began: float | None = None
    preparing: bool = False


class ReweighScheduler(Scheduler):
    """vLLM's scheduler that also runs groups of particles."""

    running: list[Request]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refuse_unsound_settings()
        register_partial_rewards(self.vllm_config)
        end_with_parent()
        self.runs: dict[str, Run] = {}  # by the id of the request as it came, as are _touched and _leaving
        self._rows: dict[str, tuple[Run, int]] = {}
        self._fork_parents: dict[str, str] = {}
        self._posts: dict[tuple[str, int], list[Post]] = {}
        self._touched: dict[str, Run] = {}
        self._leaving: dict[str, Run] = {}
        self._unsent: list[tuple[int, EngineCoreOutput]] = []
        self._to_prepare: list[str] = []
        self._prepared: OrderedDict[str, None] = OrderedDict()
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
            (config.kv_transfer_config is not None, "a KV connector", "turn it off"),
        ):
            if wrong:
                raise EngineError(f"{what} and weighted sampling do not go together: {remedy}.")

    # Requests come and go

    def add_request(self, request: Request) -> None:
        order = Order.of(request.sampling_params)
        super().add_request(request)
        if order is None:
            return
        run = Run(Group(order), request)
        if order.num_particles > self.max_num_running_reqs:
            run.group.error = (
                "RequestError",
                f"particles={order.num_particles} is more than the engine's max_num_seqs={self.max_num_running_reqs}",
            )
        elif any(order.group == other.group.order.group for other in self.runs.values()):
            run.group.error = ("RequestError", f"group {order.group!r} is under way already: give each order its own")
        if run.group.error is not None:
            # It goes through one step as a plain request, since only a step has an output to bring the error.
            request.sampling_params = copy.copy(request.sampling_params)
            request.sampling_params.extra_args = None
        elif order.prepare and order.constraint is not None and order.constraint not in self._prepared:
            run.preparing = True
            self._to_prepare.append(order.constraint)
        self.runs[request.request_id] = run
        self._seat(run, 0, request.request_id)

    def _seat(self, run: Run, row: int, request_id: str) -> None:
        run.ids[row] = request_id
        self._rows[request_id] = run, row

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        """An abort of a group's request ends all its rows."""
        if request_ids is None:
            self._forget(list(self.runs.values()))
            return super().finish_requests(None, finished_status)
        ids = {request_ids} if isinstance(request_ids, str) else set(request_ids)
        runs = [self.runs[request_id] for request_id in ids if request_id in self.runs]
        for run in runs:
            ids.update(run.ids.values())
        self._forget(runs)
        return super().finish_requests(ids, finished_status)

    def _forget(self, runs: Iterable[Run]) -> None:
        for run in runs:
            for where in (self.runs, self._touched, self._leaving):
                where.pop(run.origin.request_id, None)
            for request_id in run.ids.values():
                self._rows.pop(request_id, None)
                self._fork_parents.pop(request_id, None)

    def _retire(self, run: Run, rows: Iterable[int]) -> None:
        """End rows: their blocks are free, or belong to those that share them."""
        ids = [run.ids.pop(row) for row in rows]
        for request_id in ids:
            del self._rows[request_id]
            self._fork_parents.pop(request_id, None)
        if ids:
            super().finish_requests(ids, RequestStatus.FINISHED_STOPPED)

    # The barrier

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        held_running = [request for request in self.running if self._is_held(request)]
        held_waiting = (
            [request for request in self.waiting if self._is_held(request)] if held_running or self.runs else []
        )
        # Rows that only leave their blocks to their forks take nobody's place.
        waiting_there = sum(not self._is_leaving(request) for request in held_running)
        if held_running:
            self.running = [request for request in self.running if not self._is_held(request)]
            self.max_num_active_reqs -= waiting_there
        if held_waiting:
            self.waiting.remove_requests(held_waiting)
        output = super().schedule(throttle_prefills)
        if held_running:
            self.running = held_running + self.running
            self.max_num_active_reqs += waiting_there
        for request in reversed(held_waiting):
            self.waiting.prepend_request(request)
        if held_running and not output.total_num_scheduled_tokens:
            self._make_room(held_running)
        self._let_leave()
        riders = {
            (run.group.order.group, row): run.group.riders[row]
            for run, row in filter(None, map(self._rows.get, output.num_scheduled_tokens))
            if run.group.error is None
        }
        if riders:
            setattr(output, RIDERS, riders)
            spent = {
                (run.group.order.group, row): run.group.spent(row)
                for run, row in filter(None, map(self._rows.get, output.num_scheduled_tokens))
                if run.group.order.adapt is not None and run.group.error is None
            }
            if spent:
                setattr(output, SPENT, spent)
        if self._to_prepare:
            setattr(output, PREPARE, self._to_prepare)
            self._to_prepare = []
        return output

    def _make_room(self, held: list[Request]) -> None:
        """The others cannot get blocks while held rows keep theirs: give some back, to be computed again later."""
        if self._leaving:
            for run in list(self._leaving.values()):
                self._retire(run, run.leaving)
                run.leaving = set()
            self._leaving = {}
            return
        victim = self.running.pop(self.running.index(held[-1]))
        self._preempt_request(victim, time.monotonic())

    def _let_leave(self) -> None:
        """Retire rows that stayed for their forks, once these have their blocks."""
        if not self._leaving:
            return
        waited_for = {self._fork_parents[request.request_id] for request in self.waiting if self._is_fork(request)}
        for name, run in list(self._leaving.items()):
            gone = {row for row in run.leaving if run.ids[row] not in waited_for}
            self._retire(run, gone)
            run.leaving -= gone
            if not run.leaving:
                del self._leaving[name]

    def _is_fork(self, request: Request) -> bool:
        return request.request_id in self._fork_parents and request.status is RequestStatus.WAITING

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.preemptions += 1
        super()._preempt_request(request, *args, **kwargs)

    def _is_held(self, request: Request) -> bool:
        """Whether a row waits for the others' tokens, or only stays for its forks."""
        where = self._rows.get(request.request_id)
        if where is None:
            return False
        run, row = where
        return run.preparing or run.group.holds(row) or row in run.leaving

    def _is_leaving(self, request: Request) -> bool:
        where = self._rows.get(request.request_id)
        return where is not None and where[1] in where[0].leaving

    # Tokens come in, groups commit

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        where = self._rows.get(request.request_id)
        if where is None:
            return super()._update_request_with_output(request, new_token_ids, is_stale)
        run, row = where
        self._touched[run.origin.request_id] = run
        if run.group.error is not None:
            return [], False
        posts = self._posts.get((run.group.order.group, row), [])
        if len(new_token_ids) != 1 or tuple(post.particle for post in posts) != run.group.riders.get(row):
            run.group.error = (
                "EngineError",
                "a token arrived without its weights: call collective_rpc('reweigh_install')",
            )
        else:
            run.group.post(row, posts, new_token_ids[0])
            request.append_output_token_ids(new_token_ids)
        return [], False

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        self._posts = getattr(model_runner_output, POSTS, {})
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        touched, self._touched = self._touched, {}
        for run in touched.values():
            if run.group.error is None and run.group.ready:
                self._commit(run)
            if run.group.finished:
                self._send(run)
                self._retire(run, list(run.ids))
                self._forget([run])
        self._take_prepared(getattr(model_runner_output, PREPARED, {}))
        for client, output in self._unsent:
            outputs.setdefault(client, EngineCoreOutputs()).outputs.append(output)
        self._unsent = []
        return outputs

    def _take_prepared(self, done: dict[str, tuple[str, str] | None]) -> None:
        """Let the groups go on whose constraint is compiled, and end those whose constraint cannot be."""
        if not done:
            return
        for spec in done:
            if done[spec] is None:
                self._prepared[spec] = None
                if len(self._prepared) > PREPARED_KNOWN:
                    self._prepared.popitem(last=False)
        for run in list(self.runs.values()):
            if run.preparing and run.group.order.constraint in done:
                run.preparing = False
                run.group.error = done[run.group.order.constraint]
                if run.group.error is not None:
                    self._send(run)
                    self._retire(run, list(run.ids))
                    self._forget([run])

    def _commit(self, run: Run) -> None:
        group = run.group
        run.began = run.began or time.time()
        step = group.commit()
        if group.finished:
            return
        if group.order.stream:
            self._unsent.append((run.origin.client_index, _news(run.origin, group)))
        for fork in step.forks:
            self._fork(run, fork)
        parents = {fork.parent for fork in step.forks}
        self._retire(run, [row for row in step.retired if row not in parents])
        run.leaving.update(row for row in step.retired if row in parents)
        if run.leaving:
            self._leaving[run.origin.request_id] = run

    def _send(self, run: Run) -> None:
        """Send what there is to know of a group that has ended."""
        group = run.group
        # All of a streamed text is out already but a last token that was kept.
        ended_by_token = group.status[0] in (Status.LENGTH, Status.STOP_STRING)
        tokens = group.tokens[0][-1:] if group.order.streams_tokens and ended_by_token else []
        cut = all(status is Status.LENGTH for status in group.status)
        reason = FinishReason.LENGTH if cut else FinishReason.STOP
        summary = {**group.summary(), "queued_s": (run.began or time.time()) - run.origin.arrival_time}
        self._unsent.append((run.origin.client_index, _output(run.origin, tokens, reason, {KEY: summary})))

    # Forks

    def _fork(self, run: Run, fork: Fork) -> None:
        """Add a row that goes on from the parent's text with another last token."""
        source, origin = self.requests[run.ids[fork.parent]], run.origin
        history = len(run.group.tokens[run.group.riders[fork.row][0]])
        params = copy.copy(origin.sampling_params)
        params.extra_args = run.group.order.forked(fork.row, history, fork.parent).extra_args()
        request = Request(
            request_id=f"{origin.request_id}/{fork.row}",
            prompt_token_ids=[*source.all_token_ids[:-1], fork.token],
            sampling_params=params,
            pooling_params=None,
            client_index=origin.client_index,
            arrival_time=origin.arrival_time,
            lora_request=origin.lora_request,
            cache_salt=origin.cache_salt,
            priority=origin.priority,
            trace_headers=origin.trace_headers,
        )
        # The parent's hashes are the child's, but for a block that its last token has filled: hashing all would cost the length.
        request.block_hashes = source.block_hashes[: (request.num_tokens - 1) // self.hash_block_size]
        request._block_hasher = source._block_hasher
        request.update_block_hashes()
        request.prefill_stats = None
        self.requests[request.request_id] = request
        self.waiting.prepend_request(request)
        self._seat(run, fork.row, request.request_id)
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


def _news(origin: Request, group: Group) -> EngineCoreOutput:
    """What a streamed group has to tell after a step: its new token, or of several particles how far they are."""
    if group.order.streams_tokens:
        return _output(origin, group.tokens[0][-1:], None, None)
    progress = {"step": group.steps, "live": len(group.live), "ess": group.population.ess}
    return _output(origin, [], None, {KEY: progress})


def _output(
    request: Request, tokens: list[int], reason: FinishReason | None, summary: dict[str, Any] | None
) -> EngineCoreOutput:
    return EngineCoreOutput(
        request_id=request.request_id, new_token_ids=list(tokens), finish_reason=reason, kv_transfer_params=summary
    )
