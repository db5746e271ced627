"""Translates the Hub client's exceptions into errors that a user can act on."""

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
    """The HurefError for an exception of the Hub's client; `repo` becomes its model."""
    page = f"{constants.ENDPOINT}/{repo}"
    # Subclasses first.
    if isinstance(error, GatedRepoError):
        return AccessError(
            "the repository is gated",
            model=repo,
            advice=f"ask for access at {page}, then run 'hf auth login' or set HF_TOKEN",
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFoundError(
            "there is no such revision", model=repo, advice=f"see {page}/tree/main"
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFoundError(
            "there is no such folder or Hub repository, or the repository is private",
            model=repo,
            advice="if it is private, run 'hf auth login' or set HF_TOKEN",
        )
    if isinstance(error, HFValidationError):
        return ModelNotFoundError("it is neither a folder nor a valid Hub id", model=repo)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return NetworkError(
            f"the Hub answered with status {status}", model=repo, advice="try again later"
        )
    return NetworkError(
        f"the Hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__})",
        model=repo,
        advice="check the connection, or give a local folder",
    )
