"""An export on the hub of Hugging Face; huggingface_hub does the work, and knows the token."""

from pathlib import Path

from mufin_jax.runtime.errors import InputError, reason

_LEFT_OUT = ["compiled/*", "catalogue/lock", "*.tmp"]
"""What a folder gains when it is used."""


def check_name(name: str) -> None:
    """Raise InputError unless a name has the form USER/NAME, which the hub accepts."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise InputError(f"--push-to-hub={name!r:.80}: expected USER/NAME")


def push(folder: Path, name: str, public: bool = False) -> str:
    """Upload an export and return its address; files of the same name are replaced.

    Args:
        folder: of the export.
        name: USER/NAME; made if it is not there.
        public: whether everybody sees a repository that is made.

    Raises:
        InputError: if the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, get_token

    check_name(name)
    api = HfApi()
    try:
        made = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message="mufin export",
            ignore_patterns=_LEFT_OUT,
        )
    except Exception as error:  # of the hub's client and of whatever carries it, a dozen types
        found = reason(error)
        if token := get_token():
            found = found.replace(token, "...")
        raise InputError(
            f"{name}: the hub did not take the export ({type(error).__name__}: {found}); "
            f"{_advice(error)}; {folder} is complete, and `mufin export {folder} "
            f"--push-to-hub={name}` tries again"
        ) from None
    return str(made)


def _advice(error: Exception) -> str:
    """Return what to do about an error of the hub."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "unset HF_HUB_OFFLINE"
    if isinstance(error, HfHubHTTPError | LocalTokenNotFoundError):
        return "log in with a token that may write there (`hf auth login`, or HF_TOKEN)"
    return "check the network"
