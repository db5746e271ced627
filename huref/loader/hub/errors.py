"""What the Hub's client raises, in words that a user can act on."""

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from huref.errors import AccessError, HurefError, ModelNotFoundError, NetworkError


def explain(error: Exception, repo: str) -> HurefError:
    """The user's view of what the Hub's client raised. Order matters: subclasses first."""
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, GatedRepoError):
        return AccessError(
            f"{repo} is gated: ask for access at {page}, then run 'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFoundError(f"{repo} has no such revision; see {page}/tree/main")
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFoundError(
            f"there is no folder and no Hub repository '{repo}' (or it is private: run "
            "'hf auth login' or set HF_TOKEN)"
        )
    if isinstance(error, HFValidationError):
        return ModelNotFoundError(f"'{repo}' is neither a folder nor a valid Hub id")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return NetworkError(f"{repo}: the Hub answered with status {status}; try again later")
    return NetworkError(
        f"{repo}: the Hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__}); "
        "check the connection, or give a local folder"
    )
