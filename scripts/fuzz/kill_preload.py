"""Imported once by the server from which `scripts.fuzz.kill` forks the processes that it kills."""

import rfc3161_client  # noqa: F401

import huref.api.attest
import huref.api.fingerprint
import huref.cli.main
import huref.registry.fleet.run
import huref.registry.identify  # noqa: F401
