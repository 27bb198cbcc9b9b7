"""Starts vLLM's API server with reweigh's scheduler, processor, worker extension and endpoints in it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from grammars.errors import EngineError, ReweighError
from server.cli_errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.cli_serve import Told

# Quiet but for errors; /health answers 503 after the engine has died, instead of nothing; spawn, as vLLM's own command.
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
PLUGIN = "reweigh"


def serve(model: str | None, vllm_arguments: Sequence[str], told: Told) -> None:
    """Serve until a signal. vllm_arguments: for vLLM's own parser. Raises EngineError where the engine does not start."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Keys are the guard's business: vLLM's own check guards less, and answers without the error object.
    os.environ.pop("VLLM_API_KEY", None)
    os.environ["VLLM_PLUGINS"] = ",".join(
        {*os.environ.get("VLLM_PLUGINS", _installed_plugins()).split(","), PLUGIN} - {""}
    )

    from decoding.adaptation.signals import signal_named
    from decoding.potentials import partial_at
    from decoding.vllm_check import require_vllm
    from grammars.named import register_from

    # What an operator has named wrongly is told before vLLM and a model are loaded.
    register_from(told.places, told.databases)
    for name, place in told.partial_rewards.items():
        partial_at(name, place)
    for name, place in told.signals.items():
        try:
            signal_named(place)
        except ReweighError as error:
            raise UsageError(f"--signal {name}: {error}") from error
    require_vllm()
    args = _arguments(model, vllm_arguments, told)
    import uvloop

    uvloop.run(_serve(args, told))


def _installed_plugins() -> str:
    """vLLM's other plugins: it loads them all where it is told of none, and none but those it is told of."""
    groups = ("general_plugins", "platform_plugins", "io_processor_plugins", "stat_logger_plugins")
    return ",".join(point.name for group in groups for point in entry_points(group=f"vllm.{group}"))


def _arguments(model: str | None, given: Sequence[str], told: Told) -> Any:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from decoding.embedded_model import embedded_model_path
    from decoding.engine import engine_defaults, existing_model

    parser = make_arg_parser(FlexibleArgumentParser(prog="reweigh serve"))
    parser.set_defaults(
        **engine_defaults(),
        host="127.0.0.1",
        shutdown_timeout=30,
        uvicorn_log_level="warning",
        disable_uvicorn_access_log=True,
        model=str(embedded_model_path()) if model is None else existing_model(model),
    )
    args = parser.parse_args(list(given))
    if args.served_model_name is None:
        args.served_model_name = ["smollm2-135m-instruct"] if model is None else [model]
    validate_parsed_serve_args(args)
    if (getattr(args, "api_server_count", None) or 1) > 1:
        raise UsageError("several API servers are not supported: --data-parallel-size makes several engines behind one")
    args.reweigh = told
    args.middleware = [*args.middleware, "server.guard.Guard"]
    return args


async def _serve(args: Any, told: Told) -> None:
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve
    from vllm.entrypoints.launchers.launcher import setup_server

    try:
        address, sock = setup_server(args, reuse_port=False)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {args.host}:{args.port}: {error.strerror}; choose another --port"
        ) from error
    try:
        async with _engine(args, told) as client:
            ready = asyncio.create_task(_say_ready(address, args))
            try:
                shutdown = await build_and_serve(client, address, sock, args)
            finally:
                ready.cancel()
        await shutdown
    finally:
        sock.close()


@asynccontextmanager
async def _engine(args: Any, told: Told) -> AsyncIterator[Any]:
    """The engine in its own processes, with reweigh's parts in it."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from decoding.vllm_driver import add_processor, sound_engine_args
    from decoding.vllm_names import with_names
    from decoding.vllm_vocabulary import vocabulary_of

    asked, plain = AsyncEngineArgs.from_cli_args(args), AsyncEngineArgs()
    given = {name: value for name, value in vars(asked).items() if value != getattr(plain, name, None)}
    # Statistics are what /metrics shows.
    sound = sound_engine_args({"disable_log_stats": asked.disable_log_stats, **given})
    sound["additional_config"] = with_names(asked.additional_config, told.places, told.databases, told.partial_rewards)
    # Set in place: vLLM's routes read what it notes in parts of the arguments, such as the reasoning parser's name.
    for name, value in sound.items():
        setattr(asked, name, value)
    try:
        config = asked.create_engine_config()
        # A tokenizer that cannot be read, or a reasoning parser that does not fit it, is told before a model is loaded.
        vocabulary_of(config)
        add_processor(config)
        client = AsyncLLM.from_vllm_config(config, disable_log_stats=sound["disable_log_stats"])
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"the engine did not start: {type(error).__name__}: {error}") from error
    try:
        yield client
    finally:
        client.shutdown()


async def _say_ready(address: str, args: Any) -> None:
    """Print one line once requests are answered."""
    import httpx

    transport = httpx.AsyncHTTPTransport(uds=args.uds) if args.uds else None
    verify = args.ssl_certfile is None
    async with httpx.AsyncClient(transport=transport, verify=verify) as client:
        url = "http://localhost" if args.uds else address
        while True:
            try:
                if (await client.get(f"{url}/health")).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.1)
    print(f"reweigh: ready at {address} (model {args.served_model_name[0]})", file=sys.stderr, flush=True)
