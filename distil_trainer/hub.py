"""Push a finished model folder to the Hub, and find out before the long work starts whether that will be possible."""

import contextlib
import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, validate_repo_id

from distil_trainer.export.staging import code_files

# What of a folder's top level belongs to the model, and the one subfolder that is pushed whole. A list of what to
# push, not of what to leave out: a run folder may hold checkpoints, logs, caches, other models and the user's data.
PUSHED_FILES = (
    "README.md",
    "LICENSE*",
    "report.json",
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.png",
    "*.svg",
)
PUSHED_FOLDER = "onnx"

# The base class of the HTTP library's own errors: `requests` in huggingface_hub 0.x, `httpx` in 1.x, `httpx2` in 2.x.
_HTTPError = HfHubHTTPError.__bases__[0]


def check_can_push(repo_id, *, repo_type="model", private=False, token=None):
    """Check that a repository can be written to, and create it if it does not exist.

    Call it before the long work, in one process only. It costs four small requests and commits nothing.

    Args:
        repo_id (`str`): `"namespace/name"`, or `"name"` in the user's own namespace.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"dataset"`.
        private (`bool`, *optional*, defaults to `False`): create the repository as private.
        token (`str`, *optional*): a token that may write; by default the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: the full id, `"namespace/name"`.

    Raises:
        ValueError: if `repo_id` is not a legal id, or `private` is asked for and the repository exists and is public.
        PermissionError: if there is no token, or it is refused, or it may not write to the repository.
        ConnectionError: if the Hub cannot be reached or fails to answer.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"repo_id={repo_id!r} is not the id of a repository ({error}). Give 'name' or 'namespace/name' in "
            "letters, digits, '-', '_' and '.'."
        ) from error
    api = HfApi(token=token)
    with _explained(repo_id, api.endpoint):
        user_name = api.whoami()["name"]
        repo_id = repo_id if "/" in repo_id else f"{user_name}/{repo_id}"
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        # `create_repo` accepts an existing repository that the token may only read, so the right to write is asked for
        # by itself: `HfApi.auth_check(write=True)`, which huggingface_hub 0.x does not have yet.
        address = f"{api.endpoint}/api/{repo_type}s/{repo_id}/auth-check/write"
        hf_raise_for_status(get_session().get(address, headers=build_hf_headers(token=token)))
        is_public = not api.repo_info(repo_id, repo_type=repo_type).private
    if private and is_public:
        raise ValueError(
            f"private=True, but the {repo_type} repository {repo_id!r} exists and is public: everything pushed to it "
            "could be read by anyone. Make it private in its settings on the Hub, or choose another repo_id."
        )
    return repo_id


def push_model_folder(folder, repo_id, *, private=False, token=None, commit_message="Upload distilled model"):
    """Push a finished model folder as one commit: the model, its tokenizer, `onnx/`, card, report and plots.

    Pushed are the files of the top level that match `PUSHED_FILES`, the Python files that the configurations refer to
    (a student's own code) and everything below `onnx/`. All else stays: checkpoints, optimizer and trainer states,
    logs, caches, data, scripts, hidden files, temporary files (`.tmp` in the name).

    Args:
        folder (`str` or `Path`): holds `config.json` and `README.md`, the card.
        repo_id (`str`): `"namespace/name"`, or `"name"` in the user's own namespace. Created if it does not exist.
        private (`bool`, *optional*, defaults to `False`): create the repository as private.
        token (`str`, *optional*): a token that may write; by default the one of `hf auth login` or `HF_TOKEN`.
        commit_message (`str`, *optional*, defaults to `"Upload distilled model"`): first line of the commit's message.

    Returns:
        `str`: the address of the commit.

    Raises:
        FileNotFoundError: if `folder` has no `config.json` or no `README.md`.
        ValueError: as `check_can_push`.
        PermissionError: as `check_can_push`.
        ConnectionError: as `check_can_push`. Nothing is committed then; large files that
            were sent are not sent again by a second call.

    Example:
        ```python
        repo_id = check_can_push("me/tiny-sst2")  # before the training
        ...
        push_model_folder("out", repo_id)
        ```
    """
    folder = Path(folder)
    missing = [name for name in ("config.json", "README.md") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"folder={str(folder)!r} has no {' and no '.join(missing)}, so it is not a finished model folder: what "
            "would be pushed could not be loaded by its id, or would not say what it is. Give the output folder of a "
            "finished run."
        )
    repo_id = check_can_push(repo_id, private=private, token=token)
    additions = [CommitOperationAdd(path, folder / path) for path in _paths_to_push(folder)]
    api = HfApi(token=token)
    with _explained(repo_id, api.endpoint):
        # Not `upload_folder`: with huggingface_hub 2 it may commit a slow upload in parts, and a reader could meet a
        # new model beside an old tokenizer.
        return api.create_commit(repo_id, additions, commit_message=commit_message).commit_url


def _paths_to_push(folder):
    """List the files to push, relative to the folder."""
    patterns = [*PUSHED_FILES, *code_files(folder)]
    top = [path for path in folder.iterdir() if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)]
    relative = [path.relative_to(folder) for path in [*top, *(folder / PUSHED_FOLDER).rglob("*")] if path.is_file()]
    return sorted(path.as_posix() for path in relative if not any(map(_is_scratch, path.parts)))


def _is_scratch(name):
    return name.startswith((".", "__")) or ".tmp" in name or name.endswith("~")


@contextlib.contextmanager
def _explained(repo_id, endpoint):
    """Turn the clients' errors into ones that say what to do."""
    later = f"or run without pushing and call push_model_folder(folder, {repo_id!r}) later."
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError(
            f"No token for {endpoint}, so {repo_id!r} cannot be pushed to. Run `hf auth login`, set HF_TOKEN, {later}"
        ) from error
    except (_HTTPError, OSError) as error:
        response = getattr(error, "response", None)
        status = None if response is None else response.status_code
        if status == 401:
            raise PermissionError(
                f"{endpoint} refused the token (status 401), so {repo_id!r} cannot be pushed to. Make a token that "
                f"may write at {endpoint}/settings/tokens and log in with it (HF_TOKEN, if set, goes before a stored "
                f"one), {later}"
            ) from error
        if status == 403:
            raise PermissionError(
                f"The token may not write to {repo_id!r} on {endpoint} (status 403). Choose a repo_id in a "
                f"namespace that is yours, use a token with the right to write, {later}"
            ) from error
        reason = f"answered with status {status}" if status else f"cannot be reached ({error})"
        raise ConnectionError(
            f"{endpoint} {reason}, so {repo_id!r} cannot be pushed to. Check the network, HF_ENDPOINT and "
            f"HF_HUB_OFFLINE, {later}"
        ) from error
