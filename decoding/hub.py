"""Whether a model is to be had by its hub name: asked once and soon, where loading it would try for minutes."""

from __future__ import annotations

import os

from grammars.errors import EngineError

TIMEOUT_S = 10.0


def require_hub_model(name: str) -> None:
    """Return if a model is in the local cache or on the hub; raises EngineError naming the cause and the remedy.

    name  such as org/model
    """
    if os.environ.get("VLLM_USE_MODELSCOPE", "0").lower() in ("1", "true"):
        return  # another hub, which vLLM asks by itself
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    remedy = "give a folder with a model, another hub name, or none for the embedded one"
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
            return
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise EngineError(f"model {name!r} is not in the cache, and HF_HUB_OFFLINE is set: {remedy}")
        huggingface_hub.HfApi().model_info(name, timeout=TIMEOUT_S)
    except EngineError:
        raise
    except HFValidationError as error:
        raise EngineError(f"model {name!r} is no folder, and no hub name either: {error}; {remedy}") from error
    except GatedRepoError as error:
        raise EngineError(f"model {name!r} is gated: log in with an account that may read it, or {remedy}") from error
    except RepositoryNotFoundError as error:
        raise EngineError(f"model {name!r}: there is no such folder, and no such model on the hub; {remedy}") from error
    except Exception as error:  # whatever keeps the hub from answering
        raise EngineError(
            f"model {name!r} is neither a folder nor in the cache, and the hub does not answer ({type(error).__name__}): {remedy}"
        ) from error
