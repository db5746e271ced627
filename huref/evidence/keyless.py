"""Keyless signatures through sigstore: a certificate for an identity instead of a key.

Needs huref[keyless], a network in which sigstore's servers answer, and an identity: the token of a
CI job, or a browser to log in with.
"""

import json
from dataclasses import dataclass
from typing import Any

from huref.errors import EvidenceError, NetworkError, one_line

EXTRA = "pip install 'huref[keyless]', or sign with --key"
BUNDLE = "application/vnd.dev.sigstore.bundle"


@dataclass(frozen=True)
class KeylessSigner:
    """An identity with sigstore's servers.

    Attributes:
        context: sigstore's SigningContext.
        token: sigstore's IdentityToken.
    """

    context: Any
    token: Any

    @staticmethod
    def start() -> "KeylessSigner":
        """Fetch sigstore's trust root, and an identity.

        Raises:
            EvidenceError: sigstore is not installed, or there is no identity.
            NetworkError: sigstore's servers do not answer.
        """
        try:
            from sigstore.models import ClientTrustConfig
            from sigstore.oidc import IdentityToken, Issuer, detect_credential
            from sigstore.sign import SigningContext
        except ImportError as error:
            raise EvidenceError("signing without --key needs sigstore", advice=EXTRA) from error
        try:
            trust = ClientTrustConfig.production()
            context = SigningContext.from_trust_config(trust)
            found = detect_credential()
            if found:
                return KeylessSigner(context, IdentityToken(found))
            issuer = Issuer(trust.signing_config.get_oidc_url())
            return KeylessSigner(context, issuer.identity_token())
        except Exception as error:
            raise _explain(error) from error


def sign_keyless(payload: bytes, signer: KeylessSigner) -> tuple[str, str]:
    """A sigstore bundle around the DSSE envelope of a payload, and who signed it.

    Raises:
        NetworkError: sigstore's servers do not answer.
        EvidenceError: they refuse.
    """
    from sigstore.dsse import Statement

    try:
        with signer.context.signer(signer.token) as session:
            bundle = session.sign_dsse(Statement(payload))
        return bundle.to_json() + "\n", str(signer.token.identity)
    except Exception as error:
        raise _explain(error) from error


def is_bundle(value: object) -> bool:
    """Whether a JSON value is a sigstore bundle."""
    return isinstance(value, dict) and str(value.get("mediaType", "")).startswith(BUNDLE)


def verify_bundle(value: dict[str, Any], identity: str, issuer: str) -> tuple[str, bytes] | None:
    """The payload's type and bytes of a bundle that an identity signed; None if it did not.

    Raises:
        EvidenceError: sigstore is not installed, or the bundle is damaged.
        NetworkError: sigstore's trust root cannot be fetched.
    """
    try:
        from sigstore.errors import VerificationError
        from sigstore.models import Bundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity
    except ImportError as error:
        raise EvidenceError("this signature needs sigstore", advice=EXTRA) from error
    try:
        bundle = Bundle.from_json(json.dumps(value))
        kind, payload = Verifier.production().verify_dsse(
            bundle, Identity(identity=identity, issuer=issuer)
        )
    except VerificationError:
        return None
    except Exception as error:
        raise _explain(error) from error
    return str(kind), bytes(payload)


def _explain(error: Exception) -> EvidenceError | NetworkError:
    """Any error of sigstore in one line: its client raises those of five other packages."""
    reason = one_line(error)[:200] or type(error).__name__
    chain: BaseException | None = error
    while chain is not None:
        kind = f"{type(chain).__module__}.{type(chain).__name__}".lower()
        if isinstance(chain, OSError) or any(
            word in kind for word in ("connection", "download", "timeout", "tuf")
        ):
            return NetworkError(
                f"sigstore's servers cannot be reached ({reason})", advice="sign with --key"
            )
        chain = chain.__cause__ or chain.__context__
    return EvidenceError(f"sigstore gives no signature ({reason})", advice="sign with --key")
